"""Rooms: where two parties that know the same hash find each other.

Used by the beacon and by a broker that bridges dial (reverse mode), which move the bytes. Knows nothing of
sockets or time: the caller passes `now` (seconds of any steady clock), acts on the returned events, and
reports what the parties did. (spec/wire.md, "Rendezvous".)

A party is any hashable the caller likes. From `arrive` until it is matched, turned away, reported by `leave`
or found dead it is parked in exactly one room under one role. Where places are scarce they are shared by
source (an address, as `sources` counts it): whoever knows a room's hash can fill the room, but from one place
it can neither keep others out of it nor have itself matched before them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from cloudtaser.wire.rendezvous import MAX_RETRY_MS, Refusal, Role

P = TypeVar("P", bound=Hashable)

_OPPOSITE = {Role.BRIDGE: Role.BROKER, Role.BROKER: Role.BRIDGE}


@dataclass(frozen=True, slots=True)
class RoomLimits:
    """What the rooms hold at most. Times in seconds."""

    parked_per_room: int = 64
    parked: int = 20_000
    pairs: int = 9_900
    parked_age: float = 24 * 3600.0
    remind_every: float = 20.0
    drain_spread: float = 5.0


@dataclass(frozen=True, slots=True)
class Parked(Generic[P]):
    """The party waits in its room: tell it so, now and at every such event after."""

    party: P


@dataclass(frozen=True, slots=True)
class Matched(Generic[P]):
    """Two parties leave the room together; the parked one had waited that many seconds."""

    bridge: P
    broker: P
    waited: float


@dataclass(frozen=True, slots=True)
class TurnedAway(Generic[P]):
    """The party is not, or no longer, parked: send it the refusal. `limit` names the setting that said no."""

    party: P
    refusal: Refusal
    retry_ms: int
    limit: str


Event = Parked[P] | Matched[P] | TurnedAway[P]


@dataclass(slots=True)
class _Waiting:
    role: Role
    room: bytes
    since: float
    source: str


class Rooms(Generic[P]):
    """All rooms of one beacon."""

    def __init__(
        self, limits: RoomLimits, *, random_pairing: bool = False, rng: random.Random | None = None
    ) -> None:
        self._limits = limits
        self._random = random_pairing
        self._rng = rng or random.SystemRandom()
        self._queues: dict[tuple[Role, bytes], dict[P, None]] = {}  # a dict keeps the order of arrival
        self._waiting: dict[P, _Waiting] = {}  # in the order of parking, so the oldest comes first
        self._remind_at: dict[P, float] = {}  # in the order of the times
        self._sources: Counter[str] = Counter()  # how many each has parked
        self._parked = dict.fromkeys(Role, 0)
        self._draining = False
        self.pairs = 0

    @property
    def parked(self) -> int:
        """How many are parked in all."""
        return len(self._waiting)

    def parked_as(self, role: Role) -> int:
        """How many are parked under `role`."""
        return self._parked[role]

    @property
    def rooms(self) -> int:
        """How many rooms have somebody in them."""
        return len({room for _, room in self._queues})

    @property
    def draining(self) -> bool:
        """Whether everybody is turned away because the beacon is going."""
        return self._draining

    def make_room(self, role: Role, room: bytes, source: str) -> list[TurnedAway[P]]:
        """Called before `arrive`: if the newcomer would be turned away because its side of the room, or the
        beacon, is full, the latest of the source that has most places gives way. A source gives way to one
        that has at least two places less, so none can push another out for good."""
        queue = self._queues.get((role, room), {})
        limits = self._limits
        if self._draining or self._queues.get((_OPPOSITE[role], room)):
            return []
        if len(queue) >= limits.parked_per_room:
            gives_way = self._greediest(Counter(self._source(party) for party in queue), source, queue)
            limit = "max-parked-per-room"
        elif len(self._waiting) >= limits.parked:
            gives_way = self._greediest(self._sources, source, self._waiting)
            limit = "max-parked"
        else:
            return []
        if gives_way is None:
            return []
        self._forget(gives_way)
        return [TurnedAway(gives_way, Refusal.ROOM_FULL, 0, limit)]

    def arrive(
        self,
        party: P,
        role: Role,
        room: bytes,
        now: float,
        is_live: Callable[[P], bool] = lambda _: True,
        *,
        source: str = "",
    ) -> Event[P]:
        """A party said its hello: it is matched, parked or turned away.

        `is_live` is asked about a candidate before it is matched and must not call back. One that is not is
        dropped without an event: whoever answered knows.
        """
        if self._draining:
            return self._shutting_down(party)
        partner = self._partner(role, room, is_live)
        if partner is None:
            return self._park(party, _Waiting(role, room, now, source))
        if self.pairs >= self._limits.pairs:
            return TurnedAway(party, Refusal.ROOM_FULL, 0, "max-pairs")
        waited = now - self._forget(partner).since
        self.pairs += 1
        if role is Role.BRIDGE:
            return Matched(party, partner, waited)
        return Matched(partner, party, waited)

    def leave(self, party: P) -> bool:
        """A party's connection is gone; whether it was parked."""
        if party not in self._waiting:
            return False
        self._forget(party)
        return True

    def pair_ended(self) -> None:
        """A matched pair is no more."""
        assert self.pairs > 0
        self.pairs -= 1

    def tick(self, now: float) -> list[Event[P]]:
        """What time alone brings: reminders that are due, and the end of a long wait."""
        limits = self._limits
        events: list[Event[P]] = []
        aged = []
        for party, waiting in self._waiting.items():
            if now - waiting.since < limits.parked_age:
                break
            aged.append(party)
        for party in aged:
            self._forget(party)
            events.append(TurnedAway(party, Refusal.PARKED_TOO_LONG, 0, "max-parked-age"))
        due = []
        for party, at in self._remind_at.items():
            if at > now:
                break
            due.append(party)
        for party in due:
            del self._remind_at[party]
            self._remind_at[party] = now + limits.remind_every
            events.append(Parked(party))
        return events

    def drain(self) -> list[Event[P]]:
        """The beacon is going: all who wait, and all who come, are turned away."""
        self._draining = True
        leaving = list(self._waiting)
        for party in leaving:
            self._forget(party)
        return [self._shutting_down(party) for party in leaving]

    def _partner(self, role: Role, room: bytes, is_live: Callable[[P], bool]) -> P | None:
        queue = self._queues.get((_OPPOSITE[role], room))
        while queue:
            candidate = self._candidate(queue)
            if is_live(candidate):
                return candidate
            self._forget(candidate)
        return None

    def _candidate(self, queue: dict[P, None]) -> P:
        """The longest-waiting (or any); in a room more than half full, which no honest one is, of the source
        that has the fewest places in it."""
        candidates = list(queue) if self._random or len(queue) * 2 > self._limits.parked_per_room else []
        if len(queue) * 2 > self._limits.parked_per_room:
            places = Counter(self._source(party) for party in queue)
            fewest = min(places.values())
            candidates = [party for party in candidates if places[self._source(party)] == fewest]
        if self._random:
            return self._rng.choice(candidates)
        return next(iter(candidates or queue))

    def _source(self, party: P) -> str:
        return self._waiting[party].source

    def _greediest(self, places: Counter[str], newcomer: str, among: Iterable[P]) -> P | None:
        """The latest party of the source that has most places, unless the newcomer's has about as many."""
        source, most = places.most_common(1)[0]
        if most - places[newcomer] < 2:
            return None
        return next(party for party in reversed(list(among)) if self._source(party) == source)

    def _park(self, party: P, waiting: _Waiting) -> Event[P]:
        assert party not in self._waiting
        role, room = waiting.role, waiting.room
        if len(self._waiting) >= self._limits.parked:
            return TurnedAway(party, Refusal.ROOM_FULL, 0, "max-parked")
        queue = self._queues.get((role, room))
        if queue is None:
            queue = self._queues[(role, room)] = {}
        elif len(queue) >= self._limits.parked_per_room:
            return TurnedAway(party, Refusal.ROOM_FULL, 0, "max-parked-per-room")
        queue[party] = None
        self._waiting[party] = waiting
        self._sources[waiting.source] += 1
        self._remind_at[party] = waiting.since + self._limits.remind_every
        self._parked[role] += 1
        return Parked(party)

    def _forget(self, party: P) -> _Waiting:
        waiting = self._waiting.pop(party)
        del self._remind_at[party]
        self._sources[waiting.source] -= 1
        if not self._sources[waiting.source]:
            del self._sources[waiting.source]
        key = (waiting.role, waiting.room)
        queue = self._queues[key]
        del queue[party]
        if not queue:
            del self._queues[key]
        self._parked[waiting.role] -= 1
        return waiting

    def _shutting_down(self, party: P) -> TurnedAway[P]:
        latest = min(int(self._limits.drain_spread * 1000), MAX_RETRY_MS)
        retry_ms = self._rng.randint(min(200, latest), latest)
        return TurnedAway(party, Refusal.SHUTTING_DOWN, retry_ms, "")
