"""A station follows its registration: rotation, revocation, suspension. OpenBao is two CAs in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cloudtaser.bridge.cluster import Cluster
from cloudtaser.bridge.config_brokers import Brokers
from cloudtaser.bridge.doors import Ways
from cloudtaser.bridge.registry import Room, Snapshot
from cloudtaser.bridge.session import Session
from cloudtaser.bridge.shared import Shared
from cloudtaser.bridge.station import POD_CA_AFTER, Station
from cloudtaser.bridge.tunnels import TunnelGuest
from cloudtaser.errors import CloudtaserError, UnavailableError
from cloudtaser.net.layers import TlsLayer
from cloudtaser.net.tls import tunnel_server
from cloudtaser.net.tunnel import Tunnel
from cloudtaser.openbao.pki import new_key
from cloudtaser.openbao.records import (
    Former,
    Grants,
    Initialized,
    PathRead,
    PodCaUse,
    Reads,
    Registered,
    Revoked,
    Served,
    instant,
)
from cloudtaser.wire.hashes import pod_ca_label
from cloudtaser.wire.names import BRIDGE_NAME, bridge_uri
from tests.unit.bridge.scripted_operator import FakeCluster, dial, hang_up
from tests.unit.operator.parties import CLIENT, FINGERPRINT, SERVER, Authority, Leaf

ROOMS = frozenset({Room.OPERATIONAL, Room.RETURN})
CLUSTER = FakeCluster(FINGERPRINT)


class OpenBao:
    """Signs under the CA that is asked for, and remembers what logins are checked with."""

    def __init__(self, tunnel: Authority, pod: Authority) -> None:
        self.issuers = {"pki-tunnel/": tunnel, "pki-pod/": pod}  # by mount, the default; and by issuer
        self.signed: list[str] = []
        self.configured: list[list[str]] = []
        self.reads: Reads | None = None
        self.record: Registered | None = None

    async def request(
        self, method: str, path: str, *, namespace: str, body: dict[str, Any]
    ) -> dict[str, Any]:
        if path == "auth/jwt/config":
            self.configured.append(body["jwt_validation_pubkeys"])
            return {}
        self.signed.append(path)
        authority = self.issuers[path.partition("sign/")[0]]
        csr = x509.load_pem_x509_csr(body["csr"].encode())
        public: Any = csr.public_key()
        tunnel = "/sign/bridge-pod" not in path
        leaf = authority.issue(
            [bridge_uri(FINGERPRINT, "b1")] if tunnel else [],
            CLIENT if tunnel else SERVER,
            public=public,
            dns=() if tunnel else (BRIDGE_NAME, f"*.{BRIDGE_NAME}"),
        )
        return {
            "data": {
                "certificate": leaf.pem,
                "issuing_ca": authority.pem,
                "serial_number": "0a",
                "expiration": int(leaf.certificate.not_valid_after_utc.timestamp()),
            }
        }

    async def registered(self, _: str) -> Registered | None:
        return self.record

    async def is_registered(self, _: str) -> bool:
        return True

    async def reads_of(self, *_: str) -> tuple[Reads | None, int]:
        return self.reads, 0 if self.reads is None else 1

    async def write_reads(self, _: str, record: Reads, cas: int) -> int:
        self.reads = record
        return cas + 1


@dataclass
class House:
    """A station, and the record that it follows."""

    tunnel_ca: Authority = field(default_factory=lambda: Authority("tunnel"))
    pod_ca: Authority = field(default_factory=lambda: Authority("pod"))
    next_tunnel: Authority = field(default_factory=lambda: Authority("next tunnel"))
    next_pod: Authority = field(default_factory=lambda: Authority("next pod"))
    before: Served | None = None
    changes: int = 0
    later: float = 0.0
    retired: list[frozenset[str]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    failed: asyncio.Event = field(default_factory=asyncio.Event)
    seen: int = 0

    def __post_init__(self) -> None:
        self.openbao = OpenBao(self.tunnel_ca, self.pod_ca)
        self.registered = Registered(
            FINGERPRINT, "2026-01-01T00:00:00Z", "", "", "", "", self.tunnel_ca.pem, self.pod_ca.pem,
            "0ad50c05", "cloudtaser/0ad50c05", "subject",
        )  # fmt: skip
        self.openbao.record = self.registered
        jwks = CLUSTER.jwks
        initialized = Initialized("2026-01-01T00:00:00Z", "b1", jwks, "https://issuer", CLUSTER.ca, "s", "")
        self.snapshot = Snapshot(self.registered, initialized, None, 0, Revoked(), Grants())
        shared = Shared(
            client=self.openbao,  # type: ignore[arg-type]  # as far as a station uses it
            records=self.openbao,  # type: ignore[arg-type]
            bridge_id="b1",
            ways=Ways((), Brokers(transport="tls")),
            certificate_ttl=86400.0,
            now=lambda: time.time() + self.later,
            serve=lambda cluster, opening: asyncio.Protocol(),
            failed=lambda what, whom, where, error: self._failed(error),
            reachable=lambda _: None,
            keys_changed=lambda cluster, event: None,
            retire_pods=self._retire,
            changed=self._changed,
            before=lambda _: self.before,
            drain=0.2,
        )
        self.station = Station(shared, self.snapshot, lambda: None)

    def _retire(self, cluster: Cluster, labels: frozenset[str]) -> list[Session]:
        self.retired.append(labels)
        return []

    def _failed(self, error: CloudtaserError) -> None:
        self.failures.append(error.diagnostic())
        self.failed.set()

    async def failure(self, number: int) -> str:
        """The failure of that number, once there is one."""
        async with asyncio.timeout(10):
            while len(self.failures) <= number:
                self.failed.clear()
                await self.failed.wait()
        self.seen = number + 1
        return self.failures[number]

    def _changed(self) -> None:
        self.changes += 1

    async def poll(self, rooms: frozenset[Room] = ROOMS, **changes: Any) -> None:
        """The next poll finds the registration so."""
        self.registered = replace(self.registered, **changes)
        self.openbao.record = self.registered
        self.snapshot = replace(self.snapshot, registered=self.registered)
        await self.station.attend(self.snapshot, rooms if not self.registered.suspended else frozenset())

    async def begin_rotation(self) -> None:
        self.openbao.issuers = {
            "pki-tunnel/": self.next_tunnel,
            "pki-tunnel/issuer/1/": self.tunnel_ca,
            "pki-pod/": self.next_pod,
            "pki-pod/issuer/2/": self.pod_ca,
        }
        at = instant(time.time())
        await self.poll(
            tunnel_ca=self.next_tunnel.pem,
            pod_ca=self.next_pod.pem,
            former_tunnel_ca=Former(self.tunnel_ca.pem, "1", at),
            former_pod_cas=(Former(self.pod_ca.pem, "2", at),),
        )

    async def joined(self, ca: Authority, leaf: Leaf | None = None) -> Tunnel:
        """A broker's end of a tunnel that was met in the room of that CA."""
        authority = next(one for one in self.station._authorities.tunnel if one.pem == ca.pem)
        guest: TunnelGuest = self.station.tunnels.invite(authority)
        broker = Tunnel(False, lambda opening, stream: None)
        context = tunnel_server((leaf or ca.broker()).identity, [ca.pem.encode()])
        await dial(guest.protocol, TlsLayer(context, broker, server_side=True))
        await guest.receive()
        return broker

    @property
    def rooms(self) -> set[str]:
        return set(self.station.status()["parked"])


