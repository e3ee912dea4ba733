"""TunnelStream: one stream of a tunnel, as a transport.

Made by `tunnel.Tunnel`, which moves the bytes; used like a TCP connection by whatever protocol lies on it: a
TlsLayer, a Splice, a NoiseDialogue.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from cloudtaser.errors import CloudtaserError, UnavailableError
from cloudtaser.net.ends import NOBODY, Bounded
from cloudtaser.wire.opening import Opening
from cloudtaser.wire.yamux import Session

if TYPE_CHECKING:
    from cloudtaser.net.tunnel import Tunnel

LINGER: Final = 5.0
"""Seconds a closed stream waits for the peer's end; then it is reset."""
CLOSE_TIMEOUT: Final = 30.0
"""Seconds a closed stream may take to send what was written; then it is reset."""

_PIECE: Final = 1024


class StreamResetError(UnavailableError):
    """The peer reset the stream: it refused it, or ended it for a fault of its own."""


class TunnelStream(Bounded):
    """Written bytes wait here (256 KiB and more call `pause_writing`) until window and tunnel take them.

    `pause_reading` stops the window's updates, so at most one window waits here unread. `write_eof` sends
    FIN, `abort` a reset. `get_extra_info("opening")` is the stream's opening, "draining" whether either side
    has said go-away, all else is the tunnel's.
    """

    def __init__(self, tunnel: Tunnel, number: int, opening: Opening) -> None:
        self._loop = tunnel.loop
        self._tunnel = tunnel
        self.opening: Final = opening
        self._protocol: asyncio.Protocol = NOBODY
        self._held: list[bytes] = []
        self._paused = False
        self._resuming = False
        self._pending: list[bytes | memoryview] = []
        self._pending_size = 0
        self._full = False
        self._eof_written = False
        self._closing = False
        # shared with the tunnel
        self.number: Final = number
        self.queued = False  # stands in the tunnel's line of streams that have something to send
        self.eof_sent = False
        self.eof_received = False
        self.all_read = False  # the peer's end has come and everything before it was delivered
        self.gone = False

    # -- called by the protocol above -----------------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "opening":
            return self.opening
        if name == "draining":
            return self._tunnel.draining
        return self._tunnel.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._closing or self.gone

    def is_reading(self) -> bool:
        return not (self._paused or self._closing or self.gone)

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            if not self._resuming and not self._closing:
                self._resuming = True
                self._loop.call_soon(self._resume)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self._eof_written:
            raise RuntimeError("write after write_eof")
        if self._closing or self.gone or not data:
            return
        self._pending.append(data if type(data) is bytes else bytes(data))
        self._pending_size += len(self._pending[-1])
        self._tunnel.has_data(self)
        if self._pending_size > self._high and not self._full:
            self._full = True
            self._protocol.pause_writing()

    def write_eof(self) -> None:
        if not (self._eof_written or self._closing or self.gone):
            self._eof_written = True
            self._tunnel.has_data(self)

    def close(self) -> None:
        if self._closing or self.gone:
            return
        self._closing = True
        self._discard_held()
        self.all_read = self.eof_received
        if self.eof_sent:
            self._sent_all()
        else:
            self._tunnel.deadlines.set(self.number, CLOSE_TIMEOUT)
            self._tunnel.has_data(self)

    def abort(self) -> None:
        if not self.gone:
            self._tunnel.reset(self)

    # -- called by the tunnel -------------------------------------------------------------------------------

    def start(self, protocol: asyncio.Protocol) -> None:
        """The stream stands: `protocol` is its user's."""
        self._protocol = protocol
        protocol.connection_made(self)

    def receive(self, data: bytes) -> None:
        """Bytes of the peer's. They open its window again once the protocol has taken them."""
        if (self._paused or self._held or self._resuming) and not self._closing:
            if self._held and len(self._held[-1]) + len(data) <= _PIECE:
                self._held[-1] += data  # a window of tiny frames must not weigh many times its bytes
            else:
                self._held.append(data)
            return
        if not self._closing:
            self._protocol.data_received(data)
        self._tunnel.consumed(self, len(data))

    def receive_eof(self) -> None:
        """The peer's FIN. Told after everything before it."""
        self.eof_received = True
        if self._closing:
            self.all_read = True
            self._tunnel.finish_if_ended(self)
        elif not (self._paused or self._held or self._resuming):
            self._tell_eof()

    def send_to(self, session: Session, quantum: int) -> int:
        """Send up to `quantum` bytes, and FIN behind the last; how many they were. The stream is in line
        again if there are more, unless its window is full: then WindowGrew brings it back."""
        sent = 0
        if self._pending_size:
            data = self._take(quantum)
            sent = session.send(self.number, data)
            if sent < len(data):
                self._pending.insert(0, data[sent:])
                self._pending_size += len(data) - sent
                self._was_sent()
                return sent
            self._was_sent()
            if self._pending_size:
                self._tunnel.has_data(self)
                return sent
        if (self._eof_written or self._closing) and not (self.eof_sent or self.gone):
            session.close(self.number)
            self.eof_sent = True
            if self._closing:
                self._sent_all()
            else:
                self._tunnel.finish_if_ended(self)
        return sent

    def lose(self, error: CloudtaserError | None) -> None:
        """The stream is over; the protocol hears it on the next turn of the loop."""
        self.gone = True
        self._held.clear()
        self._pending.clear()
        self._pending_size = 0
        protocol, self._protocol = self._protocol, NOBODY
        if protocol is not NOBODY:
            self._loop.call_soon(protocol.connection_lost, error)

    # -- private --------------------------------------------------------------------------------------------

    def _take(self, quantum: int) -> bytes:
        """Up to `quantum` of the bytes that wait."""
        pending = self._pending
        first = pending[0]
        if len(pending) > 1 and len(first) < quantum:
            first = b"".join(pending)
            pending.clear()
            pending.append(first)
        if len(first) <= quantum:
            del pending[0]
            taken = first if type(first) is bytes else bytes(first)
        else:
            view = memoryview(first)
            taken, pending[0] = bytes(view[:quantum]), view[quantum:]
        self._pending_size -= len(taken)
        return taken

    def _was_sent(self) -> None:
        if self._full and self._pending_size <= self._low:
            self._full = False
            if not self._closing:
                self._protocol.resume_writing()

    def _resume(self) -> None:
        self._resuming = False
        self._tunnel.guard(self, self._deliver_held)

    def _deliver_held(self) -> None:
        while self._held and not (self._paused or self._closing or self.gone):
            data = self._held.pop(0)
            self._protocol.data_received(data)
            self._tunnel.consumed(self, len(data))
        if self.eof_received and not (self._held or self._paused or self._closing or self.gone):
            self._tell_eof()

    def _tell_eof(self) -> None:
        self.all_read = True
        if not self._protocol.eof_received():
            self.close()
        self._tunnel.finish_if_ended(self)

    def _discard_held(self) -> None:
        size = sum(map(len, self._held))
        self._held.clear()
        if size:
            self._tunnel.consumed(self, size)

    def _sent_all(self) -> None:
        if self.eof_received:
            self._tunnel.finish_if_ended(self)
        else:
            self._tunnel.deadlines.set(self.number, LINGER)
