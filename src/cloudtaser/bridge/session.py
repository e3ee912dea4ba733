"""Session: the HTTP/1.1 server for one pod's, operator's or administrator's stream.

`tunnels` calls `pod_protocol` for each accepted stream. A session parses, keeps requests in order, watches
the clock and passes pressure on in both directions; what becomes of one request is `turn`'s business. One
request is worked on at a time; those pipelined behind it wait, and reading stops meanwhile.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, cast

from cloudtaser.bridge.admin_rules import NOTHING
from cloudtaser.bridge.audit import Audit
from cloudtaser.bridge.cluster import Cluster
from cloudtaser.bridge.health import HealthWatch
from cloudtaser.bridge.holders import Holders
from cloudtaser.bridge.limits import Limits
from cloudtaser.bridge.migration import Admin
from cloudtaser.bridge.mounted import LOGIN_MOUNTS
from cloudtaser.bridge.operator_certificates import Requests
from cloudtaser.bridge.seats import Seats
from cloudtaser.bridge.tokens import PodIdentity
from cloudtaser.bridge.turn import Turn
from cloudtaser.bridge.upstream import Upstream
from cloudtaser.bridge.verdict import Pin
from cloudtaser.errors import UnavailableError
from cloudtaser.net.layers import TlsLayer
from cloudtaser.secret import Secret
from cloudtaser.wire.http1 import Body, End, Event, HttpError, RequestHead, RequestParser
from cloudtaser.wire.opening import Kind, Opening

MAX_HEAD: Final = 16384
_CORRELATION: Final = re.compile(r"[A-Za-z0-9._:-]{1,100}", re.ASCII)
_AUTH: Final = "auth/"


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds."""

    idle: float = 120.0
    """Between two requests of a stream."""
    head: float = 10.0
    """From a request's first byte to the end of its head."""
    request: float = 90.0
    """From the end of the head to the end of the answer."""


@dataclass(slots=True)
class Services:
    """What all sessions of a bridge share."""

    upstream: Upstream
    audit: Audit
    limits: Limits
    refetch_keys: Callable[[Cluster], Awaitable[None]]
    """Reads the cluster's keys anew if it is not too soon; changes `cluster.keys`."""
    reviewer_token: Callable[[Cluster, Secret], None]
    """Takes the operator's token for issuer discovery and TokenReview."""
    certify_operator: Callable[[Cluster, Requests], Awaitable[bytes]]
    """Has the operator's certificates signed; the answer's body."""
    now: Callable[[], float]
    """Seconds since the epoch."""
    holders: Holders = field(default_factory=Holders)
    times: Times = field(default_factory=Times)
    admin: Admin = field(default_factory=Admin)
    seats: Seats = field(default_factory=Seats)
    review: Callable[[Cluster, str, PodIdentity], Awaitable[None]] | None = None
    """Strict mode: asks the cluster's API server about a login's token; raises unless it agrees."""
    health: HealthWatch = field(init=False)
    sessions: set[Session] = field(default_factory=set)
    """Those whose TLS is up; each adds and removes itself."""
    draining: bool = False
    """The bridge is stopping: a request under way is answered, and its stream closed behind it."""

    def __post_init__(self) -> None:
        self.health = HealthWatch(self.upstream)

    def drain(self) -> None:
        """Close every session as soon as it has nothing under way."""
        self.draining = True
        for session in list(self.sessions):
            session.wind_up()

    def retire(self, cluster: Cluster, served: frozenset[str]) -> list[Session]:
        """Wind up every session of pods of `cluster` that pin a CA which is not `served` any more; those that
        are left."""
        outdated = [
            session
            for session in self.sessions
            if session.cluster is cluster and session.pod_ca and session.pod_ca not in served
        ]
        for session in outdated:
            session.wind_up()
        return [session for session in outdated if session in self.sessions]


def pod_protocol(cluster: Cluster, opening: Opening, services: Services) -> asyncio.Protocol:
    """What ends the TLS of one `pod`, `operator` or `admin` stream. UnavailableError while there is no
    certificate."""
    if cluster.pod_context is None:
        raise UnavailableError("the bridge has no certificate for pods yet", on=cluster.fp8)
    return TlsLayer(cluster.pod_context, Session(cluster, opening, services), server_side=True)