@pytest.fixture
async def house() -> AsyncIterator[House]:
    made = House()
    await made.poll()
    yield made
    await made.station.close()
    await hang_up()


def label(ca: Authority) -> str:
    return pod_ca_label(ca.certificate.public_bytes(Encoding.DER))


async def test_a_rotation_adds_the_rooms_of_the_next_ca_and_leaves_nobody(house: House) -> None:
    old = await house.joined(house.tunnel_ca)
    assert house.rooms == {"operational", "return"}
    first = house.station._rooms._entered.copy()
    await house.begin_rotation()
    assert house.rooms == {"operational", "return", "former operational", "former return"}
    assert first.items() <= house.station._rooms._entered.items(), "whoever is parked stays parked"
    new = await house.joined(house.next_tunnel)
    assert list(house.station.served().tunnels.values()) == [1, 1]
    assert not old.closed.done()
    assert not new.closed.done()
    assert house.station.status()["rotating"]
    assert house.changes == 1


async def test_its_end_retires_the_former_cas_gently(house: House) -> None:
    old = await house.joined(house.tunnel_ca)
    await house.begin_rotation()
    new = await house.joined(house.next_tunnel)
    await house.poll(former_tunnel_ca=None, former_pod_cas=())
    assert house.rooms == {"operational", "return"}
    async with asyncio.timeout(30):
        await old.closed
    assert old.error is None, "a regular end"
    assert not new.closed.done()
    assert house.retired == [frozenset({label(house.next_pod)})]
    assert list(house.station.served().tunnels.values()) == [1]


