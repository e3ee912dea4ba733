"""Door: the listener at which sealed wrappers announce themselves, port 8446.

Used by `method`. Anybody in the cluster's network can connect, so each connection gets one request, a few
seconds and a small buffer; connections are bounded in all and for one address, and an address whose
announcements are not believed has to wait. TLS is the operator's, under the pod CA; who sends is not known
before its token was reviewed.
"""

from __future__ import annotations

import asyncio
import math
import os
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, cast

from cloudtaser.errors import UnavailableError
from cloudtaser.net.ends import NOWHERE
from cloudtaser.net.layers import TlsLayer
from cloudtaser.net.log import get_logger
from cloudtaser.operator.enrolment import Reporter
from cloudtaser.operator.settings import Listen
from cloudtaser.operator.tokens.announcement import MAX_BODY
from cloudtaser.operator.tokens.metrics import TokenMetrics
from cloudtaser.wire.http1 import CONTINUE, Body, End, HttpError, RequestHead, RequestParser, simple_response

PATH: Final = b"/v1/announce"
MAX_HEAD: Final = 4096
BACKLOG: Final = 1024

_log = get_logger("operator.tokens")


@dataclass(frozen=True, slots=True)
class DoorLimits:
    """Times in seconds."""

    connections: int = 1024
    connections_per_source: int = 64
    request_seconds: float = 5.0
    """From the connection to the end of the request, the TLS handshake included."""
    answer_seconds: float = 5.0
    """From there to the answer; the wrapper itself waits five for everything."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to one announcement. `retry_after` in seconds, 0 to say nothing of it."""

    status: int
    outcome: str
    retry_after: float = 0.0


Hear = Callable[[bytes, str], Awaitable[Verdict]]
"""Takes the body and the source address."""


class Door:
    """`context` gives the TLS context as it is now; None closes every connection at once."""

    def __init__(
        self,
        listen: Listen,
        limits: DoorLimits,
        context: Callable[[], ssl.SSLContext | None],
        hear: Hear,
        metrics: TokenMetrics,
    ) -> None:
        self.limits = limits
        self.hear = hear
        self._listen = listen
        self._context = context
        self._metrics = metrics
        self._server: asyncio.Server | None = None
        self._guests: set[_Guest] = set()
        self._by_source: Counter[str] = Counter()
        self._reporter = Reporter()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, once started."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    @property
    def connections(self) -> int:
        """Open now."""
        return len(self._guests)

    async def start(self) -> None:
        """Listen. UnavailableError when the address cannot be had."""
        loop = asyncio.get_running_loop()
        host, port = self._listen.host or None, self._listen.port
        try:
            self._server = await loop.create_server(self._welcome, host, port, backlog=BACKLOG)
        except OSError as error:
            raise UnavailableError(
                f"cannot listen for announcements: {os.strerror(error.errno or 0).lower()}",
                on=str(self._listen),
                fix="choose another --unseal-listen",
            ) from None

    async def close(self) -> None:
        """Hear nobody any more."""
        if self._server is not None:
            self._server.close()
        for guest in list(self._guests):
            guest.cut()
        if self._server is not None:
            await self._server.wait_closed()

    def _welcome(self) -> asyncio.Protocol:
        context = self._context()
        if context is None:
            return _Turned("no certificate", self)
        guest = _Guest(self)
        return _Outer(context, guest, self)

    def admit(self, guest: _Guest, source: str) -> str:
        """Why a connection is refused; empty when it was let in."""
        if len(self._guests) >= self.limits.connections:
            return "too many connections"
        if self._by_source[source] >= self.limits.connections_per_source:
            return "too many connections of one source"
        self._guests.add(guest)
        self._by_source[source] += 1
        return ""

    def refused(self, source: str, reason: str) -> None:
        """Count it, and say it once a minute."""
        self._metrics.announcements.labels(reason.replace(" ", "_")).inc()
        if self._reporter.due(reason, asyncio.get_running_loop().time()):
            _log.warning("an announcement was not heard", reason=reason, source=source)

    def answered(self, verdict: Verdict) -> None:
        """Count it."""
        self._metrics.announcements.labels(verdict.outcome).inc()

    def left(self, guest: _Guest, source: str) -> None:
        """A connection is over."""
        if guest in self._guests:
            self._guests.discard(guest)
            self._by_source[source] -= 1
            if self._by_source[source] <= 0:
                del self._by_source[source]