class Session(asyncio.Protocol):
    """One stream, from the end of its TLS handshake on."""

    def __init__(self, cluster: Cluster, opening: Opening, services: Services) -> None:
        self.cluster = cluster
        self.services = services
        self.peer = opening.peer
        self.loop = asyncio.get_running_loop()
        self._kind = opening.kind
        self._correlation = opening.id if _CORRELATION.fullmatch(opening.id) else secrets.token_hex(8)
        self._count = 0
        self._parser = RequestParser(max_head=MAX_HEAD)
        self._queue: deque[Event | HttpError] = deque()
        self._turn: Turn | None = None
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0
        self._in_head = False
        self._pumping = False
        self._reading = True
        self._full = False
        self._ended = False
        self._closing = False
        self._winding_up = False
        self._pod_ca = ""
        self._pod = opening.peer.rpartition(":")[0] or opening.peer
        self._pin: Pin | None = None
        self._pin_of: tuple[object, str | None] = (None, None)

    # what a turn asks for

    @property
    def pin(self) -> Pin:
        """What this stream's tunnel decides about every request."""
        cluster = self.cluster
        known = (cluster.registered, cluster.namespace_id)
        if self._pin is None or self._pin_of[0] is not known[0] or self._pin_of[1] != known[1]:
            self._pin = self._new_pin()
            self._pin_of = known
        return self._pin

    @property
    def leaving(self) -> bool:
        """The next answer is the last: the bridge stops, this pod's CA is retired, or the tunnel drains; what
        the pod asks then it asks on another stream, which no answer is cut off for."""
        if self._winding_up or self.services.draining:
            return True
        return self._transport is not None and bool(self._transport.get_extra_info("draining", False))

    def heard(self, identity: PodIdentity | None) -> None:
        """The pod asks something; `identity` is who it is, if that is known."""
        known = identity.pod_uid if identity is not None else ""
        if self._pod_ca and self._kind is Kind.POD:
            formerly, self._pod = self._pod, known or self._pod
            self.cluster.pod_cas.heard(self._pod_ca, self._pod, self.services.now(), formerly=formerly)

    @property
    def pod_ca(self) -> str:
        """Label of the pod CA under which the stream's TLS stands; empty without any."""
        return self._pod_ca

    def _new_pin(self) -> Pin:
        cluster = self.cluster
        space = cluster.mounted
        operator = self._kind is Kind.OPERATOR
        rules = self.services.admin.rules if self._kind is Kind.ADMIN else None
        if space is not None:  # what `sys/` shows there is of all clusters
            return Pin("", "", LOGIN_MOUNTS, operator, space, rules and NOTHING)
        mounts = frozenset(m.removeprefix(_AUTH) for m in cluster.registered.mounts if m.startswith(_AUTH))
        namespace = cluster.namespace.strip("/")
        return Pin(namespace, cluster.namespace_id, mounts or LOGIN_MOUNTS, operator, admin=rules)

    def correlation(self) -> str:
        """An id for a request that brought none."""
        self._count += 1
        return f"{self._correlation}.{self._count}"

    def write(self, data: bytes) -> None:
        """Part of an answer."""
        if self._transport is not None:
            self._transport.write(data)

    def steer(self) -> None:
        """The turn takes its body again, or takes no more for now."""
        self._pump()

    def over(self, *, close: bool) -> None:
        """The turn is answered and has read its body."""
        self._turn = None
        self._deadline = self.loop.time() + self.services.times.idle
        if close or self._winding_up or self.services.draining:
            self._close()
        else:
            self._pump()

    def wind_up(self) -> None:
        """Close, as soon as no request is under way or half here."""
        self._winding_up = True
        if self._turn is None and not self._queue and self._parser.idle:
            self._close()

    def abort(self) -> None:
        """The answer broke off in its middle; the stream must show it."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The pod's TLS is up."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without deriving from it
        self._pod_ca = self.cluster.pod_cas.label_of(transport.get_extra_info("ssl_object"))
        self._deadline = self.loop.time() + self.services.times.idle
        self._timer = self.loop.call_at(self._deadline, self._tick)
        self.services.sessions.add(self)

    def data_received(self, data: bytes) -> None:
        """Bytes of requests."""
        if self._closing:
            return
        try:
            self._queue.extend(self._parser.receive(data))
        except HttpError as error:
            self._queue.extend(error.events)
            self._queue.append(error)
        if self._queue:
            self._in_head = False
            self._pump()
        elif self._turn is None and not self._in_head:
            self._in_head = True
            self._deadline = self.loop.time() + self.services.times.head
            self._rearm()

    def eof_received(self) -> bool:
        """The pod asks no more; what it asked is still answered."""
        self._ended = True
        if self._turn is None and not self._queue:
            self._close()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The pod, its broker or the tunnel is gone."""
        self._closing = True
        self._transport = None
        self._queue.clear()
        self.services.sessions.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None

    def pause_writing(self) -> None:
        """The pod reads slower than OpenBao answers."""
        self._full = True
        if self._turn is not None:
            self._turn.pause_answer()

    def resume_writing(self) -> None:
        """The pod has caught up."""
        self._full = False
        if self._turn is not None:
            self._turn.resume_answer()

    # inside

    def _pump(self) -> None:
        """Hand on what was parsed, as far as the turn takes it; then decide whether to read."""
        if self._pumping:
            return
        self._pumping = True
        queue = self._queue
        while queue and not self._closing:
            turn = self._turn
            if turn is None:
                self._begin(queue.popleft())
            elif turn.takes_body and not isinstance(queue[0], RequestHead):
                event = queue.popleft()
                if isinstance(event, Body):
                    turn.body(event.data)
                elif isinstance(event, End):
                    turn.end()
                else:
                    assert isinstance(event, HttpError)
                    turn.spoilt(event)
            else:
                break
        self._pumping = False
        if self._closing:
            return
        if self._ended and self._turn is None and not queue:
            self._close()
        else:
            self._read(not queue and (self._turn is None or self._turn.takes_body))

    def _begin(self, event: Event | HttpError) -> None:
        if isinstance(event, RequestHead):
            self._deadline = self.loop.time() + self.services.times.request
            self._turn = turn = Turn(self, event)
            turn.begin()
            if self._full:
                turn.pause_answer()
        elif isinstance(event, HttpError):
            self._turn = turn = Turn(self, None)
            turn.spoilt(event)

    def _read(self, wanted: bool) -> None:
        if wanted != self._reading and self._transport is not None:
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _close(self) -> None:
        self._closing = True
        self._queue.clear()
        if self._transport is not None:
            self._transport.close()

    def _rearm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_at(self._deadline, self._tick)

    def _tick(self) -> None:
        """One timer a stream: it finds out when it fires whether anything is late."""
        self._timer = None
        if self._transport is None:
            return
        if self.loop.time() < self._deadline - 0.001:
            self._timer = self.loop.call_at(self._deadline, self._tick)
        elif self._turn is not None:
            self._deadline = self.loop.time() + self.services.times.head
            self._timer = self.loop.call_at(self._deadline, self._tick)
            self._turn.too_late()
        else:
            self._close()
