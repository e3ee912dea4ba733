"""GrpcTransport: one bidirectional gRPC stream as an asyncio transport, so that TLS and tunnel lie on it.

Used by `grpc_client` and `grpc_server`, which make the stream; here are back-pressure both ways, the bounds,
and the ends. What is written in one turn leaves in messages of up to 64 KiB; what the peer sends is read one
message at a time, and not at all while reading is paused (HTTP/2's flow control then stops the peer).
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from typing import Any, Final, Protocol

from cloudtaser.errors import CloudtaserError
from cloudtaser.net.ends import NOBODY, Bounded
from cloudtaser.wire.grpc_message import MAX_DATA, MAX_MESSAGE, decode, encode

LINGER: Final = 2.0
"""Seconds a closed stream waits for the peer's end."""
CLOSE_TIMEOUT: Final = 30.0
"""Seconds a closed stream may take to send what was written."""
KEEPALIVE_MS: Final = 20_000
"""Between two HTTP/2 pings: proxies on the way see a connection that lives."""
KEEPALIVE_TIMEOUT_MS: Final = 10_000

OPTIONS: Final[tuple[tuple[str, int | str], ...]] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_metadata_size", 8 * 1024),
    ("grpc.absolute_max_metadata_size", 16 * 1024),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.lookahead_bytes", 256 * 1024),
    ("grpc.enable_channelz", 0),
)
"""What both sides have in common."""

_NOISE: Final = re.compile(r"failed to connect to all addresses; last error: |[A-Z_]+: (?=ipv[46]:|unix)")
_SHOWN: Final = 160


class MessageStream(Protocol):
    """What a gRPC call looks like from here, whichever side made it."""

    async def read(self) -> bytes | None:
        """The next message; None at the peer's end. Any exception: the stream is over."""

    async def write(self, message: bytes) -> None:
        """Send a message; returns when gRPC has taken it over. Any exception: the stream is over."""

    async def finish(self) -> bool:
        """Say that no more will be written; whether that is the end both ways."""

    def cancel(self) -> None:
        """End the stream now."""

    def why(self, fault: BaseException) -> CloudtaserError:
        """What an exception of `read` or `write` means."""


class GrpcTransport(Bounded):
    """One stream. Give it a protocol with `start`; `closed` is done when nothing of it is left."""

    def __init__(self, stream: MessageStream, extra: dict[str, Any]) -> None:
        super().__init__(extra)
        self._loop = asyncio.get_running_loop()
        self._stream = stream
        self._protocol: asyncio.Protocol = NOBODY
        self._pending: deque[bytes] = deque()
        self._pending_size = 0
        self._full = self._closing = self._lost = False
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.aborted = False
        self.closed: asyncio.Future[None] = self._loop.create_future()

    def start(self, protocol: asyncio.Protocol) -> None:
        """Begin to read and write; `protocol.connection_made` has been called when this returns."""
        self._protocol = protocol
        protocol.connection_made(self)
        self._tasks = [self._loop.create_task(self._reading()), self._loop.create_task(self._writing())]

    def is_closing(self) -> bool:
        return self._closing or self._lost

    def is_reading(self) -> bool:
        return self._may_read.is_set() and not self._closing

    def pause_reading(self) -> None:
        if not self._closing:
            self._may_read.clear()

    def resume_reading(self) -> None:
        self._may_read.set()

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self._closing or self._lost or not data:
            return
        self._pending.append(bytes(data))
        self._pending_size += len(data)
        self._wake.set()
        if self._pending_size > self._high and not self._full:
            self._full = True
            self._protocol.pause_writing()

    def can_write_eof(self) -> bool:
        return False

    def write_eof(self) -> None:
        raise NotImplementedError("a gRPC stream ends as a whole")

    def close(self) -> None:
        if not self.is_closing():
            self._closing = True
            self._may_read.set()
            self._wake.set()
            self._timer = self._loop.call_later(CLOSE_TIMEOUT, self.abort)

    def abort(self) -> None:
        self._closing = self.aborted = True
        self._lose(None)

    def fail(self, error: CloudtaserError) -> None:
        """End it now, by that error."""
        self.aborted = True
        self._lose(error)

    # -- the two loops

    async def _reading(self) -> None:
        try:
            while True:
                message = await self._stream.read()
                if message is None:
                    break
                data = decode(message)
                await self._may_read.wait()
                if data and not self._closing:
                    self._protocol.data_received(data)
        except CloudtaserError as error:
            self.fail(error.with_traceback(None))
        except Exception as fault:  # noqa: BLE001  # gRPC's are many; `why` knows them
            self.fail(self._stream.why(fault))
        except asyncio.CancelledError as fault:
            if not self._lost:  # the call was cancelled, not we
                self.fail(self._stream.why(fault))
            raise
        else:
            self._ended()

    async def _writing(self) -> None:
        try:
            while not (self._closing and not self._pending):
                if not self._pending:
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                data = self._take()
                await self._stream.write(encode(data))
                self._taken(len(data))
            whole = await self._stream.finish()
        except Exception as fault:  # noqa: BLE001  # as above
            self.fail(self._stream.why(fault))
            return
        if whole:
            self._lose(None)
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(LINGER, self._lose, None)

    def _take(self) -> bytes:
        """The bytes of one message. They count as waiting until gRPC has them."""
        first = self._pending.popleft()
        if len(first) >= MAX_DATA or not self._pending:
            parts = [first]
        else:
            parts, size = [first], len(first)
            while self._pending and size < MAX_DATA:
                parts.append(self._pending.popleft())
                size += len(parts[-1])
        data = b"".join(parts)
        if len(data) > MAX_DATA:
            self._pending.appendleft(data[MAX_DATA:])
            data = data[:MAX_DATA]
        return data

    def _taken(self, size: int) -> None:
        self._pending_size -= size
        if self._full and self._pending_size <= self._low:
            self._full = False
            if not self._lost:
                self._protocol.resume_writing()

    # -- ends

    def _ended(self) -> None:
        """The peer sends no more."""
        if self._closing:
            self._lose(None)
        elif not self._protocol.eof_received():
            self.close()

    def _lose(self, error: CloudtaserError | None) -> None:
        """Nothing more comes or goes; the protocol hears of it in the next turn."""
        if self._lost:
            return
        self._lost = self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        self._pending.clear()
        self._loop.call_soon(self._over, error)

    def _over(self, error: CloudtaserError | None) -> None:
        protocol, self._protocol = self._protocol, NOBODY
        self._stream.cancel()
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()
        try:
            protocol.connection_lost(error)
        finally:
            if not self.closed.done():
                self.closed.set_result(None)


def in_words(code: str, details: str | None) -> str:
    """A gRPC status as a person reads it: bounded, one line, without gRPC's own preamble."""
    text = _NOISE.sub("", details or "").strip()
    text = "".join(letter if letter.isprintable() else " " for letter in text)[:_SHOWN]
    return text or f"gRPC status {code}"
