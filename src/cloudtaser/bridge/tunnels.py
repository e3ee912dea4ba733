"""The tunnels of one cluster: who is at the other end, which streams are taken, when they must close.

Used by `station`. The bridge is the TLS client and checks the broker's certificate before anything else
happens: role, cluster, serial. During a rotation there are tunnels under two CAs; each was met in the room of
its CA and trusts that one alone. What a stream carries is somebody else's: `session` for pods and operator,
`reception` for a renewal, `control`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from cloudtaser.bridge.authorities import Authority
from cloudtaser.bridge.background import Background
from cloudtaser.bridge.cluster import Cluster
from cloudtaser.bridge.control import Control
from cloudtaser.bridge.reception import ComingBack
from cloudtaser.errors import CloudtaserError, ProtocolError, RefusedError, UnavailableError
from cloudtaser.net.layers import TlsLayer
from cloudtaser.net.log import get_logger
from cloudtaser.net.stream import TunnelStream
from cloudtaser.net.tls import peer_certificate, require_party
from cloudtaser.net.tunnel import Tunnel
from cloudtaser.wire.opening import Kind, Opening

TUNNELS_LIMIT: Final = 64
"""Tunnels of one cluster: brokers keep two each."""
STREAMS_LIMIT: Final = 8192
"""Pods' connections of one cluster: memory is shared with all others."""
RENEWALS_LIMIT: Final = 4
"""Renewals of one tunnel at a time."""
HINT_EVERY: Final = 60.0
"""Seconds between two hints to one broker that it should renew."""
ESTABLISH_TIMEOUT: Final = 5.0
"""Seconds for the broker's first bytes, which say that it took our certificate."""

_log = get_logger("bridge.tunnels")

Serve = Callable[[Opening], asyncio.Protocol | None]
Renewal = Callable[[str, Authority], ComingBack]


@dataclass(slots=True, eq=False)
class Link:
    """One tunnel and who holds the other end."""

    tunnel: Tunnel
    since: float
    authority: Authority
    broker: str = ""
    serials: set[int] = field(default_factory=set)
    """Of the certificate it was opened with, and of those renewed inside it."""
    renewals: int = 0
    renewed: int | None = None
    """Serial of the newest certificate that was renewed inside it since `Tunnels.hint_renewals` last began to
    ask for that."""
    hinted_at: float = float("-inf")
    control: Control | None = None


