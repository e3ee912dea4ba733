"""One replica at a time runs the controllers, stops them before another begins, and hands over when told."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cloudtaser.kube.errors import ConflictError, KubeUnavailableError, NotFoundError
from cloudtaser.kube.kinds import Kind
from cloudtaser.operator.leadership import Leadership
from tests.unit.operator.rig import eventually


class Store:
    """Leases with compare-and-swap, as an API server keeps them."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.broken = False
        self.writes = 0

    def check(self) -> None:
        if self.broken:
            raise KubeUnavailableError("the API server is away")

    async def get_object(self, kind: Kind, namespace: str | None, name: str) -> dict[str, Any]:
        self.check()
        if self.lease is None:
            raise NotFoundError("none")
        return copy.deepcopy(self.lease)

    async def create_object(self, kind: Kind, body: dict[str, Any]) -> dict[str, Any]:
        self.check()
        if self.lease is not None:
            raise ConflictError("it is there")
        return self._store(body)

    async def replace_object(self, kind: Kind, body: dict[str, Any]) -> dict[str, Any]:
        self.check()
        assert self.lease is not None
        if body["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise ConflictError("it changed")
        return self._store(body)

    def _store(self, body: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        self.writes += 1
        self.lease = copy.deepcopy(body)
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        return copy.deepcopy(self.lease)


class Work:
    """A controller that says when it runs, and notices when two of its kind do."""

    running = 0

    def __init__(self, *, deaf: bool = False) -> None:
        self.deaf = deaf
        self.began = 0
        self.fail = False

    async def run(self, stop: asyncio.Event) -> None:
        self.began += 1
        Work.running += 1
        assert Work.running == 1
        try:
            if self.fail:
                self.fail = False
                raise RuntimeError("a fault")
            if self.deaf:
                await asyncio.Event().wait()
            await stop.wait()
        finally:
            Work.running -= 1


class Replicas:
    def __init__(self) -> None:
        self.store = Store()
        self.running: list[tuple[Leadership, Work, asyncio.Event, asyncio.Task[None]]] = []

    def add(self, name: str, *, deaf: bool = False) -> tuple[Leadership, Work]:
        leadership, work, stop = (
            Leadership(self.store, "ns", name, seconds=3),
            Work(deaf=deaf),
            asyncio.Event(),
        )
        leadership.add("work", work)
        self.running.append((leadership, work, stop, asyncio.ensure_future(leadership.run(stop))))
        return leadership, work

    async def stop(self, leadership: Leadership) -> None:
        one = next(one for one in self.running if one[0] is leadership)
        self.running.remove(one)
        one[2].set()
        await asyncio.wait_for(one[3], 20)

    async def kill(self, leadership: Leadership) -> None:
        """As kill -9: nothing is released."""
        one = next(one for one in self.running if one[0] is leadership)
        self.running.remove(one)
        leadership._release = asyncio.Event().wait  # type: ignore[assignment,method-assign]
        one[3].cancel()
        await asyncio.gather(one[3], return_exceptions=True)


@pytest.fixture
async def replicas() -> AsyncIterator[Replicas]:
    Work.running = 0
    replicas = Replicas()
    yield replicas
    for leadership, *_ in list(replicas.running):
        await replicas.stop(leadership)


async def test_one_of_three_leads_and_runs_the_work(replicas: Replicas) -> None:
    three = [replicas.add(name) for name in "abc"]
    await eventually(lambda: any(one.held for one, _ in three), "one leads")
    await eventually(lambda: sum(work.began for _, work in three) == 1, "its work runs")
    assert sum(one.held for one, _ in three) == 1
    leader = next(one for one, _ in three if one.held)
    await eventually(lambda: {one.leader for one, _ in three} == {leader.leader}, "all know who")
    await asyncio.wait_for(leader.wait(), 1)


async def test_told_to_stop_it_hands_over_without_waiting_for_its_lease_to_run_out(
    replicas: Replicas,
) -> None:
    first, _ = replicas.add("a")
    await eventually(lambda: first.held, "a leads")
    second, work = replicas.add("b")
    await replicas.stop(first)
    assert replicas.store.lease is not None
    assert replicas.store.lease["spec"]["holderIdentity"] in ("", "b")
    await eventually(lambda: second.held and work.began == 1, "b leads")


async def test_one_that_is_killed_is_succeeded_when_its_lease_runs_out(replicas: Replicas) -> None:
    first, _ = replicas.add("a")
    await eventually(lambda: first.held, "a leads")
    second, work = replicas.add("b")
    await replicas.kill(first)
    assert replicas.store.lease is not None
    assert replicas.store.lease["spec"]["holderIdentity"] == "a"
    await eventually(lambda: second.held and work.began == 1, "b leads", timeout=20)
    assert replicas.store.lease["spec"]["leaseTransitions"] == 1


@pytest.mark.parametrize("deaf", [False, True])
async def test_without_an_api_server_a_leader_stops_its_work_before_its_lease_runs_out(
    replicas: Replicas, deaf: bool
) -> None:
    first, work = replicas.add("a", deaf=deaf)
    await eventually(lambda: first.held and work.began == 1, "a leads")
    replicas.store.broken = True
    await eventually(lambda: not first.held and Work.running == 0, "it stops", timeout=20)
    replicas.store.broken = False
    await eventually(lambda: first.held and work.began == 2, "it leads again", timeout=20)


async def test_a_controller_that_fails_is_begun_anew(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloudtaser.operator.leadership.RESTART_SECONDS", 0.01)
    first, work = replicas.add("a")
    work.fail = True
    await eventually(lambda: work.began == 2, "twice")
    assert first.held


async def test_what_the_leader_publishes_all_others_read(replicas: Replicas) -> None:
    first, _ = replicas.add("a")
    await eventually(lambda: first.held, "a leads")
    second, _ = replicas.add("b")
    first.publish("cloudtaser.io/x", "1")
    await eventually(lambda: second.annotations.get("cloudtaser.io/x") == "1", "b reads it")
