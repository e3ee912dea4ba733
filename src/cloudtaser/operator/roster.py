"""Roster: which tunnels a broker has, how many more it wants, and which one it gives up.

Used by `tunnels`. Pure: the caller passes the time. Two tunnels, so that one may drain or die; to different
bridges where there are several, so that a bridge may. A beacon hands out whichever bridge waits longest, so
when both tunnels lead to the same bridge a few further matches are tried, then again from time to time.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass


@dataclass(slots=True)
class _Held:
    bridge: str
    draining: bool = False


class Roster:
    """The tunnels by number, in order of arrival."""

    def __init__(self, wanted: int = 2, *, tries: int = 3, every: float = 300.0, settle: float = 5.0) -> None:
        """`tries` matches look for another bridge `settle` seconds after the start, then `every` so many."""
        self._wanted = wanted
        self._tries = tries
        self._every = every
        self._settle = settle
        self._held: dict[int, _Held] = {}
        self._left = tries
        self._next_search = 0.0

    @property
    def live(self) -> list[int]:
        """Tunnels that take new streams, in order of arrival."""
        return [key for key, held in self._held.items() if not held.draining]

    @property
    def bridges(self) -> set[str]:
        """The bridges that live tunnels lead to."""
        return {held.bridge for held in self._held.values() if not held.draining}

    def arrived(self, key: int, bridge: str, now: float) -> int | None:
        """A tunnel stands. The tunnel to give up for it, or None; it is then counted as draining."""
        if bridge not in self.bridges:
            self._left = self._tries
        self._held[key] = _Held(bridge)
        if len(self.live) <= self._wanted:
            if self._searching:
                self._next_search = max(self._next_search, now + self._settle)
            return None
        if len(self.bridges) == 1:
            self._left -= 1
            if self._left <= 0:
                self._left = self._tries
                self._next_search = now + self._every
        surplus = self._surplus()
        self._held[surplus].draining = True
        return surplus

    def drains(self, key: int) -> None:
        """The bridge sent go-away: no new streams on this one."""
        if key in self._held:
            self._held[key].draining = True

    def gone(self, key: int) -> None:
        """The tunnel is closed."""
        self._held.pop(key, None)

    def to_park(self, now: float) -> int:
        """How many matches are wanted at this moment."""
        missing = self._wanted - len(self.live)
        if missing > 0:
            return missing
        return 1 if self._searching and now >= self._next_search else 0

    def next_change(self, now: float) -> float | None:
        """Seconds until `to_park` may say something else without an event; None for never."""
        return max(0.0, self._next_search - now) if self._searching and self._next_search > now else None

    @property
    def _searching(self) -> bool:
        return self._wanted > 1 and len(self.live) >= self._wanted and len(self.bridges) == 1

    def _surplus(self) -> int:
        """The newest tunnel to the bridge that has most of them."""
        counts = Counter(held.bridge for held in self._held.values() if not held.draining)
        most = max(counts.values())
        return next(key for key in reversed(self.live) if counts[self._held[key].bridge] == most)
