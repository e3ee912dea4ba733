"""Deadlines: by when each of many numbered things must have happened, at the price of one timer.

Used by `tunnel` for streams that arrive or close, thousands a second: a timer each would cost more than they.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

SWEEP = 1.0
"""Seconds between two looks, so a deadline may be that much late."""


class Deadlines:
    """`expired` is called with the number of each deadline that has passed."""

    def __init__(self, expired: Callable[[int], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._expired = expired
        self._times: dict[int, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def set(self, number: int, seconds: float) -> None:
        """Expire `number` in so many seconds, unless it is dropped before; replaces an earlier deadline."""
        self._times[number] = self._loop.time() + seconds
        if self._timer is None:
            self._timer = self._loop.call_later(min(seconds, SWEEP), self._sweep)

    def drop(self, number: int) -> None:
        """It has happened, or matters no more."""
        self._times.pop(number, None)

    def clear(self) -> None:
        """Nothing expires any more."""
        self._times.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        now = self._loop.time()
        for number in [number for number, time in self._times.items() if time <= now]:
            self._times.pop(number, None)
            self._expired(number)
        self._timer = None
        if self._times:
            first = min(self._times.values()) - now
            self._timer = self._loop.call_later(min(max(first, 0.01), SWEEP), self._sweep)
