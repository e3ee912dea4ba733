"""Revocations: each serial counts from its own time on, to the second."""

from __future__ import annotations

import asyncio
import time

import pytest

from cloudtaser.bridge.cluster import Cluster
from cloudtaser.bridge.revocations import SOON, Revocations
from cloudtaser.bridge.tokens import KeySet
from cloudtaser.errors import ProtocolError
from cloudtaser.openbao.records import Grants, Registered, Revoked, instant
from tests.unit.operator.parties import FINGERPRINT


class House:
    def __init__(self) -> None:
        registered = Registered(
            FINGERPRINT, "", "", "", "", "", "", "", "0ad50c05", "cloudtaser/0ad50c05", "subject"
        )
        self.cluster = Cluster(FINGERPRINT, registered, Grants(), KeySet())
        self.changed = asyncio.Event()
        self.revocations = Revocations(self.cluster, time.time, self.changed.set)


async def test_what_is_revoked_counts_at_once_and_what_is_pending_at_its_time() -> None:
    house = House()
    due = time.time() + 1.0
    house.revocations.observe(Revoked(("0a:0b",), ("0c",), instant(due)))
    assert house.cluster.revoked == {0x0A0B}
    assert house.revocations.outdated == {0x0A0B, 0x0C}
    house.changed.clear()
    async with asyncio.timeout(30):
        await house.changed.wait()
    assert house.cluster.revoked == {0x0A0B, 0x0C}
    assert time.time() >= int(due)


async def test_a_later_record_takes_the_place_of_the_one_that_was_waited_for() -> None:
    house = House()
    house.revocations.observe(Revoked((), ("0c",), instant(time.time() + 60)))
    house.revocations.observe(Revoked())
    assert house.revocations._timer is None
    assert house.revocations.outdated == frozenset()


async def test_a_far_future_is_left_to_later_polls() -> None:
    house = House()
    house.revocations.observe(Revoked((), ("0c",), instant(time.time() + 2 * SOON)))
    assert house.revocations._timer is None
    assert SOON > 90, "a rotation of leaves gives ninety seconds"


@pytest.mark.parametrize(
    "record", [Revoked(("none",)), Revoked((), ("none",), "2026-01-01T00:00:00Z"), Revoked((), (), "soon")]
)
async def test_a_damaged_record_is_refused_in_one_line(record: Revoked) -> None:
    with pytest.raises(ProtocolError, match=r"damaged|no time"):
        House().revocations.observe(record)
