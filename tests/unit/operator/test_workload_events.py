"""What happens to a pod is told on its workload, once, whoever makes the pods."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

from cloudtaser.kube.errors import KubeForbiddenError, NotFoundError
from cloudtaser.kube.events import Occurred, Occurrence
from cloudtaser.kube.kinds import Kind
from cloudtaser.operator.workload_events import MAX_WAITING, WorkloadEvents
from tests.unit.operator.rig import eventually

POD = Occurrence("shop", "Pod", "web-1", "u-pod", "v1", "NotUnsealed", "no token")
OWNERS = {
    "web-1": ("apps/v1", "ReplicaSet", "web-abc"),
    "web-abc": ("apps/v1", "Deployment", "web"),
    "db-0": ("apps/v1", "StatefulSet", "db"),
    "job-1": ("batch/v1", "Job", "job"),
    "job": ("batch/v1", "CronJob", "nightly"),
}


class World:
    """An API server that knows owners, and the sink behind."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, str]] = []
        self.asked: list[str] = []

    def record(self, occurrence: Occurred) -> None:
        self.told.append((occurrence.kind, occurrence.name, occurrence.message))

    async def get_object(
        self, kind: Kind, namespace: str | None, name: str, *, metadata_only: bool = False
    ) -> dict[str, Any]:
        assert metadata_only
        self.asked.append(name)
        if name == "secret":
            raise KubeForbiddenError("not permitted")
        if name == "gone":
            raise NotFoundError("gone")
        owner = OWNERS.get(name)
        references = (
            [{"apiVersion": owner[0], "kind": owner[1], "name": owner[2], "uid": "u", "controller": True}]
            if owner
            else [{"apiVersion": "v1", "kind": "Something", "name": "else", "uid": "u"}]
        )
        uid = "u" if kind.name != "Pod" else "u-pod"
        return {"metadata": {"uid": uid, "ownerReferences": references}}


@contextlib.asynccontextmanager
async def telling(world: World) -> AsyncIterator[WorkloadEvents]:
    events, stop = WorkloadEvents(world, world), asyncio.Event()
    task = asyncio.ensure_future(events.run(stop))
    yield events
    stop.set()
    await task


async def test_a_pods_event_is_on_its_deployment_too() -> None:
    world = World()
    async with telling(world) as events:
        events.record(POD)
        assert world.told == [("Pod", "web-1", "no token")]
        await eventually(lambda: len(world.told) == 2, "the workload's")
        assert world.told[1] == ("Deployment", "web", "Pod web-1: no token")
        events.record(POD)
        await eventually(lambda: len(world.told) == 4, "again")
    assert world.asked == ["web-1", "web-abc"]  # known from then on


async def test_each_kind_of_workload_is_found() -> None:
    world = World()
    async with telling(world) as events:
        events.record(dataclasses.replace(POD, name="db-0"))
        events.record(dataclasses.replace(POD, name="job-1"))
        events.record(Occurrence("shop", "ReplicaSet", "web-abc", "u", "apps/v1", "R", "refused"))
        await eventually(lambda: len(world.told) == 6, "all workloads'")
    assert set(world.told[3:]) == {
        ("StatefulSet", "db", "Pod db-0: no token"),
        ("CronJob", "nightly", "Pod job-1: no token"),
        ("Deployment", "web", "refused"),
    }


async def test_what_nobody_made_or_cannot_be_asked_about_stays_as_it_is() -> None:
    world = World()
    async with telling(world) as events:
        for name in ("alone", "secret", "gone"):
            events.record(dataclasses.replace(POD, name=name))
        events.record(dataclasses.replace(POD, uid="another"))
        events.record(dataclasses.replace(POD, kind="Deployment", api_version="apps/v1"))
        events.record(dataclasses.replace(POD, name="db-0"))
        await eventually(lambda: ("StatefulSet", "db", "Pod db-0: no token") in world.told, "the last")
    assert len(world.told) == 7


async def test_a_flood_stays_with_the_pods() -> None:
    world = World()
    events = WorkloadEvents(world, world)
    for number in range(2 * MAX_WAITING):
        events.record(dataclasses.replace(POD, name=f"p{number}"))
    assert len(world.told) == 2 * MAX_WAITING
    assert len(events._waiting) == MAX_WAITING
