"""Tunnels: who gets one, which streams are taken, and when it ends. TLS and yamux are the real ones."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from cloudtaser.bridge import authorities
from cloudtaser.bridge import tunnels as tunnels_module
from cloudtaser.bridge.bootstrap import Granted
from cloudtaser.bridge.cluster import Cluster
from cloudtaser.bridge.control import Control
from cloudtaser.bridge.reception import ComingBack
from cloudtaser.bridge.tokens import KeySet
from cloudtaser.bridge.tunnels import TunnelGuest, Tunnels
from cloudtaser.errors import CloudtaserError, UnavailableError
from cloudtaser.net.layers import TlsLayer
from cloudtaser.net.stream import TunnelStream
from cloudtaser.net.tls import Identity, tunnel_client, tunnel_server
from cloudtaser.net.tunnel import Tunnel
from cloudtaser.openbao.records import Grants, Registered
from cloudtaser.wire.bootstrap import InitAnswer
from cloudtaser.wire.control_lines import LINES_LIMIT
from cloudtaser.wire.opening import Kind, Opening
from tests.unit.bridge.scripted_operator import dial, hang_up
from tests.unit.operator.parties import FINGERPRINT, OTHER_FINGERPRINT, SERVER, Authority, Leaf

REGISTERED = Registered(FINGERPRINT, "", "", "", "", "", "", "", "0ad50c05", "cloudtaser/0ad50c05", "subject")


class Heard(asyncio.Protocol):
    """The far end of a stream."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.arrived = asyncio.Event()
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.arrived.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)

    async def line(self) -> dict[str, Any]:
        while b"\n" not in self.data:
            self.arrived.clear()
            await self.arrived.wait()
        line, _, rest = bytes(self.data).partition(b"\n")
        self.data[:] = rest
        fields: dict[str, Any] = json.loads(line)
        return fields


class FakeRenewal:
    """A renewal that takes as long as a test likes, and then has granted a certificate with that serial."""

    def __init__(self, serial: int) -> None:
        self.protocol = Heard()
        self.granted: Granted | None = None
        self.go_on = asyncio.Event()
        self.done = asyncio.Event()
        self._serial = serial

    async def receive(self) -> None:
        await self.go_on.wait()
        self.granted = Granted(cast(InitAnswer, None), "k1", self._serial)
        self.done.set()


@dataclass
class House:
    """A bridge's tunnels and the brokers that come."""

    authority: Authority = field(default_factory=Authority)
    served: list[Opening] = field(default_factory=list)
    hints: int = 0
    serves: bool = True
    renewals: list[FakeRenewal] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cluster = Cluster(FINGERPRINT, REGISTERED, Grants(), KeySet())
        self.next = Authority("next")
        self.ca, self.next_ca = (authorities.Authority.of(one.pem) for one in (self.authority, self.next))
        self.contexts = {
            one.pem: tunnel_client(one.bridge().identity, [one.pem.encode()])
            for one in (self.authority, self.next)
        }
        self.changes = 0
        self.changed, self.asked = asyncio.Event(), asyncio.Event()
        self.tunnels = Tunnels(
            self.cluster,
            self._context,
            serve=self._serve,
            renewal=self._renewal,
            control=lambda: Control("b1", lambda: {"logins_open": True}, self._hint),
            on_change=self._changed,
            on_failed=lambda where, error: None,
        )

    def _serve(self, opening: Opening) -> asyncio.Protocol | None:
        self.served.append(opening)
        self.asked.set()
        return Heard() if self.serves else None

    def _renewal(self, broker: str, ca: authorities.Authority) -> ComingBack:
        self.renewals.append(FakeRenewal(serial=4711))
        self.asked.set()
        return cast(ComingBack, self.renewals[-1])

    def _context(self, ca: authorities.Authority) -> ssl.SSLContext:
        if ca.pem not in self.contexts:
            raise UnavailableError("that CA is no longer served")
        return self.contexts[ca.pem]

    def _hint(self) -> None:
        self.hints += 1

    def _changed(self) -> None:
        self.changes += 1
        self.changed.set()

    async def broker(
        self,
        leaf: Leaf | None = None,
        authority: Authority | None = None,
        ca: authorities.Authority | None = None,
    ) -> Broker:
        broker = Broker(leaf or self.authority.broker(), authority or self.authority)
        guest = self.tunnels.invite(ca or self.ca)
        await dial(guest.protocol, broker.layer)
        broker.guest = guest
        return broker

    async def joined(self, leaf: Leaf | None = None) -> Broker:
        broker = await self.broker(leaf)
        await broker.guest.receive()
        return broker

    async def joined_next(self) -> Broker:
        """A tunnel under the next CA."""
        broker = await self.broker(self.next.broker("k2"), self.next, self.next_ca)
        await broker.guest.receive()
        return broker


