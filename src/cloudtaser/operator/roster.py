"""Roster: which tunnels a broker has, how many more it wants, and which ones it gives up.

Used by `tunnels`. Pure: the caller passes the time. Two tunnels, so that one may drain or die; to different
bridges where there are several, so that a bridge may. A beacon hands out whichever bridge waits longest, so
when both tunnels lead to the same bridge a few further matches are tried, then again from time to time: soon
after a bridge left, since it may come back, and ever more rarely where there is but one.

Tunnels come in generations, one for each certificate of ours. Those of an older one are used until as many of
the newest stand as are wanted; only then they are given up, so that there is no moment without a tunnel.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass


@dataclass(slots=True)
class _Held:
    bridge: str
    generation: int
    draining: bool = False


class Roster:
    """The tunnels by number, in order of arrival."""

    def __init__(self, wanted: int = 2, *, tries: int = 3, every: float = 300.0, settle: float = 5.0) -> None:
        """`tries` matches look for another bridge `settle` seconds after the start, then after four times as
        long, and so on; at last `every` so many seconds."""
        self._wanted = wanted
        self._tries = tries
        self._every = every
        self._settle = settle
        self._held: dict[int, _Held] = {}
        self._left = tries
        self._pause = settle
        self._next_search = 0.0
        self.generation = 0
        """The newest generation: that of tunnels whose making begins now."""

    @property
    def live(self) -> list[int]:
        """Tunnels that take new streams, in order of arrival, of whatever generation."""
        return [key for key, held in self._held.items() if not held.draining]

    @property
    def current(self) -> list[int]:
        """Those of the newest generation."""
        return [key for key in self.live if self._held[key].generation == self.generation]

    @property
    def bridges(self) -> set[str]:
        """The bridges that live tunnels of the newest generation lead to."""
        return {self._held[key].bridge for key in self.current}

    def renewed(self) -> None:
        """What tunnels are made with has changed: from now on only new ones count as what is wanted."""
        self.generation += 1
        self._search_anew()
        self._next_search = 0.0

    def arrived(self, key: int, bridge: str, now: float, generation: int | None = None) -> list[int]:
        """A tunnel stands, of the newest generation unless told. The tunnels to give up for it, oldest first;
        they are then counted as draining."""
        generation = self.generation if generation is None else generation
        if generation != self.generation:
            return self._latecomer(key, bridge, generation)
        if bridge not in self.bridges:
            self._search_anew()
        self._held[key] = _Held(bridge, generation)
        if len(self.current) <= self._wanted:
            if self._searching:
                self._next_search = max(self._next_search, now + self._settle)
            return self._outdated() if len(self.current) == self._wanted else []
        if len(self.bridges) == 1:
            self._left -= 1
            if self._left <= 0:
                self._left = self._tries
                self._pause = min(self._every, 4 * self._pause)
                self._next_search = now + self._pause
        return self._give_up([self._surplus()])

    def drains(self, key: int) -> None:
        """The bridge sent go-away: no new streams on this one."""
        before = self.bridges
        if key in self._held:
            self._held[key].draining = True
        if self.bridges != before:
            self._search_anew()

    def gone(self, key: int) -> None:
        """The tunnel is closed."""
        self.drains(key)
        self._held.pop(key, None)

    def to_park(self, now: float) -> int:
        """How many matches are wanted at this moment."""
        missing = self._wanted - len(self.current)
        if missing > 0:
            return missing
        return 1 if self._searching and now >= self._next_search else 0

    def next_change(self, now: float) -> float | None:
        """Seconds until `to_park` may say something else without an event; None for never."""
        return max(0.0, self._next_search - now) if self._searching and self._next_search > now else None

    @property
    def _searching(self) -> bool:
        return self._wanted > 1 and len(self.current) >= self._wanted and len(self.bridges) == 1

    def _search_anew(self) -> None:
        """A bridge came or left: what was in vain before may not be now."""
        self._left, self._pause = self._tries, self._settle

    def _latecomer(self, key: int, bridge: str, generation: int) -> list[int]:
        """It was begun before the last change: better than none, and else not needed."""
        self._held[key] = _Held(bridge, generation)
        return self._give_up([key]) if len(self.live) > 1 else []

    def _outdated(self) -> list[int]:
        return self._give_up([key for key in self.live if self._held[key].generation != self.generation])

    def _give_up(self, keys: list[int]) -> list[int]:
        for key in keys:
            self._held[key].draining = True
        return keys

    def _surplus(self) -> int:
        """The newest tunnel to the bridge that has most of them."""
        current = self.current
        counts = Counter(self._held[key].bridge for key in current)
        most = max(counts.values())
        return next(key for key in reversed(current) if counts[self._held[key].bridge] == most)
