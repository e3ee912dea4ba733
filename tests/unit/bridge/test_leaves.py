"""Stored pairs are shown while they fit; one that does not is complained of, and signing takes its place."""

from __future__ import annotations

import time
from typing import cast

import pytest

from cloudtaser.bridge.authorities import Authority as Ca
from cloudtaser.bridge.leaves import StoredLeaves
from cloudtaser.errors import CloudtaserError
from cloudtaser.openbao.pki import PkiRole
from cloudtaser.openbao.pregenerated import Party
from cloudtaser.openbao.records import Pair, Records
from tests.unit.openbao.test_pregenerated import POD, STRANGER, TUNNEL, authority, leaf, pair
from tests.unit.operator.parties import FINGERPRINT


class Shelf:
    """The stored pairs."""

    def __init__(self) -> None:
        self.pairs: dict[str, Pair] = {party: pair(leaf(party, authority(party))) for party in Party}

    async def pair(self, _: str, party: str) -> tuple[Pair | None, int]:
        return self.pairs.get(party), 1


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def troubles() -> list[CloudtaserError]:
    return []


@pytest.fixture
def stored(shelf: Shelf, troubles: list[CloudtaserError]) -> StoredLeaves:
    return StoredLeaves(cast("Records", shelf), FINGERPRINT, troubles.append)


async def test_a_pair_is_the_same_object_until_it_changes(shelf: Shelf, stored: StoredLeaves) -> None:
    now, ca = time.time(), Ca.of(TUNNEL.pem)
    first = await stored.look(PkiRole.BRIDGE, ca, now)
    assert first is not None
    assert await stored.look(PkiRole.BRIDGE, ca, now) is first
    shelf.pairs[Party.BRIDGE] = pair(leaf(Party.BRIDGE, TUNNEL))
    second = await stored.look(PkiRole.BRIDGE, ca, now)
    assert second is not None
    assert second.certificate_pem.decode() == shelf.pairs[Party.BRIDGE].certificate
    assert await stored.broker(ca, now) == shelf.pairs[Party.BROKER]
    assert await stored.look(PkiRole.BRIDGE_POD, Ca.of(POD.pem), now) is not None


async def test_under_a_former_ca_pairs_are_signed_and_nobody_complains(
    stored: StoredLeaves, troubles: list[CloudtaserError]
) -> None:
    former = Ca.of(TUNNEL.pem, "issuer")
    assert await stored.look(PkiRole.BRIDGE, former, time.time()) is None
    assert await stored.broker(former, time.time()) is None
    assert troubles == []


async def test_what_is_missing_has_ended_or_does_not_fit_is_complained_of(
    shelf: Shelf, stored: StoredLeaves, troubles: list[CloudtaserError]
) -> None:
    now, ca = time.time(), Ca.of(TUNNEL.pem)
    assert await stored.look(PkiRole.BRIDGE, Ca.of(STRANGER.pem), now) is None
    assert await stored.look(PkiRole.BRIDGE, ca, now + 366 * 86400) is None
    del shelf.pairs[Party.BROKER]
    assert await stored.broker(ca, now) is None
    told = [error.what for error in troubles]
    assert told == [
        "the stored pair of the bridge is of another CA",
        "the stored pair of the bridge has expired",
        "the stored pair of the broker is missing",
    ]
