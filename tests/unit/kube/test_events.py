"""Events: what is made of many occurrences, when the API server takes them and when it does not."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

from cloudtaser.errors import CloudtaserError
from cloudtaser.kube.errors import ConflictError, KubeForbiddenError, KubeUnavailableError, NotFoundError
from cloudtaser.kube.events import (
    ALIKE,
    BURST,
    MAX_QUEUE,
    REFILL_SECONDS,
    SERIES_SECONDS,
    EventRecorder,
    Occurrence,
)
from cloudtaser.kube.kinds import Kind

Json = dict[str, Any]
POD = Occurrence("shop", "Pod", "web-0", "uid-1", "v1", "InjectionFailed", "the role is missing")


class Scripted:
    """An API server that answers as told, one answer a call, then takes everything."""

    def __init__(self, *answers: CloudtaserError | None) -> None:
        self.answers = list(answers)
        self.events: list[Json] = []
        self.patches: list[Json] = []

    async def create_event(self, body: Json) -> Json:
        self._answer()
        self.events.append(body)
        return body

    async def patch_object(self, kind: Kind, namespace: str | None, name: str, patch: Any) -> Json:
        self._answer()
        self.patches.append({"namespace": namespace, "name": name, **patch})
        return {}

    def _answer(self) -> None:
        error = self.answers.pop(0) if self.answers else None
        if error is not None:
            raise error


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@contextlib.asynccontextmanager
async def recording(
    api: Scripted, clock: Clock | None = None, **options: Any
) -> AsyncIterator[EventRecorder]:
    recorder = EventRecorder(api, instance="operator-0", now=clock, **{"update_seconds": 0.01} | options)
    stop = asyncio.Event()
    task = asyncio.ensure_future(recorder.run(stop))
    yield recorder
    stop.set()
    await task


async def test_an_event_says_what_happened_to_whom() -> None:
    api = Scripted()
    async with recording(api) as recorder:
        recorder.record(dataclasses.replace(POD, message="two\nlines   here"))
        await recorder.flush()
    (event,) = api.events
    assert event["regarding"] == {
        "apiVersion": "v1",
        "kind": "Pod",
        "namespace": "shop",
        "name": "web-0",
        "uid": "uid-1",
    }
    assert (event["note"], event["reason"], event["type"]) == (
        "two lines here",
        "InjectionFailed",
        "Warning",
    )
    assert event["metadata"]["namespace"] == "shop"
    assert event["reportingInstance"] == "operator-0"


async def test_an_object_without_a_namespace_has_its_events_in_default() -> None:
    api = Scripted()
    async with recording(api) as recorder:
        recorder.record(dataclasses.replace(POD, namespace=""))
        await recorder.flush()
    assert api.events[0]["metadata"]["namespace"] == "default"
    assert "namespace" not in api.events[0]["regarding"]


async def test_the_same_again_is_counted_and_after_a_while_a_new_event() -> None:
    api, clock = Scripted(), Clock()
    async with recording(api, clock, update_seconds=0.0) as recorder:
        for _ in range(5):
            recorder.record(POD)
        await recorder.flush()
        assert [event["series"]["count"] for event in api.events] == [5]
        recorder.record(POD)
        await recorder.flush()
        assert api.patches[-1]["series"]["count"] == 6
        assert api.patches[-1]["name"] == api.events[0]["metadata"]["name"]
        clock.now += SERIES_SECONDS + 1
        recorder.record(POD)
        await recorder.flush()
    assert len(api.events) == 2
    assert api.events[0]["metadata"]["name"] != api.events[1]["metadata"]["name"]


async def test_many_alike_about_one_object_share_an_event() -> None:
    api = Scripted()
    async with recording(api) as recorder:
        for number in range(ALIKE + 6):
            recorder.record(dataclasses.replace(POD, message=f"attempt {number}"))
        await recorder.flush()
    assert len(api.events) == ALIKE + 1
    assert api.events[-1]["note"] == f"(combined from similar events): attempt {ALIKE}"
    assert api.events[-1]["series"]["count"] == 6


async def test_an_object_gets_so_many_events_and_one_more_after_a_while() -> None:
    api, clock = Scripted(), Clock()
    async with recording(api, clock) as recorder:
        for number in range(2 * BURST):
            recorder.record(dataclasses.replace(POD, reason=f"R{number}"))
        recorder.record(dataclasses.replace(POD, name="web-1", uid="uid-2"))
        await recorder.flush()
        assert (len(api.events), recorder.dropped) == (BURST + 1, BURST)
        clock.now += REFILL_SECONDS
        recorder.record(dataclasses.replace(POD, reason="Later"))
        recorder.record(dataclasses.replace(POD, reason="TooMuch"))
        await recorder.flush()
    assert len(api.events) == BURST + 2


async def test_what_cannot_wait_is_dropped_and_counted() -> None:
    recorder = EventRecorder(Scripted(), instance="operator-0", now=Clock())
    for number in range(MAX_QUEUE + 7):
        recorder.record(dataclasses.replace(POD, name=f"web-{number}", uid=f"uid-{number}"))
    assert recorder.dropped == 7


async def test_an_event_waits_for_an_api_server_that_is_away() -> None:
    away = KubeUnavailableError("the API server is not ready")
    api = Scripted(away, away)
    async with recording(api) as recorder:
        recorder.record(POD)
        await recorder.flush()
        assert (len(api.events), recorder.posted) == (1, 1)


async def test_a_refused_event_costs_only_itself() -> None:
    api = Scripted(
        KubeForbiddenError("not permitted"), NotFoundError("no namespace"), ConflictError("exists")
    )
    async with recording(api) as recorder:
        for number in range(4):
            recorder.record(dataclasses.replace(POD, reason=f"R{number}"))
        await recorder.flush()
    assert [event["reason"] for event in api.events] == ["R3"]
    assert (recorder.posted, recorder.dropped) == (2, 2)  # what exists already was posted by a try before


async def test_a_note_is_cut_between_letters() -> None:
    api = Scripted()
    async with recording(api) as recorder:
        recorder.record(dataclasses.replace(POD, message="é" * 2000))
        await recorder.flush()
    note = api.events[0]["note"]
    assert note.endswith("é…")
    assert len(note.encode()) <= 1024