class _Turned(asyncio.Protocol):
    """A connection that is not wanted."""

    def __init__(self, reason: str, door: Door) -> None:
        self._reason = reason
        self._door = door

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._door.refused(_source(transport), self._reason)
        cast("asyncio.Transport", transport).abort()


class _Outer(TlsLayer):
    """TLS that begins only where the connection is admitted, and ends with its time."""

    def __init__(self, context: ssl.SSLContext, guest: _Guest, door: Door) -> None:
        super().__init__(context, guest, server_side=True, handshake_timeout=door.limits.request_seconds)
        self._door = door
        self._guest = guest
        self._source = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._source = _source(transport)
        self._guest.source = self._source
        reason = self._door.admit(self._guest, self._source)
        if reason:
            self._door.refused(self._source, reason)
            cast("asyncio.Transport", transport).abort()
            return
        self._guest.arrived(cast("asyncio.Transport", transport))
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._guest.gone()
        self._door.left(self._guest, self._source)
        super().connection_lost(exc)


class _Guest(asyncio.Protocol):
    """One connection: one request, one answer."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._parser = RequestParser(MAX_HEAD, max_target=256, max_headers=32, max_body=MAX_BODY)
        self._lower: asyncio.Transport = NOWHERE
        self._transport: asyncio.Transport = NOWHERE
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._head: RequestHead | None = None
        self._body = bytearray()
        self._done = False
        self.source = ""

    # what lies below

    def arrived(self, lower: asyncio.Transport) -> None:
        """TCP stands; TLS and the request have their time from now on."""
        self._lower = lower
        seconds = self._door.limits.request_seconds
        self._timer = asyncio.get_running_loop().call_later(seconds, self._late)

    def gone(self) -> None:
        """TCP is gone."""
        self._stop()
        if self._task is not None:
            self._task.cancel()
        self._lower = self._transport = NOWHERE

    def cut(self) -> None:
        """End it now."""
        self._lower.abort()

    # asyncio.Protocol, above TLS

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._done:
            return
        try:
            events = self._parser.receive(data)
        except HttpError as error:
            self._answer(Verdict(error.status, "malformed"))
            return
        for event in events:
            self._act(event)

    def _act(self, event: RequestHead | Body | End) -> None:
        if self._done or self._task is not None:  # there is no second request
            return
        if isinstance(event, RequestHead):
            self._begin(event)
        elif isinstance(event, Body):
            self._body += event.data
        elif isinstance(event, End):
            self._whole()

    def eof_received(self) -> bool:
        return not self._done and self._task is not None  # a half-closed sender still gets its answer

    # inside

    def _begin(self, head: RequestHead) -> None:
        self._head = head
        if head.target != PATH:
            self._answer(Verdict(404, "malformed"))
        elif head.method != b"POST":
            self._answer(Verdict(405, "malformed"))
        elif head.chunked or head.content_length is None:
            self._answer(Verdict(411, "malformed"))
        elif head.expect_continue:
            self._transport.write(CONTINUE)

    def _whole(self) -> None:
        self._stop()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._door.limits.answer_seconds, self._late)
        body, self._body = bytes(self._body), bytearray()
        self._task = loop.create_task(self._hear(body))

    async def _hear(self, body: bytes) -> None:
        verdict = await self._door.hear(body, self.source)
        self._answer(verdict)

    def _answer(self, verdict: Verdict) -> None:
        if self._done:
            return
        self._done = True
        self._door.answered(verdict)
        headers = [(b"connection", b"close"), (b"cache-control", b"no-store")]
        if verdict.retry_after > 0:
            headers.append((b"retry-after", b"%d" % math.ceil(verdict.retry_after)))
        body = b'{"accepted":true}' if verdict.status < 300 else b'{"accepted":false}'
        self._transport.write(simple_response(verdict.status, body, headers))
        self._transport.close()
        self._stop()
        self._timer = asyncio.get_running_loop().call_later(self._door.limits.request_seconds, self.cut)

    def _late(self) -> None:
        if self._task is not None and not self._done:
            self._task.cancel()
            self._answer(Verdict(503, "busy", 5.0))
        elif not self._done:
            self._door.refused(self.source, "too slow")
            self.cut()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _source(transport: asyncio.BaseTransport) -> str:
    peer = transport.get_extra_info("peername")
    return str(peer[0]).removeprefix("::ffff:") if peer else ""