class Broker:
    """The other side of one tunnel."""

    guest: TunnelGuest

    def __init__(self, leaf: Leaf, authority: Authority) -> None:
        self.told = asyncio.Event()  # that the bridge goes away
        self.tunnel = Tunnel(False, self._accept, on_draining=self.told.set)
        identity: Identity = leaf.identity
        self.layer = TlsLayer(
            tunnel_server(identity, [authority.pem.encode()]), self.tunnel, server_side=True
        )

    def _accept(self, opening: Opening, stream: TunnelStream) -> asyncio.Protocol | None:
        return None

    def open(self, kind: Kind) -> Heard:
        heard = Heard()
        self.tunnel.open(Opening(kind, "10.0.0.7:51324", "c1"), heard)
        return heard


@pytest.fixture
async def house() -> AsyncIterator[House]:
    made = House()
    yield made
    await made.tunnels.close()
    await hang_up()


@pytest.fixture(autouse=True)
def _hurry() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tunnels_module, "ESTABLISH_TIMEOUT", 2.0)
        yield


async def test_a_broker_of_the_cluster_gets_its_tunnel(house: House) -> None:
    broker = await house.joined()
    assert len(house.tunnels) == 1
    assert house.tunnels.pick() is not None
    house.changed.clear()
    broker.tunnel.close()
    async with asyncio.timeout(30):
        await house.changed.wait()
    assert house.tunnels.pick() is None
    assert house.changes == 2


async def test_no_other_certificate_does(house: House) -> None:
    stranger = Authority("stranger")
    cases = [
        (house.authority.bridge(), house.authority),  # the wrong role
        (house.authority.issue([f"cloudtaser://{OTHER_FINGERPRINT}/broker/k1"], SERVER), house.authority),
        (
            house.authority.issue([f"cloudtaser://{FINGERPRINT}/broker/a"] * 1 + ["urn:x"], SERVER),
            house.authority,
        ),
        (house.authority.pod_server(), house.authority),
        (stranger.broker(), house.authority),
        (stranger.broker(), stranger),
    ]
    for leaf, trusted in cases:
        broker = await house.broker(leaf, trusted)
        with pytest.raises(CloudtaserError):
            await broker.guest.receive()
    assert len(house.tunnels) == 0


async def test_a_broker_that_does_not_take_our_certificate_is_no_tunnel(house: House) -> None:
    broker = Broker(house.authority.broker(), Authority("stranger"))  # it trusts somebody else
    guest = house.tunnels.invite(house.ca)
    await dial(guest.protocol, broker.layer)
    with pytest.raises(CloudtaserError):
        await guest.receive()
    assert len(house.tunnels) == 0


async def test_a_revoked_certificate_opens_no_tunnel_and_closes_its_own(house: House) -> None:
    first, second = house.authority.broker("k1"), house.authority.broker("k2")
    one, two = await house.joined(first), await house.joined(second)
    house.cluster.revoked = frozenset({first.certificate.serial_number})
    house.tunnels.close_revoked()
    async with asyncio.timeout(30):
        await one.tunnel.closed
    assert not two.tunnel.closed.done()
    again = await house.broker(first)
    with pytest.raises(CloudtaserError, match="revoked"):
        await again.guest.receive()


async def test_revoking_what_was_renewed_in_a_tunnel_closes_it_too(house: House) -> None:
    broker = await house.joined()
    broker.open(Kind.RENEW)
    async with asyncio.timeout(30):
        await house.asked.wait()
        house.renewals[0].go_on.set()
        await house.renewals[0].done.wait()
        await asyncio.sleep(0)  # the tunnel notes it in the same turn
        house.cluster.revoked = frozenset({4711})
        house.tunnels.close_revoked()
        await broker.tunnel.closed


async def test_of_renewals_a_tunnel_has_a_few_at_a_time(house: House) -> None:
    broker = await house.joined()
    streams = [broker.open(Kind.RENEW) for _ in range(tunnels_module.RENEWALS_LIMIT + 1)]
    async with asyncio.timeout(30):
        assert await streams[-1].lost is not None
    assert len(house.renewals) == tunnels_module.RENEWALS_LIMIT
    for renewal in house.renewals:
        renewal.go_on.set()


