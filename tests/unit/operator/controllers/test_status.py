"""Statuses: times that mean something, and no write where nothing changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from cloudtaser.errors import CloudtaserError
from cloudtaser.kube.errors import ConflictError, NotFoundError
from cloudtaser.kube.kinds import Kind
from cloudtaser.kube.resources import CLOUDTASER_CONFIGS, Metadata
from cloudtaser.operator.controllers.status import (
    Condition,
    difference,
    merged,
    parse_stamp,
    stamp,
    write,
)

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
READY = Condition("Ready", True, "Usable", "all is well")
METADATA = Metadata("shop", "db", "uid-1")


class Api:
    def __init__(self, error: CloudtaserError | None = None) -> None:
        self.error = error
        self.patches: list[Any] = []

    async def patch_object(
        self, kind: Kind, namespace: str | None, name: str, patch: Any, *, subresource: str = ""
    ) -> dict[str, Any]:
        assert subresource == "status"
        self.patches.append(patch)
        if self.error:
            raise self.error
        return {}


def test_a_condition_keeps_the_time_of_its_last_change() -> None:
    first = merged(None, [READY], 1, NOW)
    later = merged(first, [Condition("Ready", True, "Usable", "other words")], 2, NOW + timedelta(hours=1))
    assert later[0]["lastTransitionTime"] == first[0]["lastTransitionTime"] == "2026-05-01T12:00:00Z"
    assert (later[0]["message"], later[0]["observedGeneration"]) == ("other words", 2)
    changed = merged(later, [Condition("Ready", None, "Unknown", "?")], 2, NOW + timedelta(hours=2))
    assert (changed[0]["status"], changed[0]["lastTransitionTime"]) == ("Unknown", "2026-05-01T14:00:00Z")


def test_the_difference_is_what_a_merge_patch_needs() -> None:
    assert difference({"a": 1, "b": [1]}, {"a": 1, "b": [1]}) == {}
    assert difference({"a": 1, "b": 2}, {"a": 1, "c": 3}) == {"b": None, "c": 3}


def test_times_are_read_as_they_are_written() -> None:
    assert parse_stamp(stamp(NOW)) == NOW
    assert parse_stamp("2026-05-01T12:00:00.123456Z") == NOW + timedelta(microseconds=123456)
    assert [parse_stamp(bad) for bad in (None, "", "soon", 5)] == [None] * 4


async def test_nothing_is_written_where_nothing_changed() -> None:
    api = Api()
    assert not await write(api, CLOUDTASER_CONFIGS, METADATA, {"ready": True}, {"ready": True})
    assert api.patches == []
    assert await write(api, CLOUDTASER_CONFIGS, METADATA, {"ready": True}, {"ready": False})
    assert api.patches == [{"metadata": {"uid": "uid-1"}, "status": {"ready": False}}]


async def test_an_object_that_is_gone_or_another_by_now_is_let_be() -> None:
    for error in (NotFoundError("gone"), ConflictError("another")):
        assert not await write(Api(error), CLOUDTASER_CONFIGS, METADATA, {}, {"ready": True})
