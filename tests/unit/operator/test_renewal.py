"""There is always a certificate: renewed through a tunnel in time, through the rooms when that fails."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.errors import CloudtaserError
from cloudtaser.net.frames import NoiseDialogue
from cloudtaser.net.tls import Identity
from cloudtaser.operator.certificates import BrokerKey, der
from cloudtaser.operator.config import Config
from cloudtaser.operator.enrol import Enrol
from cloudtaser.operator.exchange import Certified
from cloudtaser.operator.exchanges import local_exchanges
from cloudtaser.operator.metrics import Metrics
from cloudtaser.operator.renewal import Renewal, renewal_time
from cloudtaser.operator.trust import Trust
from cloudtaser.operator.tunnels import Link, Tunnels
from cloudtaser.wire.bootstrap import (
    InitAnswer,
    Mode,
    ReturnProof,
    ReturnRequest,
    derive_psk,
    prologue,
    return_signature_message,
)
from cloudtaser.wire.noise import Channel
from cloudtaser.wire.opening import Kind, Opening
from tests.unit.operator.parties import FINGERPRINT, Authority, FakeManager
from tests.unit.operator.rig import BridgeHalf, Pipes, tunnel_pair

TUNNEL, POD = Authority("tunnel"), Authority("pod")
START = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)


@given(st.floats(0, 1), st.integers(60, 10**8))
def test_renewal_is_due_a_little_before_two_thirds_of_the_life(spread: float, life: int) -> None:
    due = renewal_time(START, START + dt.timedelta(seconds=life), spread) - START.timestamp()
    assert 0.61 * life <= due <= 0.67 * life + 1


class FakeTunnels(Pipes):
    """Tunnels as far as renewal sees them."""

    def __init__(self) -> None:
        super().__init__()
        self.used: list[tuple[Identity, Trust]] = []
        self.changed = asyncio.Event()
        self.on_rejected: Callable[[], None] = lambda: None
        self.links: list[Link] = []
        self.rooms: list[bytes] = []

    def pick(self, room: bytes, preferred: Link | None = None) -> Link | None:
        self.rooms.append(room)
        live = [link for link in self.links if not link.tunnel.draining]
        return preferred if preferred in live else next(iter(live), None)

    def use(self, identity: Identity, trust: Trust) -> None:
        self.used.append((identity, trust))
        self.changed.set()


class FakeEnrol:
    def __init__(self, lifetime: dt.timedelta) -> None:
        self.trust: Trust | None = None
        self.lifetime = lifetime
        self.runs = 0

    async def run(self) -> Certified:
        self.runs += 1
        key = BrokerKey.generate()
        start = dt.datetime.now(dt.UTC)
        leaf = TUNNEL.broker(f"room{self.runs}", key.private.public_key())
        identity = Identity(leaf.pem.encode(), key.pem())
        return Certified(identity, TUNNEL.trust, POD.pem, f"room{self.runs}", start, start + self.lifetime)


class Rig:
    def __init__(self) -> None:
        self.half = BridgeHalf()
        self.tunnels = FakeTunnels()
        self.manager = FakeManager(trust=TUNNEL.trust)
        self.metrics = Metrics()
        self.bridges: list[object] = []
        self.demand_pause = 0.1
        self.renewal: Renewal
        self.tasks: list[asyncio.Task[None]] = []

    def run(self, enrol: FakeEnrol) -> None:
        config = Config(
            fingerprint=FINGERPRINT, apiserver="", apiserver_ca="", apiserver_token_file="", beacons=()
        )
        self.renewal = Renewal(
            local_exchanges(config, self.manager),
            cast("Enrol", enrol),
            cast("Tunnels", self.tunnels),
            self.metrics,
            pause=0.05,
            demand_pause=self.demand_pause,
            hint_spread=0.05,
        )
        self.tasks.append(asyncio.ensure_future(self.renewal.run()))

    async def tunnel(self, half: BridgeHalf | None = None) -> Link:
        mine, theirs = await tunnel_pair(half or self.half)
        self.tunnels.tunnels.append(mine)
        self.bridges.append(theirs)
        link = cast("Link", SimpleNamespace(tunnel=mine, bridge=f"b{len(self.bridges)}"))
        self.tunnels.links.append(link)
        return link

    def accept_renewals(self, ca: Authority = TUNNEL, after: Authority | None = None) -> None:
        """As a bridge under `ca` that, with `after`, is in the middle of a rotation."""

        def accept(opening: Opening) -> asyncio.Protocol:
            room = TUNNEL.trust.return_room
            dialogue = NoiseDialogue(Channel.responder(derive_psk(FINGERPRINT), prologue(room, Mode.RETURN)))
            self.tasks.append(asyncio.ensure_future(answer(dialogue, ca, after)))
            return dialogue

        self.half.others[Kind.RENEW] = accept

    async def used(self, count: int) -> list[Identity]:
        while len(self.tunnels.used) < count:
            self.tunnels.changed.clear()
            await asyncio.wait_for(self.tunnels.changed.wait(), 10)
        return [identity for identity, _ in self.tunnels.used]

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for tunnel in self.tunnels.tunnels:
            tunnel.abort()
            await tunnel.closed


async def answer(dialogue: NoiseDialogue, ca: Authority, after: Authority | None) -> None:
    try:
        await dialogue.establish(5)
        bridge = ca.bridge()
        proof = ReturnProof(bridge.pem, bridge.sign(return_signature_message(dialogue.handshake_hash)))
        dialogue.send(proof.encode())
        request = ReturnRequest.decode(await dialogue.receive(5))
        csr = x509.load_pem_x509_csr(request.csr.encode())
        endorsement = ca.endorse(after).pem if after else ""
        ca = after or ca
        leaf = ca.broker("renewed", cast("ec.EllipticCurvePublicKey", csr.public_key()))
        info_hash = hashlib.sha256(der(ca.certificate)).hexdigest()
        space = "cloudtaser/0ad50c05"
        dialogue.send(InitAnswer(ca.pem, POD.pem, leaf.pem, info_hash, space, endorsement).encode())
        await dialogue.receive(5)
    except CloudtaserError:
        dialogue.close()


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    await rig.stop()


def name(identity: Identity) -> str:
    certificate = x509.load_pem_x509_certificate(identity.certificate_pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return str(names.get_values_for_type(x509.UniformResourceIdentifier)[0]).rpartition("/")[2]


async def test_a_due_certificate_is_renewed_inside_a_tunnel_with_a_new_key(rig: Rig) -> None:
    await rig.tunnel()
    rig.accept_renewals()
    rig.run(FakeEnrol(dt.timedelta(seconds=0.1)))
    first, second = await rig.used(2)
    assert (name(first), name(second)) == ("room1", "renewed")
    assert first.key != second.key
    assert [opening.kind for opening in rig.half.openings] == [Kind.RENEW]
    expiry = rig.metrics.registry.get_sample_value("cloudtaser_operator_certificate_expiry_seconds")
    assert rig.renewal.current is not None
    assert expiry == rig.renewal.current.not_after.timestamp()


async def test_the_tunnel_that_carried_a_renewal_stays(rig: Rig) -> None:
    await rig.tunnel()
    rig.accept_renewals()
    rig.run(FakeEnrol(dt.timedelta(seconds=0.1)))
    await rig.used(2)
    assert not rig.tunnels.tunnels[0].draining


async def test_without_a_tunnel_it_comes_back_by_the_rooms(rig: Rig) -> None:
    enrol = FakeEnrol(dt.timedelta(seconds=0.1))
    rig.run(enrol)
    assert [name(identity) for identity in await rig.used(2)] == ["room1", "room2"]


async def test_a_tunnel_whose_other_end_proves_nothing_renews_nothing(rig: Rig) -> None:
    await rig.tunnel()
    rig.accept_renewals(Authority("evil"))
    enrol = FakeEnrol(dt.timedelta(seconds=0.1))
    rig.run(enrol)
    assert [name(identity) for identity in await rig.used(2)] == ["room1", "room2"]
    assert rig.manager.asked == []


async def test_a_certificate_that_bridges_refuse_is_replaced_by_the_rooms(rig: Rig) -> None:
    enrol = FakeEnrol(dt.timedelta(hours=24))
    rig.run(enrol)
    await rig.used(1)
    rig.tunnels.on_rejected()
    assert [name(identity) for identity in await rig.used(2)] == ["room1", "room2"]


async def test_a_hint_renews_soon_through_the_bridge_that_gave_it_and_two_at_once_are_one(rig: Rig) -> None:
    idle = BridgeHalf()
    await rig.tunnel(idle)
    hinting = await rig.tunnel()
    rig.accept_renewals()
    rig.run(FakeEnrol(dt.timedelta(hours=24)))
    await rig.used(1)
    rig.renewal.hint(hinting)
    rig.renewal.hint(hinting)
    assert [name(identity) for identity in await rig.used(2)] == ["room1", "renewed"]
    assert [opening.kind for opening in rig.half.openings] == [Kind.RENEW]
    assert idle.openings == []
    await asyncio.sleep(0.2)
    assert len(rig.tunnels.used) == 2


async def test_a_hint_from_a_bridge_that_is_gone_renews_through_another(rig: Rig) -> None:
    gone = await rig.tunnel()
    await rig.tunnel()
    rig.accept_renewals()
    rig.run(FakeEnrol(dt.timedelta(hours=24)))
    await rig.used(1)
    gone.tunnel.abort()
    rig.renewal.hint(gone)
    assert [name(identity) for identity in await rig.used(2)] == ["room1", "renewed"]


async def test_bridges_that_ask_on_and_on_are_not_followed_more_often_than_it_is_good(rig: Rig) -> None:
    rig.demand_pause = 0.4
    link = await rig.tunnel()
    rig.accept_renewals()
    rig.run(FakeEnrol(dt.timedelta(hours=24)))
    await rig.used(1)
    began = asyncio.get_running_loop().time()
    for count in (2, 3, 4):
        rig.renewal.hint(link)
        await rig.used(count)
        rig.renewal.hint(link)
    assert asyncio.get_running_loop().time() - began > 0.79  # uvloop counts in whole milliseconds


async def test_a_rotation_is_followed_through_the_tunnel_and_never_forgotten(rig: Rig) -> None:
    after = Authority("next")
    await rig.tunnel()
    rig.accept_renewals(TUNNEL, after)
    enrol = FakeEnrol(dt.timedelta(seconds=0.1))
    rig.run(enrol)
    await rig.used(2)
    assert [trust.tunnel_ca for _, trust in rig.tunnels.used] == [TUNNEL.pem, after.pem]
    assert enrol.trust is not None
    assert enrol.trust.tunnel_ca == after.pem
    assert rig.manager.trust == enrol.trust
    assert rig.tunnels.rooms[0] == TUNNEL.trust.operational_room