async def test_a_cluster_has_so_many_tunnels_and_no_more(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnels_module, "TUNNELS_LIMIT", 2)
    for _ in range(2):
        await house.joined()
    third = await house.broker()
    with pytest.raises(CloudtaserError, match="its limit"):
        await third.guest.receive()
    assert len(house.tunnels) == 2


async def test_a_cluster_has_so_many_streams_and_a_place_becomes_free(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnels_module, "STREAMS_LIMIT", 3)
    one, two = await house.joined(), await house.joined()

    async def served(count: int) -> None:
        while len(house.served) < count:
            house.asked.clear()
            await house.asked.wait()

    async with asyncio.timeout(30):
        streams = [broker.open(Kind.POD) for broker in (one, two, one)]
        await served(3)
        assert await two.open(Kind.POD).lost is not None
        assert len(house.served) == 3
        assert streams[0].transport is not None
        streams[0].transport.abort()
        one.open(Kind.POD)  # behind the reset, on the same tunnel
        await served(4)


async def test_pods_operator_and_administrators_are_served_and_nothing_else(house: House) -> None:
    broker = await house.joined()
    served = [Kind.POD, Kind.OPERATOR, Kind.ADMIN]
    streams = [broker.open(kind) for kind in served]
    async with asyncio.timeout(30):
        assert await broker.open(Kind.APISERVER).lost is not None  # a reset
    assert [opening.kind for opening in house.served] == served
    assert house.served[0].peer == "10.0.0.7:51324"
    assert not any(stream.lost.done() for stream in streams)


async def test_before_logins_work_pods_are_refused(house: House) -> None:
    house.serves = False
    broker = await house.joined()
    async with asyncio.timeout(30):
        assert await broker.open(Kind.POD).lost is not None


async def test_the_control_stream_tells_versions_and_answers_how_it_is(house: House) -> None:
    broker = await house.joined()
    control = broker.open(Kind.CONTROL)
    async with asyncio.timeout(30):
        hello = await control.line()
        assert (hello["type"], hello["bridge"]) == ("version", "b1")
        assert control.transport is not None
        control.transport.write(b'{"type":"keys"}\n{"type":"of the future"}\n{"type":"health"}\n')
        assert await control.line() == {"type": "health", "logins_open": True}
        assert house.hints == 1
        assert not house.tunnels.parked_within(60)
        control.transport.write(b'{"type":"parked"}\n{"type":"health"}\n')
        assert (await control.line())["type"] == "health"
        assert house.tunnels.parked_within(60)
        assert await broker.open(Kind.CONTROL).lost is not None  # one is enough


@pytest.mark.parametrize(
    "flood",
    [b'{"type":"health"}\n' * (LINES_LIMIT + 1), b"x" * 5000, b"[]\n", b'{"a":1,"a":2}\n'],
)
async def test_a_control_stream_out_of_bounds_is_cut_and_the_tunnel_stays(house: House, flood: bytes) -> None:
    broker = await house.joined()
    control = broker.open(Kind.CONTROL)
    async with asyncio.timeout(30):
        await control.line()
        assert control.transport is not None
        control.transport.write(flood)
        assert await control.lost is not None
    assert len(house.tunnels) == 1


async def test_draining_waits_for_the_last_stream(house: House) -> None:
    broker = await house.joined()
    pod = broker.open(Kind.POD)
    async with asyncio.timeout(30):
        await house.asked.wait()
        draining = asyncio.create_task(house.tunnels.drain())
        await broker.told.wait()
        assert not draining.done()
        assert pod.transport is not None
        pod.transport.abort()
        await draining
    assert len(house.tunnels) == 0


async def test_closing_cuts_every_stream_at_once(house: House) -> None:
    broker = await house.joined()
    pod = broker.open(Kind.POD)
    house.tunnels.close_all("suspended")
    async with asyncio.timeout(30):
        await pod.lost
        await broker.tunnel.closed


# Rotation


async def test_during_a_rotation_each_room_takes_brokers_under_its_own_ca_alone(house: House) -> None:
    await house.joined()
    await house.joined_next()
    assert (house.tunnels.count(house.ca), house.tunnels.count(house.next_ca)) == (1, 1)
    for leaf, shown, ca in (
        (house.next.broker(), house.next, house.ca),  # the new leaf in the old room
        (house.authority.broker(), house.authority, house.next_ca),  # the old leaf in the new room
        (house.authority.broker(), house.next, house.next_ca),
    ):
        broker = await house.broker(leaf, shown, ca)
        with pytest.raises(CloudtaserError):
            await broker.guest.receive()
    assert len(house.tunnels) == 2


