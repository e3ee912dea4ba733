"""Everything this bridge runs for one cluster: its rooms, tunnels, certificates and keys.

Made and visited by `registry`, once for each registration; `service` gives it what all stations share. It
decides nothing about protocols: `parking`, `bootstrap`, `tunnels` and `keys` do. There is no task of its own
while nothing happens: the registry's poll is its clock. What a rotation adds, two of each CA, is spelled in
`authorities`; here every room, tunnel and certificate belongs to one of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

from cloudtaser.bridge.authorities import Authorities, Authority, authorities_of
from cloudtaser.bridge.background import Background
from cloudtaser.bridge.bootstrap import Responder, Signed
from cloudtaser.bridge.cluster import Cluster
from cloudtaser.bridge.control import Control
from cloudtaser.bridge.csr import CertificateRequest
from cloudtaser.bridge.doors import Door
from cloudtaser.bridge.identity import Certificates
from cloudtaser.bridge.keys import KeyKeeper
from cloudtaser.bridge.leaves import StoredLeaves
from cloudtaser.bridge.one_cluster import GivenKeys
from cloudtaser.bridge.parker import Parker
from cloudtaser.bridge.parking import LONELY_AFTER
from cloudtaser.bridge.reads import ReadKeeper
from cloudtaser.bridge.reception import ComingBack, FirstTime
from cloudtaser.bridge.registry import Room, Snapshot
from cloudtaser.bridge.review import Reviews
from cloudtaser.bridge.revocations import Revocations
from cloudtaser.bridge.rooms import Invite, Place, Rooms, places
from cloudtaser.bridge.shared import Shared
from cloudtaser.bridge.tokens import KeySet
from cloudtaser.bridge.tunnels import Tunnels
from cloudtaser.errors import CloudtaserError, ProtocolError, UnavailableError
from cloudtaser.net.log import get_logger
from cloudtaser.net.rendezvous import BeaconRefusedError
from cloudtaser.openbao import pki
from cloudtaser.openbao.layout import Space
from cloudtaser.openbao.pki import PkiRole
from cloudtaser.openbao.records import Initialized, Registered, Served, instant, seconds
from cloudtaser.secret import Secret
from cloudtaser.wire.hashes import operational_room, return_room
from cloudtaser.wire.names import broker_uri
from cloudtaser.wire.opening import Opening
from cloudtaser.wire.rendezvous import Refusal

SETTLING: Final = 30.0
"""Seconds in which a poll that was under way may not yet show an initialisation that happened here."""
POD_CA_AFTER: Final = 20.0
"""Seconds after a rotation from which pods are handed the next CA: by then every bridge serves it."""

_log = get_logger("bridge.station")


class Station:
    """One cluster, served."""

    def __init__(self, shared: Shared, snapshot: Snapshot, on_close: Callable[[], None]) -> None:
        registered = snapshot.registered
        fingerprint = registered.fingerprint
        self._shared = shared
        self._on_close = on_close
        self._space = Space.recorded(registered.space, registered.namespace)
        self._authorities = authorities_of(registered)
        self.cluster = Cluster(fingerprint, registered, snapshot.grants, KeySet())
        self._certificates = Certificates(
            shared.client,
            self._space,
            fingerprint,
            shared.bridge_id,
            shared.certificate_ttl,
            on_failed=lambda error: self._failed("certificates", error),
        )
        self._certificates.follow(self._authorities)
        self._stored = StoredLeaves(
            shared.records, fingerprint, lambda error: self._failed("certificates", error)
        )
        self._reads = ReadKeeper(shared.records, fingerprint, shared.bridge_id, self.cluster.reads)
        self.doors: tuple[Door, ...] = ()
        """Where this cluster's operator is waited for."""
        self._rooms = Rooms(self._parker)
        self._background = Background("bridge.station")
        self._initialized_here = float("-inf")
        self._served_since: dict[str, float] = {}  # pod CAs by label; the wall clock
        self._generation = _generation(registered)
        self._strangers = 0
        self._draining = False
        keeper = KeyKeeper if registered.created_at else GivenKeys  # without a registration
        self._keys = keeper(
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
            self._certificates.tunnel_context,
            serve=self._serve,
            renewal=lambda broker, authority: self._coming_back(authority, broker),
            control=lambda: Control(shared.bridge_id, self._health, self._keys.hint),
            on_change=lambda: None,
            on_failed=self._failed,
        )
        self.reviews = Reviews(
            self.cluster,
            pick=self.tunnels.pick,
            credential=lambda: self._keys.credential,
            now=shared.now,
            on_failed=lambda error: self._failed("review", error),
        )  # asked in strict mode alone
        self._revocations = Revocations(self.cluster, shared.now, self.tunnels.close_revoked)
        before = shared.before(fingerprint)
        if before is not None:
            self.cluster.pod_cas.carry(before.pod_cas)

        self._find_doors()

    # Called by the registry

    async def attend(self, snapshot: Snapshot, rooms: frozenset[Room]) -> None:
        """Bring everything in step with the records. CloudtaserError when OpenBao would not have it."""
        cluster = self.cluster
        if not rooms:  # before anything that a damaged record could hinder
            self._enter(rooms)
            self.tunnels.close_all("the cluster is suspended")
            self._keys.suspend()
        if snapshot.initialized is None and cluster.initialized is not None:
            if self._shared.now() - self._initialized_here < SETTLING:
                return  # this poll had read the records before they changed
            raise ProtocolError("the record of the initialisation is gone", fix="run `source reset`")
        suspended, anew = cluster.registered.suspended, False
        if cluster.registered != snapshot.registered:  # sessions keep what they derive from it
            self._authorities = authorities_of(snapshot.registered)
            cluster.registered = snapshot.registered
            self._find_doors()
            anew = self._generation != _generation(snapshot.registered)
            self._generation = _generation(snapshot.registered)
            self._shared.changed()
        cluster.grants = snapshot.grants
        self._revocations.observe(snapshot.revoked)
        if snapshot.initialized is not None:
            cluster.initialized = snapshot.initialized
            self._keys.observe(snapshot.initialized, snapshot.keys, snapshot.keys_version)
        if not rooms:
            if not suspended:
                await self.flush_reads(whole=True)
            return
        self._retire(self._authorities)
        await self._keep_certified()
        try:
            await self._keys.attend()
        finally:
            self._enter(rooms)
        self.tunnels.hint_renewals(self._authorities.tunnel[0], self._revocations.outdated, anew=anew)
        self._mention_loneliness()
        self._mention_strangers()

    async def close(self) -> None:
        """Leave all rooms and close all tunnels at once."""
        self._on_close()
        self._draining = True
        self._enter(frozenset())
        self._revocations.close()
        await self._rooms.close()
        await self.tunnels.close()
        await self._keys.close()
        await self.reviews.close()
        await self._background.close()

    # Called by app

    async def drain(self) -> None:
        """Leave all rooms, and return when the last stream of the last tunnel has ended."""
        self._draining = True
        self._enter(frozenset())
        await self.tunnels.drain()

    async def flush_reads(self, *, whole: bool = False) -> None:
        """Write down which paths were read, if that is due; `whole`: all of it, now."""
        try:
            await self._reads.flush(self._shared.now(), whole=whole)
        except CloudtaserError as error:
            self._failed("reads", error)

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
            "parked": self._rooms.parked(self._places(self._authorities.tunnel[:1], frozenset(Room))),
            "tunnels": len(self.tunnels),
            "streams": self.tunnels.streams,
            "keys": sorted(cluster.keys.kids),
            "keys_pending": self._keys.pending is not None,
            "logins_open": self._keys.installed,
            "certificate_ends": self._certificates.not_after,
            "rotating": len(self._authorities.tunnel) > 1 or len(self._authorities.pod) > 1,
            "pods_turned_away": cluster.pod_cas.strangers,
            "tunnel_cas": {one.id: self.tunnels.count(one) for one in self._authorities.tunnel},
            "pod_cas": {label: use.pods for label, use in cluster.pod_cas.uses(self._shared.now()).items()},
        }

    def served(self) -> Served:
        """The same for `source status`, where a rotation is finished by what all bridges say."""
        ends = self._certificates.not_after
        return Served(
            tunnels={one.id: self.tunnels.count(one) for one in self._authorities.tunnel},
            pod_cas=self.cluster.pod_cas.uses(self._shared.now()),
            certificate_ends=instant(ends) if ends else "",
            keys_pending=self._keys.pending is not None,
            suspended=self.cluster.registered.suspended,
        )

    # Rooms

    def _find_doors(self) -> None:
        """Where to wait from now on; at other doors than before, the rooms are entered anew."""
        doors = self._shared.ways.to(self.cluster.registered)
        if doors != self.doors:
            self._enter(frozenset())
            self.doors = doors
        if not doors:
            _log.warning(
                "there is no way to this cluster: give --beacon-address or --broker-address, or register it"
                " with --broker-address",
                cluster=self.cluster.fp8,
            )

    def _enter(self, rooms: frozenset[Room]) -> None:
        """Be in these rooms and no others; in none while ending, whatever a poll under way still says."""
        if self._draining:
            rooms = frozenset()
        invites: dict[Place, Invite] = {}
        for place, authority in self._places(self._certificates.tunnel, rooms).items():
            if authority is None:
                invites[place] = partial(self._first_time, place)
            elif place[0] is Room.OPERATIONAL:
                invites[place] = partial(self.tunnels.invite, authority)
            else:
                invites[place] = partial(self._coming_back, authority, None)
        self._rooms.enter(invites)

    def _places(
        self, authorities: Iterable[Authority], rooms: frozenset[Room]
    ) -> dict[Place, Authority | None]:
        return places(self.cluster.fingerprint, authorities, rooms)

    def _parker(self, place: Place, invite: Invite) -> Parker:
        room, hashed = place
        return Parker(
            hashed,
            self.doors,
            invite,
            on_unreachable=partial(self._unreachable, room),
            on_parked=self._shared.reachable,
            on_failed=lambda error: self._failed(room.value, error),
        )

    def _unreachable(self, room: Room, door: Door, error: CloudtaserError) -> None:
        closed = isinstance(error, BeaconRefusedError) and error.refusal is Refusal.BAD_HELLO
        if closed and room is Room.INIT and self.cluster.initialized is not None:
            return  # a broker that is initialised has no init room any more: as it should be
        self._shared.failed(door.kind, str(door), "", error)

    def _first_time(self, place: Place) -> FirstTime:
        return FirstTime(self.cluster.registered, place[1], self._responder)

    def _mention_loneliness(self) -> None:
        parker = self._rooms[Room.OPERATIONAL, operational_room(self._authorities.tunnel[0].der)]
        alone = parker.lonely_for() if parker is not None else None
        if alone is not None and self.tunnels.parked_within(LONELY_AFTER):
            error = UnavailableError(
                f"parked for {alone:.0f} s while the broker is parked too",
                fix="balance the beacons by SNI route key (--beacon-address '*.host:port'), or list each",
            )
            self._shared.failed("meeting", self.cluster.fp8, Room.OPERATIONAL.value, error)

    def _mention_strangers(self) -> None:
        count = self.cluster.pod_cas.strangers
        if count > self._strangers:
            error = UnavailableError(
                f"{count - self._strangers} connections of pods that pin a pod CA which is not served",
                fix="restart the pods that started before the last rotation of the CAs",
            )
            self._strangers = count
            self._failed("pods", error)

    def _coming_back(self, authority: Authority, broker: str | None) -> ComingBack:
        """In the room of that CA, or in a tunnel under it: the bridge proves itself under the same."""
        prove = partial(self._certificates.proof, authority)
        room = return_room(authority.der)
        return ComingBack(self.cluster.fingerprint, room, self._responder, prove, broker)

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
        if self.cluster.registered.pregenerated:
            pair = await self._stored.broker(self._authorities.tunnel[0], self._shared.now())
            if pair is not None:
                return Signed(pair.certificate, int(pair.serial.replace(":", ""), 16), pair.key)
        issued = await pki.sign(
            self._shared.client,
            self._space,
            PkiRole.BROKER,
            csr.pem,
            uris=(broker_uri(self.cluster.fingerprint, broker),),
            ttl=f"{self._shared.certificate_ttl:.0f}s",
        )
        if Authority.of(issued.authority_pem.decode()).der != self._authorities.tunnel[0].der:
            raise UnavailableError("OpenBao signs with another CA than the registration names")
        pem = (issued.certificate_pem + issued.chain_pem).decode()
        return Signed(pem, int(issued.serial.replace(":", ""), 16))

    # Tunnels

    async def _keep_certified(self) -> None:
        now, certificates, cluster = self._shared.now(), self._certificates, self.cluster
        stored = (self._stored,) if cluster.registered.pregenerated else ()
        certificates.leaves = (*self._shared.files, *stored)
        if await certificates.attend(now, cluster.registered.rotated_at):
            _log.info("certificates signed", cluster=cluster.fp8, ends=int(certificates.not_after))
        if not certificates.pod:
            return
        cluster.pod_context = cluster.pod_cas.serve(certificates.pod_contexts(), certificates.pod[-1].label)
        self._served_since = {one.label: self._served_since.get(one.label, now) for one in certificates.pod}
        cluster.pod_ca = self._next_pod_ca(now).pem

    def _next_pod_ca(self, now: float) -> Authority:
        """The newest that every bridge can be expected to serve."""
        served, former = self._certificates.pod, self.cluster.registered.former_pod_cas
        replaced = max((seconds(one.replaced_at) for one in former), default=float("-inf"))
        begun = min(replaced, self._served_since[served[0].label])
        return served[0] if len(served) == 1 or now >= begun + POD_CA_AFTER else served[1]

    def _retire(self, authorities: Authorities) -> None:
        """Stand under these CAs alone: leave the rooms of others, and gently their tunnels and pods."""
        self._rooms.keep(self._places(authorities.tunnel, frozenset(Room)))
        self._certificates.follow(authorities)
        self.tunnels.retire(authorities.tunnel, self._shared.drain)
        labels = frozenset(one.label for one in authorities.pod)
        if self.cluster.pod_cas.labels - labels:
            for session in self._shared.retire_pods(self.cluster, labels):
                asyncio.get_running_loop().call_later(self._shared.drain, session.abort)

    def _serve(self, opening: Opening) -> asyncio.Protocol | None:
        if self.cluster.pod_context is None or not self._keys.installed:
            return None
        return self._shared.serve(self.cluster, opening)

    def _health(self) -> dict[str, Any]:
        return {"keys": len(self.cluster.keys.kids), "logins_open": self._keys.installed}


def _generation(registered: Registered) -> tuple[str, str]:
    """Changes when certificates of before are to be replaced."""
    return registered.tunnel_ca, registered.rotated_at