async def test_pods_are_handed_the_next_ca_once_every_bridge_serves_it(house: House) -> None:
    cluster = house.station.cluster
    assert cluster.pod_ca == house.pod_ca.pem
    await house.begin_rotation()
    assert cluster.pod_ca == house.pod_ca.pem
    assert cluster.pod_cas.labels == {label(house.pod_ca), label(house.next_pod)}
    house.later = POD_CA_AFTER + 1
    await house.poll()
    assert cluster.pod_ca == house.next_pod.pem


async def test_a_bridge_that_starts_during_a_rotation_keeps_what_it_had_counted() -> None:
    house = House()
    house.before = Served(pod_cas={label(house.pod_ca): PodCaUse(4, instant(time.time()))})
    house.__post_init__()
    try:
        await house.begin_rotation()
        pods = {ca: use.pods for ca, use in house.station.served().pod_cas.items()}
        assert pods == {label(house.pod_ca): 4, label(house.next_pod): 0}
    finally:
        await house.station.close()


async def test_pods_that_pin_a_retired_ca_are_mentioned(house: House) -> None:
    await house.poll()
    assert house.failures == []
    house.station.cluster.pod_cas.strangers += 3
    await house.poll()
    await house.poll()
    (mention,) = house.failures
    assert "3 connections" in mention
    assert "restart the pods" in mention
    assert house.station.status()["pods_turned_away"] == 3


async def test_after_a_leaf_rotation_the_bridge_has_itself_certified_anew_at_once(house: House) -> None:
    signed = len(house.openbao.signed)
    await house.poll(rotated_at=instant(time.time()))
    await house.poll()
    assert house.openbao.signed[signed:] == ["pki-tunnel/sign/bridge", "pki-pod/sign/bridge-pod"]


async def test_a_revocation_takes_effect_at_its_time_and_not_with_the_poll_after(house: House) -> None:
    robbed = house.tunnel_ca.broker()
    tunnel = await house.joined(house.tunnel_ca, robbed)
    serial = f"{robbed.certificate.serial_number:x}"
    due = time.time() + 1.5
    house.snapshot = replace(house.snapshot, revoked=Revoked((), (serial,), instant(due)))
    await house.poll()
    assert not tunnel.closed.done()
    async with asyncio.timeout(30):
        await tunnel.closed
    assert time.time() >= int(due)
    with pytest.raises(CloudtaserError):
        await house.joined(house.tunnel_ca, robbed)


async def test_a_suspension_closes_everything_and_takes_the_keys_back_on_resuming(house: House) -> None:
    tunnel = await house.joined(house.tunnel_ca)
    house.station.cluster.reads.note("secret/data/shop/db", time.time())
    assert len(house.openbao.configured) == 1
    await house.poll(suspended=True)
    async with asyncio.timeout(30):
        await tunnel.closed
    assert house.rooms == set()
    assert not house.station.status()["logins_open"]
    assert house.station.served().suspended
    reads = house.openbao.reads
    assert reads is not None
    assert isinstance(reads.paths["secret/data/shop/db"], PathRead)
    await house.poll()
    assert len(house.openbao.configured) == 1, "while suspended OpenBao gets no keys"
    await house.poll(suspended=False)
    assert house.openbao.configured[0] == house.openbao.configured[1]
    assert house.rooms == {"operational", "return"}
    await house.joined(house.tunnel_ca)
    assert house.changes == 2


async def test_no_damage_in_another_record_keeps_a_suspended_clusters_tunnels_open(house: House) -> None:
    tunnel = await house.joined(house.tunnel_ca)
    house.snapshot = replace(house.snapshot, revoked=Revoked(("no serial",)))
    with pytest.raises(CloudtaserError, match="revoked serials is damaged"):
        await house.poll(suspended=True)
    async with asyncio.timeout(30):
        await tunnel.closed
    assert house.rooms == set()
    assert not house.station.status()["logins_open"]


async def test_a_bridge_that_is_told_to_sign_and_would_under_the_wrong_ca_says_busy(house: House) -> None:
    house.openbao.issuers["pki-tunnel/"] = house.next_tunnel  # a rotation that is not recorded yet
    with pytest.raises(UnavailableError, match="another CA"):
        await house.station._certify(FakeRequest(), "k1")  # type: ignore[arg-type]


class FakeRequest:
    """A checked request of an operator."""

    def __init__(self) -> None:
        self.pem = new_key()[1]
