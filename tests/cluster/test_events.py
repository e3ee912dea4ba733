"""Events as the API server takes them and as `kubectl` shows them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator

import pytest

from cloudtaser.kube.client import KubeApi
from cloudtaser.kube.events import BURST, EventRecorder, Occurrence
from cloudtaser.kube.kinds import CONFIG_MAPS
from tests.chain_tools import eventually
from tests.cluster.accounts import account, client, namespace
from tests.cluster.control_plane import ControlPlane

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.anywhere,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(600),
]

WHERE = "events"
RULES = [
    {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
    {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]},
]


@contextlib.asynccontextmanager
async def recording(kube: KubeApi) -> AsyncIterator[EventRecorder]:
    recorder = EventRecorder(kube, instance="cloudtaser-operator-0", update_seconds=0.05)
    stop = asyncio.Event()
    task = asyncio.ensure_future(recorder.run(stop))
    try:
        yield recorder
    finally:
        stop.set()
        await task


async def happened(kube: KubeApi, name: str) -> Occurrence:
    """Something that happened to a ConfigMap of this name."""
    made = await kube.create_object(CONFIG_MAPS, {"metadata": {"namespace": WHERE, "name": name}})
    uid = made["metadata"]["uid"]
    return Occurrence(WHERE, "ConfigMap", name, uid, "v1", "InjectionFailed", "the role is missing")


async def test_what_happens_again_is_one_event_with_a_count(control_plane: ControlPlane) -> None:
    await namespace(control_plane, WHERE)
    token = await account(control_plane, WHERE, "recorder", RULES)
    async with client(control_plane, token) as kube, recording(kube) as recorder:
        occurrence = await happened(kube, "again")
        for _ in range(50):
            recorder.record(occurrence)
            await asyncio.sleep(0)
        async with asyncio.timeout(180):
            await recorder.flush()

        async def counted() -> bool:
            found = (await control_plane.get("events.events.k8s.io", "-n", WHERE))["items"]
            mine = [item for item in found if item["regarding"]["name"] == "again"]
            return [item.get("series", {}).get("count") for item in mine] == [50]

        await eventually(counted, "one event with a count of 50", timeout=180, every=0.2)
        assert (recorder.posted, recorder.dropped) == (1, 0)
        described = await control_plane.kubectl("describe", "configmap", "again", "-n", WHERE)
        assert "InjectionFailed" in described
        assert "the role is missing" in described
        ours = await control_plane.kubectl(
            *("get", "events", "-A", "--field-selector", "reportingComponent=cloudtaser.io/operator"),
            *("-o", "jsonpath={.items[*].involvedObject.name}"),
        )
        assert "again" in ours.split()


async def test_a_flood_about_one_object_is_bounded_and_others_are_heard(control_plane: ControlPlane) -> None:
    await namespace(control_plane, WHERE)
    token = await account(control_plane, WHERE, "recorder", RULES)
    async with client(control_plane, token) as kube, recording(kube) as recorder:
        noisy, other = await happened(kube, "noisy"), await happened(kube, "other")
        for number in range(500):
            recorder.record(dataclasses.replace(noisy, reason=f"Reason{number}"))
        recorder.record(dataclasses.replace(other, message="é" * 2000, reason="R" * 500))
        async with asyncio.timeout(180):
            await recorder.flush()
        assert recorder.posted == BURST + 1
        assert recorder.dropped == 500 - BURST
        found = (await control_plane.get("events.events.k8s.io", "-n", WHERE))["items"]
        assert sum(item["regarding"]["name"] == "noisy" for item in found) == BURST
        assert sum(item["regarding"]["name"] == "other" for item in found) == 1
