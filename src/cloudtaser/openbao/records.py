"""Records: what cloudtaser writes down in OpenBao about clusters and bridges, and who may change it.

Used by registration and grants, which write, and by bridges, which read with every poll. Instants are RFC
3339 text in UTC, so that `bao kv get` shows something readable; certificates are PEM, hashes hex.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import msgspec

from cloudtaser.errors import ProtocolError
from cloudtaser.openbao.client import KvValue, OpenBao
from cloudtaser.openbao.errors import CasConflict, PermissionDenied
from cloudtaser.openbao.layout import Layout
from cloudtaser.openbao.recorded import RESTORE


@dataclass(frozen=True, slots=True)
class Former:
    """A CA that a rotation replaced and that is served until nobody needs it: its certificate (PEM), and the
    issuer under which OpenBao still signs with it."""

    pem: str
    issuer: str
    replaced_at: str


@dataclass(frozen=True, slots=True)
class Registered:
    """One cluster as `source register` set it up. `expires_at` ends an unused registration only.

    `tunnel_ca` and `pod_ca` are the current ones, which OpenBao's PKI mounts sign with by default. During a
    rotation the former ones stand beside them, and `endorsement` is a certificate (PEM) under the former
    tunnel CA that names the current one: with it an operator that pinned the former accepts the current.
    The last rotation of the CAs ended at `cas_rotated_at`. Certificates made before `rotated_at` are to be
    renewed. With `pregenerated` the leaves are stored, of one year (spec/wire.md, "Pre-generated form").
    """

    fingerprint: str
    created_at: str
    created_by: str
    expires_at: str
    init_room: str
    info_hash: str
    tunnel_ca: str
    pod_ca: str
    space: str
    namespace: str
    operator_subject: str
    join_psk: str = ""
    policies: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    suspended: bool = False
    broker_addresses: tuple[str, ...] = ()
    former_tunnel_ca: Former | None = None
    former_pod_cas: tuple[Former, ...] = ()
    endorsement: str = ""
    rotated_at: str = ""
    cas_rotated_at: str = ""
    pregenerated: bool = False

    def lapsed(self, now: float) -> bool:
        """Whether it can no longer be used for a first initialisation; `now` in seconds since the epoch."""
        return now >= seconds(self.expires_at)


@dataclass(frozen=True, slots=True)
class Initialized:
    """The first initialisation: when, by which bridge, for which key, and the cluster as it was then."""

    at: str
    bridge: str
    keys: dict[str, Any]
    issuer: str
    cluster_ca: str
    subject: str
    public_key_sha256: str


@dataclass(frozen=True, slots=True)
class Keys:
    """The cluster's signing keys (a JWKS) as last read from its API server.

    `pending` is a set that shares no key with them, seen at `pending_at`; it counts only once a person has
    accepted it.
    """

    jwks: dict[str, Any]
    read_at: str
    bridge: str
    pending: dict[str, Any] | None = None
    pending_at: str = ""


@dataclass(frozen=True, slots=True)
class Revoked:
    """Serials of certificates that no longer open a tunnel, hex; those of `pending` from `pending_from` on,
    so that whoever holds them can renew before."""

    serials: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    pending_from: str = ""

    def numbers(self, now: float) -> frozenset[int]:
        """The serials that count at `now` (seconds since the epoch), as certificates carry them."""
        due = self.pending if self.pending_from and now >= seconds(self.pending_from) else ()
        return frozenset(int(serial.replace(":", ""), 16) for serial in (*self.serials, *due))


@dataclass(frozen=True, slots=True)
class Grant:
    """What one namespace and ServiceAccount ("" for any of the namespace) may read."""

    namespace: str
    serviceaccount: str = ""
    paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Grants:
    """JWT roles beside the default one, by role name (`<namespace>_<serviceaccount>`, `<namespace>_`)."""

    roles: dict[str, Grant] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PodCaUse:
    """How many pods a bridge saw lately that pin one pod CA, and when the last of them came."""

    pods: int
    seen_at: str


@dataclass(frozen=True, slots=True)
class Served:
    """One cluster as one bridge serves it.

    `tunnels` counts open tunnels by the first 12 hex digits of the tunnel CA's SHA-256, `pod_cas` pods by the
    first 8 of the pod CA's, as in the SNI. `certificate_ends` is the first end of its own certificates.
    """

    tunnels: dict[str, int] = field(default_factory=dict)
    pod_cas: dict[str, PodCaUse] = field(default_factory=dict)
    certificate_ends: str = ""
    keys_pending: bool = False
    suspended: bool = False


@dataclass(frozen=True, slots=True)
class PathRead:
    """When a path was first and last read, and how often."""

    first: str
    last: str
    count: int


@dataclass(frozen=True, slots=True)
class Reads:
    """Which paths one bridge let be read of a cluster's space since it was initialised: what is exposed if
    that initialisation was an impostor's. `dropped` counts reads that found the record full."""

    bridge: str
    paths: dict[str, PathRead] = field(default_factory=dict)
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class BridgeRecord:
    """A bridge's sign of life, and by fingerprint how it serves each cluster."""

    id: str
    version: str
    seen_at: str
    started_at: str = ""
    clusters: int = 0
    tunnels: int = 0
    served: dict[str, Served] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its key (PEM), stored in the pre-generated form; `made_at` is RFC 3339."""

    certificate: str
    key: str = field(repr=False)
    serial: str = ""
    made_at: str = ""


Record = TypeVar("Record", Pair, Registered, Initialized, Keys, Revoked, Grants, BridgeRecord, Reads)


def instant(now: float) -> str:
    """RFC 3339, in UTC, to the second."""
    return datetime.datetime.fromtimestamp(now, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 instant; ProtocolError if it is none."""
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ProtocolError(f"a record holds no time where one belongs: {text[:40]!r}") from None
    if moment.tzinfo is None:
        raise ProtocolError(f"a record holds a time without its zone: {text[:40]!r}")
    return moment.timestamp()


