"""Door of the webhook's listener: who may connect to it, how many at once, and for how long unheard.

Used by `serving`. API servers show no certificate, so anybody in the cluster's network can connect. Hence
connections are bounded in all and for one address, and one that has sent no whole request head a few
seconds after it came is cut off. TLS is a TlsLayer, which takes a tenth of the memory of asyncio's own.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from dataclasses import dataclass
from typing import Final, cast

from aiohttp import web
from aiohttp.typedefs import Handler

from cloudtaser.net.layers import TlsLayer
from cloudtaser.net.log import get_logger
from cloudtaser.operator.enrolment import Reporter
from cloudtaser.operator.metrics import ManagerMetrics
from cloudtaser.operator.settings import Listen

BACKLOG: Final = 1024

_log = get_logger("operator.serving")


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Of one replica's webhook."""

    connections: int = 512
    connections_per_source: int = 192
    """Of one address: an API server opens as many as it has requests under way that concern us."""
    request_seconds: float = 5.0
    """From the connection to the end of its first request's head, the TLS handshake included. Later ones
    have aiohttp's keep-alive time."""


class ServingDoor:
    """Counts connections."""

    def __init__(self, limits: ConnectionLimits, context: ssl.SSLContext, metrics: ManagerMetrics) -> None:
        self.limits = limits
        self.context = context
        self._metrics = metrics
        self._open: set[asyncio.Protocol] = set()
        self._by_source: Counter[str] = Counter()
        self._reporter = Reporter()

    @property
    def connections(self) -> int:
        """Open now."""
        return len(self._open)

    def admit(self, connection: asyncio.Protocol, source: str) -> bool:
        """Whether one more may be there."""
        if len(self._open) >= self.limits.connections:
            self.refused(source, "too many connections")
            return False
        if self._by_source[source] >= self.limits.connections_per_source:
            self.refused(source, "too many connections of one source")
            return False
        self._open.add(connection)
        self._by_source[source] += 1
        self._metrics.webhook_connections.set(len(self._open))
        return True

    def refused(self, source: str, reason: str) -> None:
        """Count it, and say it once a minute."""
        self._metrics.webhook_refused.labels(reason.replace(" ", "_")).inc()
        if self._reporter.due(reason, asyncio.get_running_loop().time()):
            _log.warning("a connection to the webhook was cut off", reason=reason, source=source)

    def left(self, connection: asyncio.Protocol, source: str) -> None:
        """A connection is over, admitted or not."""
        if connection not in self._open:
            return
        self._open.discard(connection)
        self._by_source[source] -= 1
        if self._by_source[source] <= 0:
            del self._by_source[source]
        self._metrics.webhook_connections.set(len(self._open))


class DoorSite(web.BaseSite):
    """A site of aiohttp's whose connections come through a door."""

    def __init__(self, runner: web.AppRunner, listen: Listen, door: ServingDoor) -> None:
        super().__init__(runner, backlog=BACKLOG)
        self._listen = listen
        self._door = door

    @property
    def name(self) -> str:
        return f"https://{self._listen}"

    async def start(self) -> None:
        """Listen. OSError when the address cannot be had."""
        await super().start()
        server = self._runner.server
        assert server is not None
        host, port = self._listen.host or None, self._listen.port
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Connection(self._door, server()), host, port, backlog=BACKLOG
        )


@web.middleware
async def heard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Middleware that tells the connection of its first request."""
    if isinstance(request.transport, _Connection):
        request.transport.heard()
    return await handler(request)


class _Connection(TlsLayer):
    """TLS that begins only where the connection is admitted."""

    def __init__(self, door: ServingDoor, upper: asyncio.Protocol) -> None:
        seconds = door.limits.request_seconds
        super().__init__(door.context, upper, server_side=True, handshake_timeout=seconds)
        self._door = door
        self._source = ""
        self._unheard: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        self._source = str(peer[0]).removeprefix("::ffff:") if peer else ""
        if not self._door.admit(self, self._source):
            cast("asyncio.Transport", transport).abort()
            return
        self._unheard = asyncio.get_running_loop().call_later(self._door.limits.request_seconds, self._late)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.heard()
        self._door.left(self, self._source)
        super().connection_lost(exc)

    def heard(self) -> None:
        """There was a request, or there will be none."""
        if self._unheard is not None:
            self._unheard.cancel()
            self._unheard = None

    def _late(self) -> None:
        self._door.refused(self._source, "no request")
        self.abort()
