"""What the tests of net plug together: a protocol that records, and two ends of a wire without a socket."""

from __future__ import annotations

import asyncio
from typing import Any, cast


class Recorder(asyncio.Protocol):
    """Keeps everything it hears; `half_open` keeps the connection after the peer's end."""

    def __init__(self, *, half_open: bool = False, echo: bool = False) -> None:
        loop = asyncio.get_running_loop()
        self.half_open = half_open
        self.echo = echo
        self.transport: asyncio.Transport
        self.data = bytearray()
        self.made = asyncio.Event()
        self.ended = asyncio.Event()
        self.lost: asyncio.Future[Exception | None] = loop.create_future()
        self.losses = 0
        self.may_write = asyncio.Event()
        self.may_write.set()
        self.pauses = 0
        self._news = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.made.set()

    def data_received(self, data: bytes) -> None:
        assert not self.ended.is_set()
        assert not self.losses
        self.data += data
        self._news.set()
        if self.echo:
            self.transport.write(data)

    def eof_received(self) -> bool:
        assert not self.ended.is_set()
        self.ended.set()
        return self.half_open

    def connection_lost(self, exc: Exception | None) -> None:
        self.losses += 1
        self.may_write.set()
        self._news.set()
        if not self.lost.done():
            self.lost.set_result(exc)

    def pause_writing(self) -> None:
        self.pauses += 1
        self.may_write.clear()

    def resume_writing(self) -> None:
        self.may_write.set()

    async def received(self, size: int) -> bytes:
        """Wait until `size` bytes are there in all."""
        while len(self.data) < size:
            if self.losses:
                raise AssertionError(f"lost after {len(self.data)} bytes: {self.lost.result()!r}")
            self._news.clear()
            await self._news.wait()
        return bytes(self.data)

    async def send(self, data: bytes, piece: int = 64 * 1024) -> None:
        """Write in pieces, waiting whenever the transport asks to."""
        for start in range(0, len(data), piece):
            await self.may_write.wait()
            self.transport.write(data[start : start + piece])


class Wire(asyncio.Transport):
    """One end of a wire in memory. What is written is delivered on the next turn of the loop, in order.

    `cork()` keeps what is written in `flight` until `uncork()`; with it a slow network is played.
    """

    def __init__(self, protocol: asyncio.Protocol) -> None:
        self.loop = asyncio.get_running_loop()
        self.protocol = protocol
        self.other: Wire
        self.flight: list[bytes] = []
        self.writes: list[bytes] = []
        self.reading = True
        self.corked = False
        self.eof = False
        self.eof_delivered = False
        self.closing = False
        self.dead = False
        self.full = False
        self.high = 256 * 1024
        self.most = 0
        self.scheduled = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        assert not self.eof, "write after write_eof"
        if self.closing or self.dead or not data:
            return
        self.writes.append(bytes(data))
        self.flight.append(bytes(data))
        self.most = max(self.most, self.waiting)
        if self.waiting > self.high and not self.full:
            self.full = True
            self.protocol.pause_writing()
        self.push()

    @property
    def waiting(self) -> int:
        return sum(map(len, self.flight))

    def push(self) -> None:
        if not self.scheduled and not self.corked:
            self.scheduled = True
            self.loop.call_soon(self.deliver)

    def cork(self) -> None:
        self.corked = True

    def uncork(self) -> None:
        self.corked = False
        self.push()

    def deliver(self) -> None:
        self.scheduled = False
        if self.dead or self.corked:
            return
        other = self.other
        while self.flight and other.reading and not other.dead:
            data = self.flight.pop(0)
            if not other.closing:
                other.protocol.data_received(data)
        if self.full and self.waiting <= self.high // 4:
            self.full = False
            self.protocol.resume_writing()
        if other.dead:
            self.flight.clear()
        elif self.flight:
            return
        elif (self.eof or self.closing) and not self.eof_delivered and other.reading:
            self.eof_delivered = True
            if not other.closing and not other.protocol.eof_received():
                other.close()
        if self.closing and not self.dead:
            self.die(None)

    def die(self, error: Exception | None) -> None:
        if not self.dead:
            self.dead = True
            self.loop.call_soon(self.protocol.connection_lost, error)
            self.protocol = asyncio.Protocol()  # as a real transport, it lets go
            self.other.push()

    def write_eof(self) -> None:
        self.eof = True
        self.push()

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            self.push()

    def abort(self) -> None:
        self.closing = True
        self.flight.clear()
        self.die(None)
        self.other.cut(ConnectionResetError(104, "Connection reset by peer"))

    def cut(self, error: Exception | None) -> None:
        """The connection breaks."""
        self.closing = True
        self.flight.clear()
        self.die(error)

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True
        self.other.push()

    def is_reading(self) -> bool:
        return self.reading

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("198.51.100.7", 4711) if name == "peername" else default


def plug(a: asyncio.Protocol, b: asyncio.Protocol) -> tuple[Wire, Wire]:
    """Connect two protocols; connection_made is called on both."""
    one, two = Wire(a), Wire(b)
    one.other, two.other = two, one
    a.connection_made(one)
    b.connection_made(two)
    return one, two
