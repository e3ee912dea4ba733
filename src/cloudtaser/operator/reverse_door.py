"""The reverse port: takes in connections of bridges, tells by the first bytes what they are, bounds them.

Made by `standalone` beside `reverse`. One port for everything: TLS (first byte 0x16) is ended here with the
broker's own certificate; inside it, or bare where something in front has ended TLS, comes HTTP/2, which goes
to the gRPC server behind, or a hello. What is neither is closed. The outer TLS gets through firewalls and
hides the rooms' hashes; no secrecy of ours depends on it, so without a certificate a throw-away one serves.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Final, cast

from cloudtaser.errors import CloudtaserError, UnavailableError
from cloudtaser.net.dial import keep_alive
from cloudtaser.net.layers import TlsLayer
from cloudtaser.net.splice import Splice
from cloudtaser.operator.reverse import Reverse, ReverseLimits
from cloudtaser.operator.reverse_certificate import OuterCertificate
from cloudtaser.operator.reverse_http2 import Watched
from cloudtaser.operator.reverse_metrics import ReverseMetrics
from cloudtaser.operator.settings import Listen
from cloudtaser.wire.rendezvous import FAMILY, MAGIC
from cloudtaser.wire.sources import SourceLimiter, source_of

if TYPE_CHECKING:  # brings the gRPC library, which only reverse mode needs
    from cloudtaser.net.grpc_server import GrpcServer

BACKLOG: Final = 512
TLS_HANDSHAKE: Final = b"\x16"
HTTP2_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
IDLE_SECONDS: Final = 24 * 3600.0
"""gRPC has keepalives and idle limits of its own."""


class ReverseDoor:
    """The listener."""

    def __init__(
        self,
        listen: Listen,
        certificate: OuterCertificate,
        reverse: Reverse,
        limits: ReverseLimits,
        metrics: ReverseMetrics,
    ) -> None:
        self._listen = listen
        self._certificate = certificate
        self._reverse = reverse
        self._limits = limits
        self._metrics = metrics
        self._sources = SourceLimiter(limits.source_rate, limits.source_burst)
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Transport, str] = {}
        self._held: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._grpc: GrpcServer | None = None
        metrics.observe(open=lambda: self._count_open())

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, once started."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    @property
    def needs_tls(self) -> bool:
        """Whether bare bytes are refused: with a certificate of our own nothing in front has ended TLS."""
        return self._certificate.own

    async def start(self) -> None:
        """Listen. UnavailableError when the address cannot be had."""
        from cloudtaser.net.grpc_server import GrpcServer

        self._grpc = GrpcServer(self._new_stream, max_streams=self._limits.connections)
        await self._grpc.start()
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: _Newcomer(self), self._listen.host or None, self._listen.port, backlog=BACKLOG
            )
        except OSError as error:
            raise UnavailableError(
                f"cannot listen for bridges: {os.strerror(error.errno or 0).lower()}",
                on=str(self._listen),
                fix="choose another --reverse-listen",
            ) from None

    def stop_listening(self) -> None:
        """Accept no more; what is open goes on."""
        if self._server is not None:
            self._server.close()

    async def close(self) -> None:
        """Cut what is left."""
        self.stop_listening()
        if self._grpc is not None:
            await self._grpc.close()
        for transport in list(self._open):
            transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    # --- called by connections

    def admit(self, transport: asyncio.Transport) -> str | None:
        """The source that a new connection counts as; None when it is one too many."""
        source = source_of(str((transport.get_extra_info("peername") or ("",))[0]))
        if not self._in_rate(source):
            return None
        if self._is_full(source):
            self._count_open()  # some may have gone since
            if self._is_full(source):
                self._reverse.refused("too many connections", source)
                return None
        self._open[transport] = source
        self._held[source] += 1
        keep_alive(transport)
        return source

    def outer_tls(self, upper: asyncio.Protocol) -> TlsLayer:
        """The layer that ends a connection's TLS with the certificate of this moment."""
        return TlsLayer(
            self._certificate.context(),
            upper,
            server_side=True,
            handshake_timeout=self._limits.hello_seconds,
        )

    def take(self, source: str, said: bytes) -> asyncio.Protocol | None:
        """What goes on with a connection whose first bytes are `said`; None when they are nothing of ours."""
        if said.startswith(FAMILY):  # the guest's own reader tells another release from nonsense
            self._metrics.connections.labels("tls").inc()
            return self._reverse.welcome(source)
        if said.startswith(HTTP2_PREFACE):
            self._metrics.connections.labels("grpc").inc()
            splice = Splice(idle_timeout=IDLE_SECONDS)
            task = asyncio.ensure_future(self._connect(splice, source))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return Watched(splice.first, len(HTTP2_PREFACE), partial(self._flooded, splice, source))
        return None

    def nothing(self, source: str, reason: str) -> None:
        """A connection came to nothing."""
        self._metrics.connections.labels("nothing").inc()
        self._reverse.refused(reason, source)

    @property
    def hello_seconds(self) -> float:
        """Seconds until the first bytes of a connection are there."""
        return self._limits.hello_seconds

    # --- inside

    async def _connect(self, splice: Splice, source: str) -> None:
        assert self._grpc is not None
        try:
            await self._grpc.connect(splice.second, source)
        except CloudtaserError as error:
            splice.abort(error)
            self._reverse.refused("no gRPC server", source)

    def _flooded(self, splice: Splice, source: str, error: CloudtaserError) -> None:
        self._reverse.refused(error.what, source)
        splice.abort(error)

    def _new_stream(self, source: str) -> asyncio.Protocol:
        """One connection may carry many streams: each counts as a newcomer."""
        if not self._in_rate(source):
            return _Unwanted()
        return self._reverse.welcome(source)

    def _in_rate(self, source: str) -> bool:
        now = asyncio.get_running_loop().time()
        if not self._sources.admit(source, now):
            return True
        self._sources.prune(now)
        self._reverse.refused("too many new connections", source)
        return False

    def _is_full(self, source: str) -> bool:
        """Whether there is no place for one more of `source`: no source can take them all."""
        limits = self._limits
        return len(self._open) >= limits.connections or self._held[source] >= limits.connections_per_source

    def _count_open(self) -> int:
        self._open = {
            transport: source for transport, source in self._open.items() if not transport.is_closing()
        }
        self._held = Counter(self._open.values())
        return len(self._open)


