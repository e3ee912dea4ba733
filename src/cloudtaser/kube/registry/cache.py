"""Cache: what was found out, bounded by count and by size; and one piece of work for all who want it.

Used by `resolver` and `pull_secrets`. `Cache` is pure: times are the caller's.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Cache(Generic[K, V]):
    """Forgets first what was not asked for longest."""

    def __init__(self, entries: int, weight: int) -> None:
        """At most that many entries, of that weight together; one that is heavier than all is not kept."""
        self._most = entries
        self._heaviest = weight
        self._held: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self.weight = 0

    def get(self, key: K) -> V | None:
        """What is kept for `key`, which stays longer for it."""
        held = self._held.get(key)
        if held is None:
            return None
        self._held.move_to_end(key)
        return held[0]

    def put(self, key: K, value: V, weight: int = 1) -> None:
        """Keep it, in place of what was there."""
        self.drop(key)
        self._held[key] = value, weight
        self.weight += weight
        while self._held and (len(self._held) > self._most or self.weight > self._heaviest):
            _, (_, gone) = self._held.popitem(last=False)
            self.weight -= gone

    def drop(self, key: K) -> None:
        """Forget it."""
        held = self._held.pop(key, None)
        if held is not None:
            self.weight -= held[1]

    def __len__(self) -> int:
        return len(self._held)


class BusyError(Exception):
    """There is no room for another piece of work."""


class Flights(Generic[K, V]):
    """Pieces of work under way, at most one for a key. Who waits may give up; the work goes on."""

    def __init__(self, most: int, most_of_one: int) -> None:
        """`most` at once, `most_of_one` on behalf of one party."""
        self._most = most
        self._most_of_one = most_of_one
        self._flying: dict[K, asyncio.Task[V]] = {}
        self._parties: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._flying)

    async def join(self, key: K, party: str, work: Callable[[], Coroutine[None, None, V]]) -> V:
        """The outcome of the work for `key`, begun now or before. BusyError when no more may be begun."""
        flight = self._flying.get(key)
        if flight is None:
            if len(self._flying) >= self._most or self._parties[party] >= self._most_of_one:
                raise BusyError
            flight = asyncio.get_running_loop().create_task(work())
            self._flying[key] = flight
            self._parties[party] += 1
            flight.add_done_callback(lambda done: self._landed(key, party, done))
        return await asyncio.shield(flight)

    async def close(self) -> None:
        """End all work."""
        flights = list(self._flying.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    def _landed(self, key: K, party: str, flight: asyncio.Task[V]) -> None:
        del self._flying[key]
        self._parties[party] -= 1
        if not self._parties[party]:
            del self._parties[party]
        if not flight.cancelled():
            flight.exception()  # whoever waited has it; nobody may have
