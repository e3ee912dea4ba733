"""Splice: two connections back to back, bytes passed on unread.

Used by the broker (a pod's TCP connection and a tunnel stream) and by the operator (an `apiserver` stream and
the API server). Nothing is buffered here: when one side cannot take more, the other is not read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, cast

from cloudtaser.errors import CloudtaserError, UnavailableError
from cloudtaser.net.ends import NOWHERE, lost

IDLE_TIMEOUT: Final = 3600.0
"""Seconds without a byte either way after which a splice ends."""


class Splice:
    """Give `first` and `second` to two transports, in any order; the one that is there first waits unread.

    An end of one direction is passed on as such; when both have ended, or one connection is lost, both are
    closed. A connection lost with an error aborts the other, so that a cut is not taken for an end.
    """

    def __init__(
        self, *, idle_timeout: float = IDLE_TIMEOUT, on_end: Callable[[Splice], None] | None = None
    ) -> None:
        """`on_end` is called once, when both sides are gone, or abort() was called before both were there."""
        self._loop = asyncio.get_running_loop()
        self._idle_timeout = idle_timeout
        self._on_end = on_end
        self.first: Final = _Side(self)
        self.second: Final = _Side(self)
        self.first.other, self.second.other = self.second, self.first
        self.error: CloudtaserError | None = None
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.last_activity = self._loop.time()
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(idle_timeout, self._check_idle)

    @property
    def bytes_from_first(self) -> int:
        """How much `first` has sent so far."""
        return self.first.bytes_received

    @property
    def bytes_from_second(self) -> int:
        """How much `second` has sent so far."""
        return self.second.bytes_received

    def abort(self, error: CloudtaserError | None = None) -> None:
        """Cut both connections; for the case, too, that one of them cannot be made."""
        self.error = self.error or error
        for side in (self.first, self.second):
            side.transport.abort()
            side.gone = side.gone or side.transport is NOWHERE
        self.check_end()

    def check_end(self) -> None:
        """Called by a side that is gone."""
        if self._timer is None or not (self.first.gone and self.second.gone):
            return
        self._timer.cancel()
        self._timer = None
        self.ended.set_result(None)
        if self._on_end is not None:
            on_end, self._on_end = self._on_end, None
            on_end(self)

    def _check_idle(self) -> None:
        idle = self._loop.time() - self.last_activity
        if idle >= self._idle_timeout:
            self.abort(UnavailableError(f"nothing was sent for {self._idle_timeout:g} s"))
        else:
            self._timer = self._loop.call_later(self._idle_timeout - idle, self._check_idle)


class _Side(asyncio.Protocol):
    def __init__(self, splice: Splice) -> None:
        self._splice = splice
        self._early: list[bytes] = []
        self._ended = False
        self.other: _Side
        self.transport: asyncio.Transport = NOWHERE
        self.connected = False
        self.gone = False
        self.bytes_received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's do not say so by class
        if self.gone or self.other.gone:
            self.gone = True
            transport.abort()
            return
        self.transport = transport
        self.connected = True
        if self.other.connected:
            self.other.pass_early()
        else:
            transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        splice = self._splice
        splice.last_activity = splice._loop.time()
        self.bytes_received += len(data)
        if self.other.connected:
            self.other.transport.write(data)
        else:
            self._early.append(data)

    def eof_received(self) -> bool:
        self._ended = True
        if not self.other.connected:
            return not self.other.gone
        return self._pass_end()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        self.transport = NOWHERE
        other, splice = self.other, self._splice
        if exc is not None:
            splice.error = splice.error or lost(exc)
            other.transport.abort()
        else:
            other.transport.close()
        other.gone = other.gone or not other.connected
        splice.check_end()

    def pause_writing(self) -> None:
        self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        self.other.transport.resume_reading()

    def pass_early(self) -> None:
        """The other side is there now."""
        for data in self._early:
            self.other.transport.write(data)
        self._early.clear()
        if self._ended:
            if not self._pass_end():
                self.transport.close()
        else:
            self.transport.resume_reading()

    def _pass_end(self) -> bool:
        """Our peer has ended: so do we towards the other's. False when both have, and both close."""
        if self.other._ended:
            self.other.transport.close()
            return False
        self.other.transport.write_eof()
        return True