class _Newcomer(asyncio.Protocol):
    """A connection, or the inside of its TLS, until its first bytes say what it is."""

    def __init__(self, door: ReverseDoor, source: str | None = None) -> None:
        """`source` is None outside TLS, where the connection has still to be admitted."""
        self._door = door
        self._inside = source is not None
        self._source = source or ""
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._said = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's do not say so by class
        if not self._inside:
            source = self._door.admit(self._transport)
            if source is None:
                self._transport.abort()
                return
            self._source = source
        self._timer = asyncio.get_running_loop().call_later(self._door.hello_seconds, self._silent)

    def data_received(self, data: bytes) -> None:
        if self._timer is None or self._transport is None:
            return
        self._said += data
        said = self._said
        if not self._inside and said.startswith(TLS_HANDSHAKE):
            self._start_tls()
        elif not self._inside and self._door.needs_tls:
            self._end("not TLS")
        elif not (MAGIC.startswith(said) or (HTTP2_PREFACE.startswith(said) and said != HTTP2_PREFACE)):
            following = self._door.take(self._source, said)
            if following is None:
                self._end("HTTP/1" if b"HTTP/1." in said[:2048] else "neither HTTP/2 nor a hello")
            else:
                self._go_on(following)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._transport = None

    def _start_tls(self) -> None:
        layer = self._door.outer_tls(_Newcomer(self._door, self._source))
        source, door = self._source, self._door

        def ended(handshake: asyncio.Future[None]) -> None:
            if not handshake.cancelled() and handshake.exception() is not None:
                door.nothing(source, "TLS handshake failed")

        layer.handshake.add_done_callback(ended)
        self._go_on(layer)

    def _go_on(self, following: asyncio.Protocol) -> None:
        assert self._transport is not None
        self._stop_timer()
        transport, self._transport = self._transport, None
        transport.set_protocol(following)
        following.connection_made(transport)
        following.data_received(self._said)

    def _silent(self) -> None:
        if self._said or self._inside:
            self._end("no hello in time")
        elif self._transport is not None:  # a balancer's look at the port: nothing to say about
            self._transport.abort()

    def _end(self, reason: str) -> None:
        self._stop_timer()
        self._door.nothing(self._source, reason)
        if self._transport is not None:
            self._transport.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Unwanted(asyncio.Protocol):
    """A stream over the rate: closed without a word."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).abort()