class Tunnels:
    """All tunnels of one cluster on this bridge."""

    def __init__(
        self,
        cluster: Cluster,
        context: Callable[[Authority], ssl.SSLContext],
        *,
        serve: Serve,
        renewal: Renewal,
        control: Callable[[], Control],
        on_change: Callable[[], None],
        on_failed: Callable[[str, CloudtaserError], None],
    ) -> None:
        """`context` gives a CA's TLS context as it is now (UnavailableError: retired); `serve` the protocol
        for the stream of a pod, the operator or an administrator (None: refused); `on_change` hears that a
        tunnel came or went;
        `on_failed` that a stream failed."""
        self._cluster = cluster
        self._context = context
        self._serve = serve
        self._renewal = renewal
        self._control = control
        self._on_change = on_change
        self._on_failed = on_failed
        self._links: set[Link] = set()
        self._background = Background("bridge.tunnels")
        self._draining = False
        self._retiring: dict[Link, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._links)

    @property
    def streams(self) -> int:
        """Open streams of all tunnels."""
        return sum(link.tunnel.active for link in self._links)

    def parked_within(self, seconds: float) -> bool:
        """Whether a broker said within the last `seconds` that it is parked in the operational room."""
        since = asyncio.get_running_loop().time() - seconds
        return any(link.control is not None and link.control.parked_at >= since for link in self._links)

    def pick(self) -> Tunnel | None:
        """The tunnel with the fewest streams that takes new ones; None without any."""
        usable = [link.tunnel for link in self._links if not link.tunnel.draining]
        return min(usable, key=lambda tunnel: tunnel.active, default=None)

    def invite(self, authority: Authority) -> TunnelGuest:
        """Called at a match in the operational room of that CA."""
        return TunnelGuest(self, authority)

    def count(self, authority: Authority) -> int:
        """Tunnels under that CA."""
        return sum(link.authority.der == authority.der for link in self._links)

    def retire(self, served: Sequence[Authority], seconds: float) -> None:
        """Say go-away in every tunnel under a CA that is not `served` any more, and close it when its last
        stream has ended, or after `seconds`."""
        keep = {authority.der for authority in served}
        for link in self._links - self._retiring.keys():
            if link.authority.der not in keep:
                _log.info(
                    "tunnel retired: its CA was replaced", cluster=self._cluster.fp8, broker=link.broker
                )
                self._retiring[link] = asyncio.get_running_loop().call_later(
                    seconds, link.tunnel.abort, UnavailableError("the tunnel CA was replaced")
                )
                link.tunnel.go_away()

    def hint_renewals(self, current: Authority, outdated: frozenset[int], *, anew: bool = False) -> None:
        """Ask every broker to renew whose tunnel is under another CA than the current one, or whose newest
        certificate is among the `outdated` serials; again after a while, until it has. `anew`: a rotation has
        just begun, so what was renewed before does not count. Nor does a stored pair that was handed out once
        more before its successor was there: it is outdated itself."""
        now = asyncio.get_running_loop().time()
        for link in self._links:
            if anew:
                link.renewed, link.hinted_at = None, float("-inf")
            behind = link.authority.der != current.der or bool(link.serials & outdated)
            control, renewed = link.control, link.renewed is not None and link.renewed not in outdated
            if not behind or renewed or link.tunnel.draining or control is None or control.closed:
                continue
            if now - link.hinted_at >= HINT_EVERY:
                link.hinted_at = now
                control.renew()

    def close_revoked(self) -> None:
        """Close every tunnel that a revoked certificate opened or was renewed in."""
        for link in list(self._links):
            if link.serials & self._cluster.revoked:
                _log.warning(
                    "tunnel closed: certificate revoked", cluster=self._cluster.fp8, broker=link.broker
                )
                link.tunnel.abort(UnavailableError("the certificate is revoked"))

    def close_all(self, why: str) -> None:
        """Close every tunnel at once, its streams with it."""
        for link in list(self._links):
            link.tunnel.abort(UnavailableError(why))

    async def drain(self) -> None:
        """Say go-away, and return when the last stream has ended. The caller bounds the wait."""
        self._draining = True
        for link in list(self._links):
            link.tunnel.go_away()
        while self._links:
            await asyncio.wait([link.tunnel.closed for link in self._links])

    async def close(self) -> None:
        """Close everything at once."""
        self._draining = True
        self.close_all("the bridge stops serving this cluster")
        await self._background.close()

    # Called by guests

    def layer(self, link: Link) -> TlsLayer:
        """TLS for a new tunnel: whoever is no broker of this cluster does not get past it."""
        return TlsLayer(
            self._context(link.authority),
            link.tunnel,
            server_side=False,
            verify=lambda tls: self._verify(link, tls),
        )

    def accept(self, link: Link, opening: Opening) -> asyncio.Protocol | None:
        """The protocol for a stream that the broker opened; None refuses it."""
        match opening.kind:
            case Kind.POD | Kind.OPERATOR | Kind.ADMIN if (
                self.streams <= STREAMS_LIMIT
            ):  # this one counts already
                return self._serve(opening)
            case Kind.RENEW if link.renewals < RENEWALS_LIMIT:
                guest = self._renewal(link.broker, link.authority)
                link.renewals += 1
                self._background.start(self._renew(link, guest))
                return guest.protocol
            case Kind.CONTROL if link.control is None or link.control.closed:
                link.control = self._control()
                link.hinted_at = float("-inf")
                return link.control
            case _:
                return None

    def joined(self, link: Link) -> None:
        """The broker has taken our certificate: the tunnel counts."""
        if self._draining:
            raise UnavailableError("the bridge is stopping")
        if self._cluster.registered.suspended:
            raise UnavailableError("the cluster is suspended")
        self._context(link.authority)  # a CA may have been retired since the match
        if link.serials & self._cluster.revoked:
            raise ProtocolError("the broker's certificate is revoked")
        self._links.add(link)
        link.tunnel.closed.add_done_callback(lambda _: self._left(link))
        _log.info("tunnel up", cluster=self._cluster.fp8, broker=link.broker, tunnels=len(self._links))
        self._on_change()

    # Private

    def _verify(self, link: Link, tls: ssl.SSLObject) -> None:
        certificate = peer_certificate(tls)
        party = require_party(certificate, self._cluster.fingerprint, "broker")
        if certificate.serial_number in self._cluster.revoked:
            raise ProtocolError("the broker's certificate is revoked")
        if len(self._links) >= TUNNELS_LIMIT:
            raise RefusedError(f"this cluster has {TUNNELS_LIMIT} tunnels, its limit")
        link.broker = party.instance
        link.serials.add(certificate.serial_number)

    def _left(self, link: Link) -> None:
        self._links.discard(link)
        timer = self._retiring.pop(link, None)
        if timer is not None:
            timer.cancel()
        error = link.tunnel.error
        _log.info(
            "tunnel down",
            cluster=self._cluster.fp8,
            broker=link.broker,
            tunnels=len(self._links),
            reason=error.diagnostic() if error else "ended",
        )
        self._on_change()

    async def _renew(self, link: Link, guest: ComingBack) -> None:
        try:
            await guest.receive()
        except CloudtaserError as error:
            self._on_failed("renew", error)
        finally:
            link.renewals -= 1
            if guest.granted is not None:
                link.serials.add(guest.granted.serial)
                link.renewed = guest.granted.serial


class TunnelGuest:
    """Whoever was met in the operational room: a broker once its certificate is checked."""

    def __init__(self, tunnels: Tunnels, authority: Authority) -> None:
        self._tunnels = tunnels
        loop = asyncio.get_running_loop()
        self._link = Link(Tunnel(True, self._accept), loop.time(), authority)
        self._layer = tunnels.layer(self._link)

    @property
    def protocol(self) -> asyncio.Protocol:
        """The TLS layer."""
        return self._layer

    async def receive(self) -> None:
        """Wait until both sides have taken each other's certificate."""
        await self._layer.handshake
        try:
            async with asyncio.timeout(ESTABLISH_TIMEOUT):
                await asyncio.shield(self._link.tunnel.established)
        except TimeoutError:
            raise UnavailableError(f"the broker said nothing within {ESTABLISH_TIMEOUT:g} s") from None
        self._tunnels.joined(self._link)

    def _accept(self, opening: Opening, _stream: TunnelStream) -> asyncio.Protocol | None:
        return self._tunnels.accept(self._link, opening)