async def test_a_retired_ca_loses_its_tunnels_when_their_streams_have_ended(house: House) -> None:
    old, new = await house.joined(), await house.joined_next()
    pod = old.open(Kind.POD)
    async with asyncio.timeout(30):
        await house.asked.wait()
        house.tunnels.retire([house.next_ca], 60.0)
        await old.told.wait()
        assert not old.tunnel.closed.done()
        assert pod.transport is not None
        pod.transport.abort()
        await old.tunnel.closed
    assert not new.tunnel.draining
    assert len(house.tunnels) == 1


async def test_a_stream_of_a_retired_ca_that_does_not_end_is_cut_in_time(house: House) -> None:
    old = await house.joined()
    pod = old.open(Kind.POD)
    async with asyncio.timeout(30):
        await house.asked.wait()
        house.tunnels.retire([house.next_ca], 0.05)
        house.tunnels.retire([house.next_ca], 60.0)  # with every poll; the first time counts
        assert await pod.lost is not None


async def test_whoever_was_met_before_its_ca_was_retired_gets_no_tunnel(house: House) -> None:
    broker = await house.broker()
    del house.contexts[house.ca.pem]
    with pytest.raises(UnavailableError):
        await broker.guest.receive()
    assert len(house.tunnels) == 0


async def test_whoever_was_met_before_the_suspension_gets_no_tunnel(house: House) -> None:
    broker = await house.broker()
    house.cluster.registered = replace(REGISTERED, suspended=True)
    with pytest.raises(UnavailableError, match="suspended"):
        await broker.guest.receive()


async def hints(control: Heard, house: House) -> int:
    """How often a broker was asked to renew since it was last asked here."""
    assert control.transport is not None
    control.transport.write(b'{"type":"health"}\n')
    count = 0
    async with asyncio.timeout(30):
        while (line := await control.line())["type"] != "health":
            count += line["type"] == "renew"
    return count


async def test_brokers_under_a_former_ca_are_asked_to_renew_until_they_have(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = await house.joined(), await house.joined_next()
    controls = [broker.open(Kind.CONTROL) for broker in (old, new)]
    assert [await hints(control, house) for control in controls] == [0, 0]
    for anew in (True, False, False):  # poll after poll
        house.tunnels.hint_renewals(house.next_ca, frozenset(), anew=anew)
    assert [await hints(control, house) for control in controls] == [1, 0]
    monkeypatch.setattr(tunnels_module, "HINT_EVERY", 0.0)
    house.tunnels.hint_renewals(house.next_ca, frozenset())
    assert await hints(controls[0], house) == 1
    old.open(Kind.RENEW)
    async with asyncio.timeout(30):
        while not house.renewals:
            await house.asked.wait()
            house.asked.clear()
        house.renewals[0].go_on.set()
        await house.renewals[0].done.wait()
    await asyncio.sleep(0)  # the tunnel notes it in the same turn
    house.tunnels.hint_renewals(house.next_ca, frozenset())
    assert await hints(controls[0], house) == 0
    # it was handed a stored pair once more before the next was there: that one is to be replaced as well
    house.tunnels.hint_renewals(house.next_ca, frozenset({4711}))
    assert await hints(controls[0], house) == 1


async def test_brokers_whose_certificate_is_about_to_be_revoked_are_asked_to_renew(house: House) -> None:
    leaf = house.authority.broker()
    one, other = await house.joined(leaf), await house.joined()
    controls = [broker.open(Kind.CONTROL) for broker in (one, other)]
    assert [await hints(control, house) for control in controls] == [0, 0]
    house.tunnels.hint_renewals(house.ca, frozenset({leaf.certificate.serial_number}))
    assert [await hints(control, house) for control in controls] == [1, 0]


async def test_a_broker_that_opens_its_control_stream_late_is_asked_then(house: House) -> None:
    old = await house.joined()
    house.tunnels.hint_renewals(house.next_ca, frozenset(), anew=True)
    control = old.open(Kind.CONTROL)
    assert await hints(control, house) == 0
    house.tunnels.hint_renewals(house.next_ca, frozenset())
    assert await hints(control, house) == 1


async def test_a_broker_that_does_not_read_is_told_to_renew_once_it_does() -> None:
    said: list[bytes] = []

    class Far(asyncio.Transport):
        def write(self, data: Any) -> None:
            said.append(bytes(data))

    control = Control("b1", dict, lambda: None)
    control.connection_made(Far())
    said.clear()
    control.pause_writing()
    control.renew()
    control.renew()
    assert said == []
    control.resume_writing()
    control.resume_writing()
    assert said == [b'{"type":"renew"}\n']
