"""Exchange: one request to OpenBao and its answer, and the connection that carries them one after another.

Made by `upstream`, which pools the connections. Callbacks, no task and no future for a request: a body is
pushed into the `Exchange`, the answer's events come to its `Receiver` as they are read.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Hashable, Sequence
from typing import Protocol, TypeAlias, cast

from cloudtaser.errors import CloudtaserError, ProtocolError, UnavailableError
from cloudtaser.wire.http1 import Body, End, ResponseHead, ResponseParser

AnswerEvent: TypeAlias = ResponseHead | Body | End


class Receiver(Protocol):
    """Who wants an answer. After `failed`, or `answered` with an End, nothing more is called."""

    def answered(self, events: Sequence[AnswerEvent]) -> None:
        """The next part of the answer."""

    def failed(self, error: CloudtaserError) -> None:
        """No answer, or no rest of it."""

    def pause_sending(self) -> None:
        """Push no more body until `resume_sending`."""

    def resume_sending(self) -> None:
        """Go on."""


class Pool(Protocol):
    """What `upstream` does for an exchange and a connection."""

    def start(self, exchange: Exchange, *, fresh: bool = False) -> None:
        """Give it a connection, or a place in the queue. `fresh` means no kept connection."""

    def withdraw(self, exchange: Exchange) -> None:
        """It no longer waits."""

    def release(self, connection: Connection) -> None:
        """Its exchange is over and it can serve another."""

    def gone(self, connection: Connection) -> None:
        """It is closed."""


class Exchange:
    """One request on its way, and its answer."""

    __slots__ = (
        "_connection",
        "_ended",
        "_held",
        "_method",
        "_over",
        "_paused",
        "_pool",
        "_receiver",
        "_repeatable",
        "_timer",
        "owner",
    )

    def __init__(
        self,
        pool: Pool,
        method: bytes,
        data: bytes,
        receiver: Receiver,
        ended: bool,
        repeatable: bool,
        owner: Hashable = None,
    ) -> None:
        self._pool = pool
        self._method = method
        self._receiver = receiver
        self._held = [data]  # until there is a connection, and as long as it may be sent again
        self._ended = ended
        self._repeatable = ended and repeatable
        self._connection: Connection | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._over = False
        self._paused = False
        self.owner = owner
        """(pool) In whose share it counts."""

    def send(self, data: bytes, *, last: bool = False) -> None:
        """The next bytes of the request's body, framed; `last` when there are no more."""
        if self._over:
            return
        self._ended = self._ended or last
        if self._connection is None:
            self._held.append(data)
        else:
            self._connection.write(data)

    def pause(self) -> None:
        """Read no more of the answer for now."""
        self._paused = True
        if self._connection is not None:
            self._connection.pause_reading()

    def resume(self) -> None:
        """Read on."""
        self._paused = False
        if self._connection is not None:
            self._connection.resume_reading()

    def cancel(self) -> None:
        """The answer is no longer wanted; the connection is lost to the pool."""
        if not self._over:
            self._finish()
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.drop()
            else:
                self._pool.withdraw(self)

    def waits(self, timer: asyncio.TimerHandle) -> None:
        """(pool) There is no connection yet."""
        self._timer = timer
        if not self._ended:
            self._receiver.pause_sending()

    def begins(self, connection: Connection) -> None:
        """(pool) Here is one."""
        waited = self._stop_timer()
        self._connection = connection
        data = b"".join(self._held) if len(self._held) > 1 else self._held[0]
        if not self._repeatable:
            self._held = []
        connection.write(data)
        if self._paused:
            connection.pause_reading()
        if waited and not self._ended:
            self._receiver.resume_sending()

    @property
    def method(self) -> bytes:
        """(connection) What was asked, which decides how an answer is framed."""
        return self._method

    @property
    def whole(self) -> bool:
        """(connection) The request has been sent to its end."""
        return self._ended

    def takes(self, events: Sequence[AnswerEvent], *, ended: bool) -> None:
        """(connection) Part of the answer."""
        self._repeatable = False
        self._held = []
        if ended:
            self._connection = None
            self._finish()
        self._receiver.answered(events)

    def breaks(self, error: CloudtaserError, *, stale: bool = False) -> None:
        """(pool, connection) No answer; sent once more if that can do no harm."""
        self._connection = None
        if self._over:
            return
        if stale and self._repeatable:
            self._repeatable = False
            self._pool.start(self, fresh=True)
            return
        self._finish()
        self._receiver.failed(error)

    def presses(self, *, full: bool) -> None:
        """(connection) OpenBao reads slower than we send, or has caught up."""
        if not self._over:
            (self._receiver.pause_sending if full else self._receiver.resume_sending)()

    def _stop_timer(self) -> bool:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        return timer is not None

    def _finish(self) -> None:
        self._over = True
        self._held = []
        self._stop_timer()


class Connection(asyncio.Protocol):
    """One connection; serves one exchange at a time."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._parser = ResponseParser()
        self._exchange: Exchange | None = None
        self._used = False
        self._heard = False
        self._paused = False
        self._keep = True
        self.idle_since = 0.0
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's do not say so by class
        self._transport = transport
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def begin(self, exchange: Exchange) -> None:
        """Serve an exchange. It may be over when this returns."""
        self._exchange = exchange
        self._heard = False
        self._parser.expect(exchange.method)
        exchange.begins(self)

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def pause_reading(self) -> None:
        if self._transport is not None and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and self._paused:
            self._paused = False
            self._transport.resume_reading()

    def drop(self) -> None:
        """End it at once; nothing more is heard of it."""
        self._exchange = None
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._exchange is None:
            self.drop()  # OpenBao said something unasked: a time-out notice, or nonsense
            return
        self._heard = True
        try:
            events = self._parser.receive(data)
        except ProtocolError as error:
            self._break(error)
            return
        self._deliver(events)

    def eof_received(self) -> None:
        if self._exchange is None:
            return
        try:
            events = self._parser.eof()
        except ProtocolError:
            return  # connection_lost says so
        if events:
            self._deliver(events, reusable=False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if not self.lost.done():
            self.lost.set_result(None)
        exchange, self._exchange = self._exchange, None
        self._pool.gone(self)
        if exchange is not None:
            error = UnavailableError("OpenBao closed the connection before its answer was whole")
            exchange.breaks(error, stale=self._used and not self._heard)

    def pause_writing(self) -> None:
        if self._exchange is not None:
            self._exchange.presses(full=True)

    def resume_writing(self) -> None:
        if self._exchange is not None:
            self._exchange.presses(full=False)

    def _deliver(self, events: Sequence[AnswerEvent], *, reusable: bool = True) -> None:
        exchange = self._exchange
        if exchange is None or not events:
            return
        for event in events:
            if isinstance(event, ResponseHead):
                reusable = reusable and event.keep_alive
                self._keep = reusable
        ended = isinstance(events[-1], End)
        if ended:
            self._exchange = None
            self._used = True
            self.resume_reading()
            if self._keep and reusable and exchange.whole:
                self._pool.release(self)
            else:
                self.drop()
        exchange.takes(events, ended=ended)

    def _break(self, error: CloudtaserError) -> None:
        exchange, self._exchange = self._exchange, None
        self.drop()
        if exchange is not None:
            exchange.breaks(error)
