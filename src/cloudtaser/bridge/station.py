"""Everything this bridge runs for one cluster: its rooms, tunnels, certificates and keys.

Made and visited by `registry`, once for each registration; `service` gives it what all stations share. It
decides nothing about protocols: `parking`, `bootstrap`, `tunnels` and `keys` do. There is no task of its own
while nothing happens: the registry's poll is its clock.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cloudtaser.bridge.background import Background
from cloudtaser.bridge.bootstrap import Responder, Signed
from cloudtaser.bridge.cluster import Cluster
from cloudtaser.bridge.control import Control
from cloudtaser.bridge.csr import CertificateRequest
from cloudtaser.bridge.identity import Certificates
from cloudtaser.bridge.keys import KeyKeeper
from cloudtaser.bridge.parker import Guest, Parker
from cloudtaser.bridge.parking import LONELY_AFTER
from cloudtaser.bridge.reception import ComingBack, FirstTime
from cloudtaser.bridge.registry import Room, Snapshot
from cloudtaser.bridge.tokens import KeySet
from cloudtaser.bridge.tunnels import Tunnels
from cloudtaser.errors import CloudtaserError, ProtocolError, UnavailableError
from cloudtaser.net.dial import Address
from cloudtaser.net.log import get_logger
from cloudtaser.net.proxy import DIRECT, Proxies
from cloudtaser.openbao import pki
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.layout import Space
from cloudtaser.openbao.pki import PkiRole
from cloudtaser.openbao.records import Initialized, Records
from cloudtaser.secret import Secret
from cloudtaser.wire.hashes import init_room, operational_room, return_room
from cloudtaser.wire.names import broker_uri
from cloudtaser.wire.opening import Opening

SETTLING: Final = 30.0
"""Seconds in which a poll that was under way may not yet show an initialisation that happened here."""

_log = get_logger("bridge.station")


@dataclass(frozen=True, slots=True)
class Shared:
    """What all stations of a bridge share."""

    client: OpenBao
    records: Records
    bridge_id: str
    beacons: tuple[Address, ...]
    beacon_context: ssl.SSLContext
    certificate_ttl: float
    now: Callable[[], float]
    """The wall clock, seconds since the epoch."""
    serve: Callable[[Cluster, Opening], asyncio.Protocol]
    """The data plane: what takes a pod's or the operator's stream."""
    failed: Callable[[str, str, str, CloudtaserError], None]
    """Counts and mentions a failure: what, for whom, where, why."""
    reachable: Callable[[Address], None]
    """A beacon took one of us in."""
    keys_changed: Callable[[Cluster, str], None]
    """An event to audit."""
    proxies: Proxies = DIRECT
    """How beacons are reached."""


class Station:
    """One cluster, served."""

    def __init__(self, shared: Shared, snapshot: Snapshot, on_close: Callable[[], None]) -> None:
        registered = snapshot.registered
        fingerprint = registered.fingerprint
        self._shared = shared
        self._on_close = on_close
        self._space = Space.recorded(registered.space, registered.namespace)
        self._rooms = _rooms(fingerprint, registered.tunnel_ca)
        self.cluster = Cluster(fingerprint, registered, snapshot.grants, KeySet())
        self._certificates = Certificates(
            shared.client,
            self._space,
            fingerprint,
            shared.bridge_id,
            registered.tunnel_ca,
            shared.certificate_ttl,
        )
        self._parkers: dict[Room, Parker] = {}
        self._left: list[Parker] = []
        self._background = Background("bridge.station")
        self._initialized_here = float("-inf")
        self._draining = False
        self._keys = KeyKeeper(
            self.cluster,
            shared.client,
            self._space,
            shared.records,
            shared.bridge_id,
            pick=lambda: self.tunnels.pick(),
            now=shared.now,
            on_change=lambda event: shared.keys_changed(self.cluster, event),
            on_failed=self._failed,
        )
        self._responder = Responder(
            self.cluster,
            shared.records,
            self._certify,
            bridge_id=shared.bridge_id,
            now=shared.now,
            adopt=self._adopt,
            refetch_keys=lambda _: self._keys.refetch(),
        )
        self.tunnels = Tunnels(
            self.cluster,
            self._tunnel_context,
            serve=self._serve,
            renewal=self._coming_back,
            control=lambda: Control(shared.bridge_id, self._health, self._keys.hint),
            on_change=lambda: None,
            on_failed=self._failed,
        )

    # Called by the registry

    async def attend(self, snapshot: Snapshot, rooms: frozenset[Room]) -> None:
        """Bring everything in step with the records. CloudtaserError when OpenBao would not have it."""
        cluster = self.cluster
        if snapshot.initialized is None and cluster.initialized is not None:
            if self._shared.now() - self._initialized_here < SETTLING:
                return  # this poll had read the records before they changed
            raise ProtocolError("the record of the initialisation is gone", fix="run `source reset`")
        if cluster.registered != snapshot.registered:  # sessions keep what they derive from it
            cluster.registered = snapshot.registered
        cluster.grants = snapshot.grants
        cluster.revoked = _serials(snapshot, self._shared.now())
        if snapshot.initialized is not None:
            cluster.initialized = snapshot.initialized
            self._keys.observe(snapshot.initialized, snapshot.keys, snapshot.keys_version)
        if not rooms:
            self._enter(rooms)
            self.tunnels.close_all("the cluster is suspended")
            return
        self.tunnels.close_revoked()
        await self._keep_certified()
        try:
            await self._keys.attend()
        finally:
            self._enter(rooms)
        self._mention_loneliness()

    async def close(self) -> None:
        """Leave all rooms and close all tunnels at once."""
        self._on_close()
        self._draining = True
        self._enter(frozenset())
        await asyncio.gather(*(parker.close() for parker in self._left))
        await self.tunnels.close()
        await self._keys.close()
        await self._background.close()

    # Called by app

    async def drain(self) -> None:
        """Leave all rooms, and return when the last stream of the last tunnel has ended."""
        self._draining = True
        self._enter(frozenset())
        await self.tunnels.drain()

    def take_reviewer_token(self, token: Secret) -> None:
        """The operator's credential for the API server."""
        self._keys.take_token(token)

    async def refetch_keys(self) -> None:
        """Read the cluster's keys now, if that was not just done."""
        await self._keys.refetch()

    def status(self) -> dict[str, Any]:
        """For `cloudtaser-bridge status` and the metrics. Nothing secret, no whole room hash."""
        cluster = self.cluster
        return {
            "fingerprint": cluster.fingerprint,
            "suspended": cluster.registered.suspended,
            "initialized": cluster.initialized is not None,
            "parked": {room.value: parker.parked for room, parker in sorted(self._parkers.items())},
            "tunnels": len(self.tunnels),
            "streams": self.tunnels.streams,
            "keys": sorted(cluster.keys.kids),
            "keys_pending": self._keys.pending is not None,
            "logins_open": self._keys.installed,
            "certificate_ends": self._certificates.not_after,
        }

    # Rooms

    def _enter(self, rooms: frozenset[Room]) -> None:
        """Be in these rooms and no others; in none while ending, whatever a poll under way still says."""
        if self._draining:
            rooms = frozenset()
        self._left = [parker for parker in self._left if parker.busy]
        for room in [room for room in self._parkers if room not in rooms]:
            parker = self._parkers.pop(room)
            parker.leave()
            self._left.append(parker)
        for room in rooms - self._parkers.keys():
            self._parkers[room] = self._parker(room)
            self._parkers[room].start()

    def _parker(self, room: Room) -> Parker:
        invite: dict[Room, Callable[[], Guest]] = {
            Room.INIT: lambda: FirstTime(self.cluster.registered, self._rooms[Room.INIT], self._responder),
            Room.RETURN: lambda: self._coming_back(None),
            Room.OPERATIONAL: self.tunnels.invite,
        }
        return Parker(
            self._rooms[room],
            self._shared.beacons,
            self._shared.beacon_context,
            invite[room],
            on_unreachable=lambda beacon, error: self._shared.failed("beacon", str(beacon), "", error),
            on_parked=self._shared.reachable,
            on_failed=lambda error: self._failed(room.value, error),
            proxies=self._shared.proxies,
        )

    def _mention_loneliness(self) -> None:
        parker = self._parkers.get(Room.OPERATIONAL)
        alone = parker.lonely_for() if parker is not None else None
        if alone is not None and self.tunnels.parked_within(LONELY_AFTER):
            error = UnavailableError(
                f"parked for {alone:.0f} s while the broker is parked too",
                fix="balance the beacons by SNI route key (--beacon-address '*.host:port'), or list each",
            )
            self._shared.failed("meeting", self.cluster.fp8, Room.OPERATIONAL.value, error)

    def _coming_back(self, broker: str | None) -> ComingBack:
        room = self._rooms[Room.RETURN]
        return ComingBack(self.cluster.fingerprint, room, self._responder, self._certificates.proof, broker)

    def _failed(self, where: str, error: CloudtaserError) -> None:
        self._shared.failed("handshake", self.cluster.fp8, where, error)

    # Initialisation

    def _adopt(self, initialized: Initialized) -> None:
        """The cluster is initialised, by this bridge or another: do not wait for the next poll."""
        if self.cluster.initialized is None:
            self._initialized_here = self._shared.now()
            self.cluster.initialized = initialized
            self._keys.observe(initialized, None, 0)
            self._background.start(self._open())

    async def _open(self) -> None:
        try:
            await self._keys.attend()
        finally:
            self._enter(frozenset(Room))

    async def _certify(self, csr: CertificateRequest, broker: str) -> Signed:
        issued = await pki.sign(
            self._shared.client,
            self._space,
            PkiRole.BROKER,
            csr.pem,
            uris=(broker_uri(self.cluster.fingerprint, broker),),
            ttl=f"{self._shared.certificate_ttl:.0f}s",
        )
        pem = (issued.certificate_pem + issued.chain_pem).decode()
        return Signed(pem, int(issued.serial.replace(":", ""), 16))

    # Tunnels

    async def _keep_certified(self) -> None:
        now = self._shared.now()
        if now < self._certificates.due:
            return
        try:
            await self._certificates.renew(now)
        except CloudtaserError:
            if not self._certificates.ready or now >= self._certificates.not_after:
                raise
            self._certificates.due = now + SETTLING  # what there is holds for another while
            _log.warning("certificates not renewed yet", cluster=self.cluster.fp8)
            return
        self.cluster.pod_context = self._certificates.pod_context
        _log.info("certificates signed", cluster=self.cluster.fp8, ends=int(self._certificates.not_after))

    def _tunnel_context(self) -> ssl.SSLContext:
        context = self._certificates.tunnel_context
        assert context is not None  # no room is entered without
        return context

    def _serve(self, opening: Opening) -> asyncio.Protocol | None:
        if self.cluster.pod_context is None or not self._keys.installed:
            return None
        return self._shared.serve(self.cluster, opening)

    def _health(self) -> dict[str, Any]:
        return {"keys": len(self.cluster.keys.kids), "logins_open": self._keys.installed}


def _rooms(fingerprint: str, tunnel_ca_pem: str) -> dict[Room, bytes]:
    try:
        tunnel_ca = x509.load_pem_x509_certificate(tunnel_ca_pem.encode("ascii")).public_bytes(Encoding.DER)
    except ValueError:
        raise ProtocolError(
            "the registration holds no readable tunnel CA", fix="run `source register` again"
        ) from None
    return {
        Room.INIT: init_room(fingerprint),
        Room.OPERATIONAL: operational_room(tunnel_ca),
        Room.RETURN: return_room(tunnel_ca),
    }


def _serials(snapshot: Snapshot, now: float) -> frozenset[int]:
    try:
        return snapshot.revoked.numbers(now)
    except ValueError:
        raise ProtocolError("the record of revoked serials is damaged") from None
