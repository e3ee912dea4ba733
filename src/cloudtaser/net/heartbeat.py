"""Heartbeat: whether the other side of a tunnel still lives, and how far away it is.

Used by `tunnel`. A ping every interval; the peer is dead once `missed` of them went by without a byte from
it, answer or not: behind a slow reader an answer may have to queue (spec/wire.md, "Tunnel").
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Heartbeat:
    """`send` sends a ping and returns its nonce; `dead` is called once, when the peer is."""

    def __init__(
        self, interval: float, missed: int, send: Callable[[], int], dead: Callable[[], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._interval = interval
        self._missed = missed
        self._send = send
        self._dead = dead
        self._silent = 0
        self._sent: dict[int, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.round_trip: float | None = None

    def beat(self) -> None:
        """Send the first ping, and then one each interval until `stop`."""
        if self._silent > self._missed:
            self._dead()
            return
        self._silent += 1
        self._sent[self._send()] = self._loop.time()
        while len(self._sent) > self._missed + 1:
            del self._sent[next(iter(self._sent))]
        self._timer = self._loop.call_later(self._interval, self.beat)

    def heard(self) -> None:
        """Bytes came from the peer."""
        self._silent = 0

    def answered(self, nonce: int) -> None:
        """The ping with `nonce` was answered."""
        sent = self._sent.pop(nonce, None)
        if sent is not None:
            self.round_trip = self._loop.time() - sent

    def stop(self) -> None:
        """No further ping."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._sent.clear()
