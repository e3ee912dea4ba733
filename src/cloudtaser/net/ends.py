"""The ends of connections: what stands where a transport or protocol was, and why one was lost.

Used by `layers`, `tunnel` and `splice`. A finished connection points at NOWHERE and NOBODY instead of its
neighbours, so that no reference cycle keeps it and late calls do nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from cloudtaser.errors import CloudtaserError, UnavailableError
from cloudtaser.net.tls import reason

HIGH_WATER: Final = 256 * 1024
LOW_WATER: Final = 64 * 1024
MAX_UNREAD: Final = 1024 * 1024
"""Bytes that may wait below in all. Data stops at HIGH_WATER; what a protocol answers of itself (a pong, a
window, TLS's key update) cannot wait, so a peer that asks for it and does not read is cut off here."""


class _Nowhere(asyncio.Transport):
    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return True

    def close(self) -> None: ...

    def abort(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None: ...

    def write_eof(self) -> None: ...

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


class Bounded(asyncio.Transport):
    """A transport that lies on another: which protocol is above, and how much may wait to be written before
    that is asked to pause, and until when (bytes)."""

    _protocol: asyncio.Protocol
    _high: int = HIGH_WATER
    _low: int = LOW_WATER
    _pending_size: int = 0

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def can_write_eof(self) -> bool:
        return True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = high if high is not None else (4 * low if low is not None else HIGH_WATER)
        self._low = low if low is not None else self._high // 4

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        return self._pending_size


NOWHERE: Final[asyncio.Transport] = _Nowhere()
NOBODY: Final = asyncio.Protocol()


def hand_over(
    transport: asyncio.Transport,
    protocol: asyncio.Protocol,
    outcome: asyncio.Future[asyncio.Transport],
    early: bytes,
) -> None:
    """What was said to open the connection is over: it is `protocol`'s from now on, and so is what came
    `early`. Somebody who has stopped waiting for the `outcome` is left nothing."""
    transport.set_protocol(protocol)
    if outcome.done():  # cancelled in this very turn
        transport.abort()
        return
    outcome.set_result(transport)
    protocol.connection_made(transport)
    if early:
        protocol.data_received(early)


def lost(error: Exception | None) -> CloudtaserError | None:
    """What a transport gave to connection_lost, as an error of ours; None for a regular end."""
    if error is None or isinstance(error, CloudtaserError):
        return error
    return UnavailableError(f"the connection was lost: {reason(error)}")
