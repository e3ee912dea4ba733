"""Broker: the byte pipe between the pods and the tunnels; the same for administrators.

Used by `standalone`, once for each. A pod's TLS session runs from its wrapper to the bridge; here pass a
ClientHello and ciphertext, unread. No key, certificate, token or parser is in reach of this module. What it
does is bounded: connections in all and of one pod, the time until a pod speaks, the time it may be silent.
Without a tunnel a pod is refused at once, so that the wrapper's backoff works instead of a timeout.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol, cast

from cloudtaser.errors import CloudtaserError, UnavailableError
from cloudtaser.net.dial import keep_alive
from cloudtaser.net.log import get_logger
from cloudtaser.net.splice import Splice
from cloudtaser.operator.config import BrokerLimits
from cloudtaser.operator.enrolment import Reporter
from cloudtaser.operator.incidents import Incidents
from cloudtaser.operator.metrics import Counts
from cloudtaser.operator.settings import Listen
from cloudtaser.wire.opening import Kind, Opening

BACKLOG: Final = 1024
Tap = Callable[[Literal["pod", "bridge"], bytes], None]
"""Sees every byte that passes, and the side it came from. For tests and the demo; no flag reaches it."""

_RESET: Final = struct.pack("ii", 1, 0)  # linger on, for no time: the kernel sends RST
_log = get_logger("operator.broker")


@dataclass(frozen=True, slots=True)
class Clients:
    """Whom a listener is for: the kind of their streams, words for messages, the flag that placed it."""

    kind: Kind
    many: str
    whose: str
    flag: str


PODS: Final = Clients(Kind.POD, "pods", "a pod's", "--listen")
ADMINS: Final = Clients(Kind.ADMIN, "administrators", "an administrator's", "--admin-listen")


class Opener(Protocol):
    """Where streams to bridges come from: `tunnels.Tunnels`, or a test's own."""

    @property
    def available(self) -> bool:
        """Whether a stream could be opened now."""

    def open(self, opening: Opening, protocol: asyncio.Protocol) -> object:
        """Open a stream on the least-loaded tunnel; UnavailableError when that cannot be."""


class Broker:
    """The listener and what it let in."""

    def __init__(
        self,
        listen: Listen,
        limits: BrokerLimits,
        tunnels: Opener,
        metrics: Counts,
        *,
        clients: Clients = PODS,
        tap: Tap | None = None,
        incidents: Incidents | None = None,
    ) -> None:
        self.clients = clients
        self.limits = limits
        self.tunnels = tunnels
        self.metrics = metrics
        self.tap = tap
        self._incidents = incidents or Incidents()
        self._listen = listen
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._by_pod: Counter[str] = Counter()
        self._reporter = Reporter()
        self._prefix = os.urandom(4).hex()
        self._numbers = itertools.count(1)
        self._passed = (0, 0)
        metrics.observe_bytes(lambda: self.bytes_passed)

    @property
    def open_connections(self) -> int:
        """Pods' connections now."""
        return len(self._connections)

    @property
    def bytes_passed(self) -> tuple[int, int]:
        """How much came from pods and from bridges since start."""
        running = [connection.bytes_passed for connection in self._connections]
        return (
            self._passed[0] + sum(pod for pod, _ in running),
            self._passed[1] + sum(bridge for _, bridge in running),
        )

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, once started."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    async def start(self) -> None:
        """Listen. UnavailableError when the address cannot be had."""
        loop = asyncio.get_running_loop()
        host, port = self._listen.host or None, self._listen.port
        try:
            self._server = await loop.create_server(lambda: _Connection(self), host, port, backlog=BACKLOG)
        except OSError as error:
            raise UnavailableError(
                f"cannot listen for {self.clients.many}: {os.strerror(error.errno or 0).lower()}",
                on=str(self._listen),
                fix=f"choose another {self.clients.flag}",
            ) from None

    def stop_listening(self) -> None:
        """Accept no more; what is open goes on."""
        if self._server is not None:
            self._server.close()

    async def close(self) -> None:
        """Cut what is left."""
        self.stop_listening()
        for connection in list(self._connections):
            connection.cut()
        if self._server is not None:
            await self._server.wait_closed()

    def next_id(self) -> str:
        """A correlation id for one connection, unique among replicas and restarts."""
        return f"{self._prefix}-{next(self._numbers):x}"

    def admit(self, connection: _Connection, pod: str) -> str:
        """Why the pod's connection is refused; empty when it was let in."""
        if not self.tunnels.available:
            return "no tunnel"
        if len(self._connections) >= self.limits.connections:
            return "too many connections"
        if self._by_pod[pod] >= self.limits.connections_per_pod:
            return "too many connections of one pod"
        self._connections.add(connection)
        self._by_pod[pod] += 1
        self.metrics.connections.inc()
        return ""

    def refused(self, pod: str, reason: str) -> None:
        """Count it, and say it once a minute."""
        self.metrics.refused.labels(reason).inc()
        if self._reporter.due(reason, asyncio.get_running_loop().time()):
            _log.warning(f"{self.clients.whose} connection was refused", reason=reason, peer=pod)
            message = f"{self.clients.whose} connection was refused: {reason}"
            self._incidents.note("relay", "refused", message)

    def ended(self, connection: _Connection, pod: str) -> None:
        """An admitted connection is over."""
        passed = connection.bytes_passed
        self._passed = self._passed[0] + passed[0], self._passed[1] + passed[1]
        self._connections.discard(connection)
        self._by_pod[pod] -= 1
        if self._by_pod[pod] <= 0:
            del self._by_pod[pod]


