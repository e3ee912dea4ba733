"""The reflector, when the API server answers strangely; with a real one it is in tests/cluster."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest

from cloudtaser.errors import CloudtaserError, ProtocolError
from cloudtaser.kube import watch as watch_module
from cloudtaser.kube.errors import GoneError, KubeForbiddenError, KubeUnavailableError
from cloudtaser.kube.kinds import CONFIG_MAPS, Kind
from cloudtaser.kube.verbs import EventType, Page, WatchEvent
from cloudtaser.kube.watch import Changes, Reflector
from tests.unit.operator.rig import eventually

Json = dict[str, Any]


def item(name: str, version: int = 1, **data: str) -> Json:
    return {"metadata": {"namespace": "shop", "name": name, "resourceVersion": str(version)}, "data": data}


def event(kind: EventType, name: str, version: int, **data: str) -> WatchEvent:
    return WatchEvent(kind, item(name, version, **data))


Step = CloudtaserError | WatchEvent | None
"""What a watch tells next; an error breaks it, None ends it in order. After its last step it is silent."""


class Scripted:
    """An API server that lists and watches as told."""

    def __init__(self, *lists: list[Json] | CloudtaserError, watches: list[list[Step]] | None = None) -> None:
        self.lists = list(lists)
        self.watches = watches or []
        self.from_versions: list[str] = []
        self.listed = 0

    async def list_pages(
        self, kind: Kind, namespace: str | None = None, **_: Any
    ) -> AsyncGenerator[Page, None]:
        self.listed += 1
        answer = self.lists.pop(0) if len(self.lists) > 1 else self.lists[0]
        if isinstance(answer, CloudtaserError):
            raise answer
        version = str(100 * self.listed)
        for one in answer[:-1]:
            yield Page((one,), version, "more")
        yield Page(tuple(answer[-1:]), version)

    async def watch_objects(
        self, kind: Kind, namespace: str | None = None, *, resource_version: str, **_: Any
    ) -> AsyncGenerator[WatchEvent, None]:
        self.from_versions.append(resource_version)
        steps = self.watches.pop(0) if self.watches else []
        for step in steps:
            if isinstance(step, CloudtaserError):
                raise step
            if step is None:
                return
            yield step
        await asyncio.Event().wait()


def parse(found: Json) -> dict[str, str] | None:
    data: dict[str, str] = found["data"]
    if "broken" in data:
        raise ProtocolError("data.broken")
    return None if "other" in data else data


@contextlib.asynccontextmanager
async def running(api: Scripted, **options: Any) -> AsyncIterator[Reflector[dict[str, str]]]:
    reflector = Reflector(api, CONFIG_MAPS, parse, **options)
    stop = asyncio.Event()
    task = asyncio.ensure_future(reflector.run(stop))
    yield reflector
    stop.set()
    await asyncio.wait_for(task, 10)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "BACKOFF_LIMIT", 0.05)


async def test_a_watch_goes_on_from_its_last_event_even_when_it_broke() -> None:
    broke = KubeUnavailableError("cut off")
    watches: list[list[Step]] = [[event("ADDED", "a", 7), broke], [event("BOOKMARK", "", 9), None], []]
    api = Scripted([], watches=watches)
    async with running(api) as reflector:
        await eventually(lambda: len(api.from_versions) == 3, "three watches")
        assert api.from_versions == ["100", "7", "9"]
        assert reflector.get("shop", "a") == {}
        assert api.listed == 1


async def test_a_page_is_parsed_and_let_go_before_the_next_is_asked_for() -> None:
    class Body(dict[str, Any]):
        """An object that can be watched go."""

    pages: list[weakref.ref[Body]] = []

    class Large(Scripted):
        async def list_pages(
            self, kind: Kind, namespace: str | None = None, **_: Any
        ) -> AsyncGenerator[Page, None]:
            for number in range(5):
                body = Body(item(f"n{number}"))
                pages.append(weakref.ref(body))
                page = Page((body,), "100", "more")
                del body
                yield page
                del page
                assert sum(ref() is not None for ref in pages) <= 2  # this one and the one before
            yield Page((), "100")

    async with running(Large([])) as reflector:
        await asyncio.wait_for(reflector.wait_synced(), 10)
        assert len(reflector) == 5


async def test_a_list_that_breaks_on_its_way_forgets_nobody_and_is_not_all_there_is() -> None:
    class Breaking(Scripted):
        async def list_pages(
            self, kind: Kind, namespace: str | None = None, **_: Any
        ) -> AsyncGenerator[Page, None]:
            self.listed += 1
            yield Page((item("first"),), "100", "more")
            await asyncio.sleep(0)
            if self.listed == 1:
                assert not reflector.synced
                raise GoneError("too old")
            yield Page((item("second"),), "100")

    async with running(Breaking([])) as reflector:
        await asyncio.wait_for(reflector.wait_synced(), 10)
        assert {key for key in ("first", "second") if reflector.get("shop", key) is not None} == {
            "first",
            "second",
        }


async def test_after_410_the_difference_is_told() -> None:
    api = Scripted(
        [item("kept"), item("changed", 1, a="1"), item("deleted")],
        [item("kept"), item("changed", 2, a="2"), item("created")],
        watches=[[GoneError("too old")]],
    )
    async with running(api) as reflector:
        await reflector.wait_synced()
        changes = reflector.subscribe()
        changes.drain()
        await eventually(lambda: reflector.lists == 2, "listed anew")
        assert {await changes.next() for _ in range(3)} == {
            ("shop", name) for name in ("changed", "deleted", "created")
        }
        assert reflector.get("shop", "changed") == {"a": "2"}
        assert reflector.get("shop", "deleted") is None


async def test_a_point_that_cannot_be_gone_on_from_is_given_up() -> None:
    broken: list[Step] = [KubeUnavailableError("too large resource version")]
    api = Scripted([item("a")], watches=[broken] * (watch_module.MAX_RESUMES + 1))
    async with running(api):
        await eventually(lambda: api.listed == 2, "listed anew")
        await eventually(lambda: api.from_versions[-1] == "200", "and watched from there")


async def test_what_is_known_stays_while_the_api_server_is_away_and_why_is_said() -> None:
    broken: list[Step] = [KubeUnavailableError("cannot reach the API server")]
    api = Scripted([item("a", 1, x="y")], KubeForbiddenError("not permitted to list"), watches=[broken] * 9)
    async with running(api) as reflector:
        await eventually(lambda: "not permitted" in reflector.problem, "why")
        assert reflector.get("shop", "a") == {"x": "y"}
        assert reflector.synced


async def test_a_broken_object_costs_only_itself() -> None:
    api = Scripted([item("good"), item("bad", 1, broken="x"), item("none", 1, other="x")])
    async with running(api) as reflector:
        await reflector.wait_synced()
        assert [key for key in ("good", "bad", "none") if reflector.get("shop", key) is not None] == ["good"]


async def test_an_object_that_is_of_no_interest_any_more_is_gone() -> None:
    api = Scripted([item("a")], watches=[[event("MODIFIED", "a", 2, other="x")]])
    async with running(api) as reflector:
        changes = reflector.subscribe()
        assert await changes.next() == ("shop", "a")
        await eventually(lambda: len(reflector) == 0, "it is gone")


async def test_there_is_a_bound_to_what_is_kept() -> None:
    events: list[Step] = [event("ADDED", f"n{n}", n + 10) for n in range(50)]
    api = Scripted([item("a")], watches=[[*events, event("DELETED", "a", 99), event("ADDED", "b", 100)]])
    async with running(api, max_objects=10) as reflector:
        await eventually(lambda: reflector.get("shop", "b") is not None, "room after a deletion")
        assert len(reflector) == 10


async def test_a_watch_that_ends_at_once_is_not_begun_in_a_tight_loop() -> None:
    api = Scripted([item("a")], watches=[[None] for _ in range(10_000)])
    async with running(api) as reflector:
        await reflector.wait_synced()
        for _ in range(200):
            await asyncio.sleep(0)
        assert len(api.from_versions) < 20


async def test_a_bug_in_parsing_is_seen() -> None:
    def bad(found: Json) -> str:
        raise ZeroDivisionError

    reflector = Reflector(Scripted([item("a")]), CONFIG_MAPS, bad)
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(reflector.run(asyncio.Event()), 10)


async def test_a_consumer_hears_of_each_key_once_and_loses_what_it_cannot_hold() -> None:
    changes = Changes(2)
    for name in ("a", "a", "b", "c", "a"):
        changes.add(("shop", name))
    assert changes.dropped == 1
    assert [await changes.next(), await changes.next()] == [("shop", "a"), ("shop", "b")]
    changes.add(("shop", "c"))
    assert changes.drain() == [("shop", "c")]


async def test_who_no_longer_reads_costs_nothing() -> None:
    api = Scripted([], watches=[[event("ADDED", "a", 7)]])
    reflector = Reflector(api, CONFIG_MAPS, parse)
    changes = reflector.subscribe()
    reflector.unsubscribe(changes)
    stop = asyncio.Event()
    task = asyncio.ensure_future(reflector.run(stop))
    await eventually(lambda: len(reflector) == 1, "it is known")
    assert changes.drain() == []
    stop.set()
    await task
