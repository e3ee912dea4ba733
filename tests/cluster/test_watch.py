"""The reflector against a real API server: what it knows is what is there, whatever happened on the way."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from cloudtaser.kube.client import KubeApi
from cloudtaser.kube.kinds import CONFIG_MAPS, Kind
from cloudtaser.kube.transport import Json
from cloudtaser.kube.verbs import WatchEvent
from cloudtaser.kube.watch import Changes, Reflector
from tests.chain_tools import eventually
from tests.cluster.accounts import account, client, namespace
from tests.cluster.control_plane import ControlPlane

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

RULES = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]}]
_numbers = itertools.count(1)


class Held(KubeApi):
    """The API client, with a door before its watches."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.door = asyncio.Event()
        self.door.set()
        self.watches = 0

    async def watch_objects(
        self, kind: Kind, namespace: str | None = None, **keywords: Any
    ) -> AsyncGenerator[WatchEvent, None]:
        await self.door.wait()
        self.watches += 1
        async with contextlib.aclosing(super().watch_objects(kind, namespace, **keywords)) as events:
            async for event in events:
                yield event


@pytest_asyncio.fixture(loop_scope="session")
async def where(control_plane: ControlPlane) -> str:
    return await namespace(control_plane, f"watch-{next(_numbers)}")


@pytest_asyncio.fixture(loop_scope="session")
async def kube(control_plane: ControlPlane, where: str) -> AsyncIterator[Held]:
    token = await account(control_plane, where, "watcher", RULES)
    ca = str(control_plane.identities.ca)
    async with Held(control_plane.server, ca_file=ca, token_file=str(token), timeout=30) as kube:
        yield kube


@contextlib.asynccontextmanager
async def running(reflector: Reflector[Any]) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.ensure_future(reflector.run(stop))
    try:
        async with asyncio.timeout(180):
            await reflector.wait_synced()
        yield
    finally:
        stop.set()
        await task


def data(item: Json) -> dict[str, str]:
    return item.get("data") or {}


def reflector(kube: KubeApi, where: str, **options: Any) -> Reflector[dict[str, str]]:
    return Reflector(kube, CONFIG_MAPS, data, namespace=where, label_selector="test=watch", **options)


def config_map(where: str, name: str, **values: str) -> Json:
    return {"metadata": {"namespace": where, "name": name, "labels": {"test": "watch"}}, "data": values}


async def told(changes: Changes, key: tuple[str, str]) -> None:
    """Until `key` is told as changed."""
    async with asyncio.timeout(180):
        while await changes.next() != key:
            pass


async def restarted(plane: ControlPlane) -> None:
    await plane.apiserver.restart()
    await plane.apiserver.wait_until(plane.is_ready, "ready again", 120)


async def test_it_knows_what_is_there_and_tells_what_changes(kube: Held, where: str) -> None:
    await kube.create_object(CONFIG_MAPS, config_map(where, "before", a="1"))
    known = reflector(kube, where)
    changes = known.subscribe()
    async with running(known):
        await told(changes, (where, "before"))
        assert known.get(where, "before") == {"a": "1"}
        await kube.create_object(CONFIG_MAPS, config_map(where, "after"))
        await told(changes, (where, "after"))
        await kube.patch_object(CONFIG_MAPS, where, "before", {"data": {"a": "2"}})
        await told(changes, (where, "before"))
        assert known.get(where, "before") == {"a": "2"}
        await kube.delete_object(CONFIG_MAPS, where, "after")
        await told(changes, (where, "after"))
        assert known.get(where, "after") is None
        # an object that no longer matches the selector is gone for us
        await kube.patch_object(CONFIG_MAPS, where, "before", {"metadata": {"labels": {"test": None}}})
        await told(changes, (where, "before"))
        assert len(known) == 0
        assert (known.lists, known.problem) == (1, "")


async def test_a_watch_that_expires_is_gone_on_with_without_listing(kube: Held, where: str) -> None:
    known = reflector(kube, where, watch_seconds=1)
    changes = known.subscribe()
    async with running(known):
        for number in range(4):
            begun = kube.watches

            async def another(begun: int = begun) -> bool:
                return kube.watches > begun

            await eventually(another, "the watch has ended and a new one begun", timeout=180)
            await kube.create_object(CONFIG_MAPS, config_map(where, f"one-{number}"))
            await told(changes, (where, f"one-{number}"))
        assert known.lists == 1


async def test_everything_counts_as_changed_at_each_resync(kube: Held, where: str) -> None:
    await kube.create_object(CONFIG_MAPS, config_map(where, "same"))
    known = reflector(kube, where, resync_seconds=0.2)
    changes = known.subscribe()
    async with running(known):
        for _ in range(3):
            await told(changes, (where, "same"))
        assert known.lists == 1


async def test_it_heals_when_the_api_server_is_restarted(
    control_plane: ControlPlane, kube: Held, where: str
) -> None:
    await kube.create_object(CONFIG_MAPS, config_map(where, "kept"))
    known = reflector(kube, where)
    async with running(known):
        await control_plane.apiserver.kill()

        async def noticed() -> bool:
            return "cannot reach the API server" in known.problem

        await eventually(noticed, "the dead API server is noticed", timeout=180)
        assert known.get(where, "kept") is not None
        control_plane.apiserver.start()
        await control_plane.apiserver.wait_until(control_plane.is_ready, "ready again", 120)

        async def healed() -> bool:
            return known.problem == ""

        await eventually(healed, "it is followed again", timeout=180)
        changes = known.subscribe()
        await kube.create_object(CONFIG_MAPS, config_map(where, "new"))
        await told(changes, (where, "new"))


async def test_what_was_missed_before_a_compaction_is_told_after_it(
    control_plane: ControlPlane, kube: Held, where: str
) -> None:
    for name in ("kept", "changed", "deleted"):
        await kube.create_object(CONFIG_MAPS, config_map(where, name, a="1"))
    known = reflector(kube, where)
    async with running(known):
        kube.door.clear()
        await restarted(control_plane)  # ends the watch; a new one does not get through
        await kube.delete_object(CONFIG_MAPS, where, "deleted")
        await kube.patch_object(CONFIG_MAPS, where, "changed", {"data": {"a": "2"}})
        await kube.create_object(CONFIG_MAPS, config_map(where, "created"))
        await control_plane.compact()
        await restarted(control_plane)  # with it goes what the API server remembered itself
        changes = known.subscribe()
        for _ in range(len(known)):
            await changes.next()
        kube.door.set()
        async with asyncio.timeout(180):
            assert {await changes.next() for _ in range(3)} == {
                (where, "deleted"),
                (where, "changed"),
                (where, "created"),
            }
        assert known.lists == 2
        assert known.get(where, "changed") == {"a": "2"}
        assert known.get(where, "deleted") is None


async def test_a_missing_right_is_said_and_heals_once_it_is_given(
    control_plane: ControlPlane, where: str
) -> None:
    token = await account(control_plane, where, "late")
    async with client(control_plane, token) as kube:
        known = reflector(kube, where)
        stop = asyncio.Event()
        task = asyncio.ensure_future(known.run(stop))

        async def said() -> bool:
            return f"not permitted to list configmaps {where}" in known.problem

        await eventually(said, "the missing right is said", timeout=180)
        await account(control_plane, where, "late", RULES)
        async with asyncio.timeout(180):
            await known.wait_synced()
        assert known.problem == ""
        stop.set()
        await task
