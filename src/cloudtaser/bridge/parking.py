"""Which parties of one room to dial, and when: two parked spares at each beacon, whatever happens to them.

Used by `parker`, which dials. Pure: the caller passes `now` and the jitter, acts on what `begin` returns and
reports what became of each party. The rules are those of spec/wire.md, "Rendezvous": a match leaves a gap
that is filled at once and without backoff, failures back off with full jitter per beacon, and no more
than 32 parties of a room exist at a time, so that whoever squats in it costs time and nothing else.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

SPARES: Final = 2
"""Parked parties kept per room and beacon."""
PARTIES_LIMIT: Final = 32
"""Parties of one room at a time, handshakes included."""
BACKOFF_FIRST: Final = 0.2
BACKOFF_LIMIT: Final = 4.0
LONELY_AFTER: Final = 60.0
"""Seconds parked after which, with the other side known to be parked too, something is in the way."""


class Stage(enum.Enum):
    """Where a party is on its way."""

    DIALLING = "dialling"
    PARKED = "parked"
    MATCHED = "matched"
    GONE = "gone"


@dataclass(slots=True, eq=False)
class Party:
    """One connection to one beacon, from the dial to the end of its handshake."""

    lane: int
    since: float
    stage: Stage = Stage.DIALLING


@dataclass(slots=True)
class _Lane:
    """One beacon's side of the room."""

    spares: int
    failures: int = 0
    not_before: float = 0.0
    alone_since: float | None = None
    """Since when a party waits that came anew without having met anybody."""
    trying: bool = False
    """After a failure one party goes first: a beacon that is down is not dialled twice as often."""
    parties: list[Party] = field(default_factory=list)

    @property
    def missing(self) -> int:
        return (1 if self.trying else self.spares) - len(self.parties)


class Parking:
    """The parties of one room, at every beacon."""

    def __init__(
        self,
        beacons: int,
        *,
        spares: int = SPARES,
        limit: int = PARTIES_LIMIT,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._lanes = [_Lane(spares) for _ in range(beacons)]
        self._limit = limit
        self._jitter = jitter
        self._handshakes = 0
        self._met_at = float("-inf")

    @property
    def handshakes(self) -> int:
        """Matched parties whose handshake is still going on."""
        return self._handshakes

    @property
    def parked(self) -> int:
        """Parties that a beacon has confirmed as parked."""
        return sum(party.stage is Stage.PARKED for lane in self._lanes for party in lane.parties)

    def begin(self, now: float) -> list[Party]:
        """The parties to dial at once; each counts as dialling from here on."""
        begun: list[Party] = []
        free = self._free()
        for number, lane in enumerate(self._lanes):
            if now < lane.not_before:
                continue
            while free > 0 and lane.missing > 0:
                party = Party(number, now)
                lane.parties.append(party)
                begun.append(party)
                free -= 1
        return begun

    def next_due(self, now: float) -> float | None:
        """When `begin` should be asked again if nothing is reported before; None: only after a report."""
        if self._free() <= 0:
            return None
        waiting = [lane.not_before for lane in self._lanes if lane.missing > 0 and lane.not_before > now]
        return min(waiting, default=None)

    def took_in(self, party: Party, now: float) -> None:
        """The beacon confirmed that the party is parked; it may say so many times."""
        if party.stage is Stage.DIALLING:
            lane = self._lanes[party.lane]
            party.stage, party.since = Stage.PARKED, now if lane.alone_since is None else lane.alone_since
            lane.trying, lane.alone_since = False, None

    def matched(self, party: Party, now: float) -> None:
        """The party met somebody: its place is free at once, its handshake counts until `done`."""
        lane = self._lanes[party.lane]
        lane.parties.remove(party)
        lane.failures, lane.not_before, lane.trying, lane.alone_since = 0, 0.0, False, None
        party.stage, party.since = Stage.MATCHED, now
        self._met_at = now
        self._handshakes += 1

    def done(self, party: Party) -> None:
        """The handshake of a matched party ended, well or badly."""
        if party.stage is Stage.MATCHED:
            party.stage = Stage.GONE
            self._handshakes -= 1

    def came_anew(self, party: Party) -> None:
        """The party left a beacon of a fleet to be parked where its room belongs now: no failure, and its
        successor has been alone for as long."""
        lane = self._lanes[party.lane]
        lane.parties.remove(party)
        if party.stage is Stage.PARKED:
            lane.alone_since = party.since
        party.stage = Stage.GONE

    def failed(self, party: Party, now: float, retry_after: float | None = None) -> None:
        """The party was refused, or its connection broke before a match.

        `retry_after`: seconds that the beacon asked for; None or 0 leaves it to the backoff.
        """
        lane = self._lanes[party.lane]
        lane.parties.remove(party)
        if party.stage is Stage.PARKED and now - party.since >= BACKOFF_LIMIT:
            lane.failures = 0
        party.stage, lane.trying, lane.alone_since = Stage.GONE, True, None
        if retry_after:
            lane.not_before = max(lane.not_before, now + retry_after)
        elif lane.not_before <= now:  # parties that fail together are one failure
            ceiling = min(BACKOFF_LIMIT, BACKOFF_FIRST * 2.0 ** min(lane.failures, 10))
            lane.failures += 1
            lane.not_before = now + self._jitter(0.0, ceiling)

    def lonely_since(self, now: float) -> float | None:
        """Since when a party has been parked and none was met, if that is a minute or more."""
        parked = [p.since for lane in self._lanes for p in lane.parties if p.stage is Stage.PARKED]
        since = max(min(parked, default=now), self._met_at)
        return since if now - since >= LONELY_AFTER else None

    def _free(self) -> int:
        return self._limit - self._handshakes - sum(len(lane.parties) for lane in self._lanes)