@dataclass(frozen=True, slots=True)
class Sighting:
    """A bridge's record and when it was written, in seconds since the epoch by OpenBao's clock. One that
    cannot be read holds the bridge's name alone, and `damage` says why."""

    bridge: BridgeRecord
    at: float
    damage: str = ""


class Records:
    """The records of one server. Every write is check-and-set; `cas` 0 means that there must be none yet."""

    def __init__(self, client: OpenBao, layout: Layout) -> None:
        self._client = client
        self._layout = layout

    def use(self, layout: Layout) -> None:
        """Look where this layout says, for whoever learns only later what the server is."""
        self._layout = layout

    async def clusters(self) -> list[str]:
        """Fingerprints of all clusters that have any record; `registered` says whether they still count."""
        path = f"{self._layout.state_mount}/metadata/{self._layout.clusters}"
        keys = await self._client.list(path, namespace=self._layout.system_namespace)
        return [key.rstrip("/") for key in keys]

    async def registered(self, fingerprint: str) -> Registered | None:
        """The registration, None without one."""
        return (await self.registered_version(fingerprint))[0]

    async def registered_version(self, fingerprint: str) -> tuple[Registered | None, int]:
        """The registration and its version, (None, 0) without one."""
        return await self._read(self._layout.registered(fingerprint), Registered)

    async def is_registered(self, fingerprint: str) -> bool:
        """Whether there is a registration, be it damaged."""
        try:
            return await self.registered(fingerprint) is not None
        except ProtocolError:
            return True

    async def write_registered(self, record: Registered, cas: int) -> int:
        """Write a registration; CasConflict unless `cas` is the current version."""
        return await self._write(self._layout.registered(record.fingerprint), record, cas)

    async def initialized(self, fingerprint: str) -> Initialized | None:
        """The first initialisation, None before it."""
        return (await self._read(self._layout.initialized(fingerprint), Initialized))[0]

    async def create_initialized(self, fingerprint: str, record: Initialized) -> bool:
        """Whether this call created the record; of any number of callers at most one is told so."""
        try:
            await self._write(self._layout.initialized(fingerprint), record, 0)
        except CasConflict:
            return False
        except PermissionDenied:
            # a bridge may create but not update: to it, a record that is there reads as a refusal
            if await self.initialized(fingerprint) is None:
                raise
            return False
        return True

    async def keys(self, fingerprint: str) -> tuple[Keys | None, int]:
        """The keys as last read and the record's version, (None, 0) without one."""
        return await self._read(self._layout.keys(fingerprint), Keys)

    async def write_keys(self, fingerprint: str, record: Keys, cas: int) -> int:
        """Write the keys; CasConflict if another bridge was faster."""
        return await self._write(self._layout.keys(fingerprint), record, cas)

    async def revoked(self, fingerprint: str) -> Revoked:
        """The serials that count no more."""
        return (await self.revoked_version(fingerprint))[0]

    async def revoked_version(self, fingerprint: str) -> tuple[Revoked, int]:
        """The serials that count no more and the record's version."""
        record, version = await self._read(self._layout.revoked(fingerprint), Revoked)
        return record or Revoked(), version

    async def write_revoked(self, fingerprint: str, record: Revoked, cas: int) -> int:
        """Write the serials; CasConflict unless `cas` is the current version."""
        return await self._write(self._layout.revoked(fingerprint), record, cas)

    async def reads(self, fingerprint: str) -> list[Reads]:
        """What every bridge noted of the paths read in a cluster's space."""
        bridges = await self.readers(fingerprint)
        found = [(await self.reads_of(fingerprint, bridge))[0] for bridge in bridges]
        return [record for record in found if record is not None]

    async def readers(self, fingerprint: str) -> list[str]:
        """The bridges that noted which paths were read."""
        path = self._layout.record_path(self._layout.all_reads(fingerprint), "metadata")
        return await self._client.list(path, namespace=self._layout.system_namespace)

    async def reads_of(self, fingerprint: str, bridge_id: str) -> tuple[Reads | None, int]:
        """What one bridge noted, and the record's version."""
        return await self._read(self._layout.reads(fingerprint, bridge_id), Reads)

    async def write_reads(self, fingerprint: str, record: Reads, cas: int) -> int:
        """Write what one bridge noted; only that bridge writes there."""
        return await self._write(self._layout.reads(fingerprint, record.bridge), record, cas)

    async def grants(self, fingerprint: str) -> Grants:
        """The roles beside the default one."""
        return (await self.grants_version(fingerprint))[0]

    async def grants_version(self, fingerprint: str) -> tuple[Grants, int]:
        """The roles beside the default one and the record's version."""
        record, version = await self._read(self._layout.grants(fingerprint), Grants)
        return record or Grants(), version

    async def write_grants(self, fingerprint: str, record: Grants, cas: int) -> int:
        """Write the grants; CasConflict unless `cas` is the current version."""
        return await self._write(self._layout.grants(fingerprint), record, cas)

    async def pair(self, fingerprint: str, party: str) -> tuple[Pair | None, int]:
        """A stored pair and its version, (None, 0) without one."""
        return await self._read(self._layout.pair(fingerprint, party), Pair)

    async def write_pair(self, fingerprint: str, party: str, record: Pair, cas: int) -> int:
        """Store a pair; CasConflict unless `cas` is the current version."""
        return await self._write(self._layout.pair(fingerprint, party), record, cas)

    async def write_bridge(self, record: BridgeRecord) -> None:
        """Replace a bridge's own sign of life; only that bridge writes there."""
        path = self._layout.bridge(record.id)
        value = await self._value(path)
        await self._write(path, record, value.version if value is not None else 0)

    async def bridge(self, bridge_id: str) -> BridgeRecord | None:
        """One bridge's last sign of life."""
        return (await self._read(self._layout.bridge(bridge_id), BridgeRecord))[0]

    async def bridges(self) -> list[BridgeRecord]:
        """Every bridge that ever gave a sign of life."""
        return [sighting.bridge for sighting in await self.sightings()]

    async def sightings(self) -> list[Sighting]:
        """The same, with the time of its last sign of life."""
        path = f"{self._layout.state_mount}/metadata/{self._layout.bridges}"
        found = []
        for key in await self._client.list(path, namespace=self._layout.system_namespace):
            place = self._layout.bridge(key)
            value = await self._value(place)
            if value is not None:
                found.append(_sighting(key, value, place))
        return found

    async def forget(self, path: str) -> None:
        """Remove one record with its history; nothing happens where there is none."""
        await self._client.kv_forget(self._layout.state_mount, path, namespace=self._layout.system_namespace)

    async def _read(self, path: str, kind: type[Record]) -> tuple[Record | None, int]:
        value = await self._value(path)
        return (_record(value, path, kind), value.version) if value is not None else (None, 0)

    async def _value(self, path: str) -> KvValue | None:
        return await self._client.kv_read(
            self._layout.state_mount, path, namespace=self._layout.system_namespace
        )

    async def _write(self, path: str, record: Record, cas: int) -> int:
        data = msgspec.to_builtins(record)
        return await self._client.kv_write(
            self._layout.state_mount, path, data, namespace=self._layout.system_namespace, cas=cas
        )


def _sighting(bridge: str, value: KvValue, path: str) -> Sighting:
    """One bridge's. Each writes its own and no other's, so the name of the record is its name."""
    at = seconds(str(value.metadata["created_time"]))
    try:
        record = _record(value, path, BridgeRecord)
        for time in (record.started_at, *(served.certificate_ends for served in record.served.values())):
            if time:
                seconds(time)
    except ProtocolError as error:
        return Sighting(BridgeRecord(bridge, "", ""), at, error.what)
    return Sighting(replace(record, id=bridge), at)


def _record(value: KvValue, path: str, kind: type[Record]) -> Record:
    try:
        return msgspec.convert(value.data, kind)
    except msgspec.ValidationError as error:
        raise ProtocolError(f"a record in OpenBao is damaged: {error}", on=path, fix=RESTORE) from None