class _Connection(asyncio.Protocol):
    """One pod's connection until it speaks; then a splice takes its place."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._pod = ""
        self._peer = ""
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._splice: Splice | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's do not say so by class
        self._transport = transport
        host, port = transport.get_extra_info("peername")[:2]
        pod, self._peer = str(host), f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        reason = self._broker.admit(self, pod)
        if reason:
            self._broker.refused(self._peer, reason)
            _reset(transport)
            return
        self._pod = pod
        keep_alive(transport)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._broker.limits.first_bytes_seconds, self._silent)

    def data_received(self, data: bytes) -> None:
        """The first bytes: open a stream for them and step aside."""
        transport, broker = self._transport, self._broker
        if self._timer is None or transport is None:
            return
        self._timer.cancel()
        splice = Splice(idle_timeout=broker.limits.idle_seconds, on_end=self._splice_ended)
        pod_side: asyncio.Protocol = splice.first
        if broker.tap is not None:
            pod_side = _Tapped(splice.first, "pod", broker.tap)
        bridge_side = _BridgeSide(splice.second, transport, broker.tap)
        opening = Opening(broker.clients.kind, peer=self._peer, id=broker.next_id())
        try:
            broker.tunnels.open(opening, bridge_side)
        except CloudtaserError:
            splice.abort()
            broker.refused(self._peer, "no tunnel")
            _reset(transport)
            return
        self._splice = splice
        transport.set_protocol(pod_side)
        pod_side.connection_made(transport)
        pod_side.data_received(data)

    def eof_received(self) -> None:
        """The pod left before it said a word: the transport closes."""

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._forget()

    @property
    def bytes_passed(self) -> tuple[int, int]:
        """From the pod, from the bridge, so far."""
        splice = self._splice
        return (splice.bytes_from_first, splice.bytes_from_second) if splice else (0, 0)

    def cut(self) -> None:
        """End it now."""
        if self._transport is not None:
            _linger_not(self._transport)
        if self._splice is not None:
            self._splice.abort(UnavailableError("the broker stops"))
        elif self._transport is not None:
            self._transport.abort()

    def _silent(self) -> None:
        assert self._transport is not None
        self._broker.refused(self._peer, "no first bytes")
        _reset(self._transport)

    def _splice_ended(self, splice: Splice) -> None:
        if splice.error is not None:
            self._broker.metrics.cut.inc()
        _log.debug(
            f"{self._broker.clients.whose} connection ended",
            peer=self._peer,
            sent=splice.bytes_from_first,
            received=splice.bytes_from_second,
            error=splice.error.diagnostic() if splice.error else None,
        )
        if self._splice is not None:
            self._forget()

    def _forget(self) -> None:
        pod, self._pod, self._transport = self._pod, "", None
        if pod:
            self._broker.ended(self, pod)
        self._splice = None


class _Tapped(asyncio.Protocol):
    """A side of a splice that somebody watches."""

    def __init__(self, side: asyncio.Protocol, name: Literal["pod", "bridge"], tap: Tap | None) -> None:
        self._side = side
        self._name: Literal["pod", "bridge"] = name
        self._tap = tap

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._side.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._tap is not None:
            self._tap(self._name, data)
        self._side.data_received(data)

    def eof_received(self) -> bool | None:
        return self._side.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._side.connection_lost(exc)

    def pause_writing(self) -> None:
        self._side.pause_writing()

    def resume_writing(self) -> None:
        self._side.resume_writing()


class _BridgeSide(_Tapped):
    """The stream's side: when it is cut, the pod's connection is reset, so that a cut looks like no end."""

    def __init__(self, side: asyncio.Protocol, pod: asyncio.Transport, tap: Tap | None) -> None:
        super().__init__(side, "bridge", tap)
        self._pod = pod

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            _linger_not(self._pod)
        super().connection_lost(exc)


def _linger_not(transport: asyncio.Transport) -> None:
    """What is closed after this is reset."""
    sock = transport.get_extra_info("socket")
    if sock is not None and not transport.is_closing():
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def _reset(transport: asyncio.Transport) -> None:
    _linger_not(transport)
    transport.abort()
