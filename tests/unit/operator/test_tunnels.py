"""Two tunnels are kept whatever dies, and only a bridge of this cluster under the pinned CA becomes one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloudtaser.net.rendezvous import meet
from cloudtaser.net.tls import peer_certificate
from cloudtaser.operator import tunnels as tunnels_module
from cloudtaser.operator.beacons import Beacons
from cloudtaser.operator.tunnels import Link, Tunnels
from cloudtaser.wire.opening import Kind, Opening
from cloudtaser.wire.rendezvous import Role
from tests.unit.operator.parties import CLIENT, FINGERPRINT, OTHER_FINGERPRINT, Authority, Leaf
from tests.unit.operator.rig import Echo, FakeBridge, Room, eventually, refuse_all, running_beacon

CA = Authority()


class Rig:
    def __init__(self, room: Room) -> None:
        self.room = room
        self.bridges: list[FakeBridge] = []
        self.beacons = Beacons([room.address], room.context)
        self.tunnels = Tunnels(FINGERPRINT, self.beacons, lambda link, opening, stream: None)
        self.up: list[Link] = []
        self.tunnels.watch(self.up.append)
        self._task: asyncio.Task[None] | None = None

    def run(self) -> None:
        self.tunnels.use(CA.broker().identity, CA.trust)
        self._task = asyncio.ensure_future(self.tunnels.run())

    def bridge(self, leaf: Leaf, *, ca: Authority = CA, spares: int = 2) -> FakeBridge:
        bridge = FakeBridge(self.room, CA.trust.operational_room, leaf.identity, ca.pem)
        self.bridges.append(bridge)
        bridge.park(spares)
        return bridge

    def names(self) -> list[str]:
        return sorted(link.bridge for link in self.tunnels.live)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.tunnels.drain(0.0)
        for bridge in self.bridges:
            await bridge.stop()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running_beacon(tmp_path) as room:
        rig = Rig(room)
        yield rig
        await rig.stop()


async def test_two_tunnels_to_a_lone_bridge(rig: Rig) -> None:
    rig.bridge(CA.bridge("b1"))
    rig.run()
    await eventually(lambda: rig.names() == ["b1", "b1"], "two tunnels")


async def test_two_tunnels_go_to_two_bridges_where_there_are_two(rig: Rig) -> None:
    rig.bridge(CA.bridge("b1"))
    rig.run()
    await eventually(lambda: rig.names() == ["b1", "b1"], "two tunnels")
    rig.bridge(CA.bridge("b2"))
    rig.tunnels.live[0].tunnel.abort()
    await eventually(lambda: rig.names() == ["b1", "b2"], "one to each")


async def test_a_tunnel_that_dies_is_replaced(rig: Rig) -> None:
    rig.bridge(CA.bridge("b1"))
    rig.run()
    await eventually(lambda: len(rig.names()) == 2, "two tunnels")
    old = rig.tunnels.live
    for link in old:
        link.tunnel.abort()
    await eventually(lambda: len(rig.tunnels.live) == 2 and not set(old) & set(rig.tunnels.live), "two new")


async def test_go_away_brings_another_tunnel_at_once_and_drops_no_stream(rig: Rig) -> None:
    bridge = rig.bridge(CA.bridge("b1"))
    rig.run()
    await eventually(lambda: len(rig.names()) == 2, "two tunnels")
    echo = Echo(quiet=True)
    link = rig.tunnels.open(Opening(Kind.POD), echo)
    await asyncio.wait_for(bridge.half.arrived.wait(), 5)
    theirs = next(tunnel for tunnel in bridge.tunnels if tunnel.active)
    theirs.go_away()
    await eventually(lambda: link not in rig.tunnels.live and len(rig.tunnels.live) == 2, "replaced")
    assert not echo.lost.done()
    assert echo.transport is not None
    echo.transport.write(b"still running")
    echo.transport.write_eof()
    assert await asyncio.wait_for(echo.lost, 5) is None
    assert echo.heard == b"still running"
    await asyncio.wait_for(link.tunnel.closed, 5)


async def test_streams_go_to_the_tunnel_that_has_the_fewest(rig: Rig) -> None:
    rig.bridge(CA.bridge("b1"))
    rig.run()
    await eventually(lambda: len(rig.names()) == 2, "two tunnels")
    for _ in range(6):
        rig.tunnels.open(Opening(Kind.POD), Echo())
    assert [link.tunnel.active for link in rig.tunnels.live] == [3, 3]


@pytest.mark.parametrize(
    "leaf",
    [
        pytest.param(lambda: Authority("tunnel").bridge(), id="under another CA"),
        pytest.param(lambda: CA.bridge(fingerprint=OTHER_FINGERPRINT), id="of another cluster"),
        pytest.param(
            lambda: CA.issue([f"cloudtaser://{FINGERPRINT}/broker/b1"], CLIENT), id="with a broker's name"
        ),
        pytest.param(lambda: CA.issue([], CLIENT, dns=("bridge.example",)), id="without a name of ours"),
        pytest.param(
            lambda: CA.issue([f"cloudtaser://{FINGERPRINT}/bridge/{n}" for n in "ab"], CLIENT),
            id="with two names",
        ),
    ],
)
async def test_an_impostor_gets_no_tunnel_and_keeps_no_true_bridge_out(rig: Rig, leaf: object) -> None:
    assert callable(leaf)
    evil = rig.bridge(leaf())
    rig.run()
    await eventually(lambda: bool(evil.tunnels) or bool(evil.failures), "the impostor tried")
    rig.bridge(CA.bridge("b1"))
    await eventually(lambda: len(rig.names()) == 2, "the true bridge has its tunnels", timeout=30)
    assert set(rig.names()) == {"b1"}
    assert {link.bridge for link in rig.up} == {"b1"}


async def test_a_squatter_that_says_nothing_does_not_hold_the_room(rig: Rig) -> None:
    class Mute(asyncio.Protocol):
        pass

    squat = [
        asyncio.ensure_future(
            meet(rig.room.address, Role.BRIDGE, CA.trust.operational_room, rig.room.context, Mute())
        )
        for _ in range(4)
    ]
    await eventually(lambda: rig.room.beacon.rooms.parked == 4, "squatters are parked")
    began = asyncio.get_running_loop().time()
    rig.run()
    rig.bridge(CA.bridge("b1"))
    await eventually(lambda: len(rig.names()) == 2, "tunnels in spite of them", timeout=30)
    assert asyncio.get_running_loop().time() - began < 4 * tunnels_module.HANDSHAKE_SECONDS
    for transport in await asyncio.gather(*squat):
        transport.abort()


async def test_bridges_that_refuse_our_certificate_are_reported(rig: Rig) -> None:
    rejected = asyncio.Event()
    rig.tunnels.on_rejected = rejected.set
    rig.bridge(CA.bridge("b1"), ca=Authority())  # it trusts another CA than ours
    rig.run()
    await asyncio.wait_for(rejected.wait(), 20)
    incident = rig.beacons.incidents.all()[-1]
    assert (incident.part, incident.beacon) == ("tunnel", str(rig.room.address))
    assert incident.delay is not None


async def test_with_a_new_certificate_new_tunnels_stand_before_the_old_ones_go(rig: Rig) -> None:
    bridge = rig.bridge(CA.bridge("b1"))
    rig.run()
    await eventually(lambda: len(rig.names()) == 2, "two tunnels")
    old = rig.tunnels.live
    least = [2]
    for link in old:
        link.leaving.add_done_callback(lambda _: least.append(len(rig.tunnels.live)))
    renewed = CA.broker("k2")
    rig.tunnels.use(renewed.identity, CA.trust)
    assert rig.tunnels.live == old
    await eventually(lambda: len(rig.names()) == 2 and not set(old) & set(rig.tunnels.live), "two new ones")
    assert min(least) == 2
    for link in old:
        await asyncio.wait_for(link.tunnel.closed, 5)
        assert link.tunnel.error is None
    shown = [tunnel.get_extra_info("ssl_object") for tunnel in bridge.tunnels if not tunnel.draining]
    serials = {peer_certificate(tls).serial_number for tls in shown}
    assert serials == {renewed.certificate.serial_number}


async def test_streams_of_an_old_tunnel_end_by_themselves_while_new_ones_go_to_the_new(rig: Rig) -> None:
    rig.bridge(CA.bridge("b1"))
    rig.run()
    await eventually(lambda: len(rig.names()) == 2, "two tunnels")
    running = Echo(quiet=True)
    old = rig.tunnels.open(Opening(Kind.POD), running)
    rig.tunnels.use(CA.broker("k2").identity, CA.trust)
    await eventually(lambda: old.leaving.done(), "the old ones are given up")
    assert rig.tunnels.open(Opening(Kind.POD), Echo()) in rig.tunnels.live
    assert running.transport is not None
    running.transport.write(b"still running")
    running.transport.write_eof()
    assert await asyncio.wait_for(running.lost, 5) is None
    assert running.heard == b"still running"
    await asyncio.wait_for(old.tunnel.closed, 5)


async def test_a_stream_that_never_ends_is_cut_when_its_time_is_over(rig: Rig) -> None:
    rig.tunnels = Tunnels(FINGERPRINT, rig.beacons, lambda link, opening, stream: None, retire_seconds=0.2)
    rig.bridge(CA.bridge("b1"))
    rig.run()
    await eventually(lambda: len(rig.names()) == 2, "two tunnels")
    endless = Echo(quiet=True)
    rig.tunnels.open(Opening(Kind.POD), endless)
    rig.tunnels.use(CA.broker("k2").identity, CA.trust)
    await asyncio.wait_for(endless.lost, 10)
    assert len(rig.tunnels.live) == 2


async def test_a_rotated_ca_moves_the_tunnels_to_its_room_and_the_old_ones_serve_meanwhile(rig: Rig) -> None:
    after = Authority()
    rig.bridge(CA.bridge("b1"))
    rig.run()
    await eventually(lambda: len(rig.names()) == 2, "two tunnels")
    old = rig.tunnels.live
    rig.tunnels.use(after.broker().identity, after.trust)
    await eventually(lambda: rig.beacons.parked(after.trust.operational_room) == 2, "parked in the new room")
    assert rig.beacons.parked(CA.trust.operational_room) == 0
    assert rig.tunnels.parked
    assert rig.tunnels.live == old
    assert rig.tunnels.pick(CA.trust.operational_room) in old
    assert rig.tunnels.pick(after.trust.operational_room) is None
    moved = FakeBridge(rig.room, after.trust.operational_room, after.bridge("b1").identity, after.pem)
    rig.bridges.append(moved)
    moved.park(2)
    await eventually(lambda: len(rig.names()) == 2 and not set(old) & set(rig.tunnels.live), "moved")
    assert rig.tunnels.pick(CA.trust.operational_room) is None


async def test_who_waits_in_the_former_room_moves_to_the_next(rig: Rig) -> None:
    after = Authority()
    rig.run()
    await eventually(lambda: rig.beacons.parked(CA.trust.operational_room) == 2, "parked")
    rig.tunnels.use(after.broker().identity, after.trust)
    await eventually(lambda: rig.beacons.parked(after.trust.operational_room) == 2, "parked in the next room")
    assert rig.beacons.parked(CA.trust.operational_room) == 0


async def test_draining_ends_when_the_last_stream_does(rig: Rig) -> None:
    rig.bridge(CA.bridge("b1"))
    rig.run()
    await eventually(lambda: len(rig.names()) == 2, "two tunnels")
    echo = Echo(quiet=True)
    link = rig.tunnels.open(Opening(Kind.POD), echo)
    draining = asyncio.ensure_future(rig.tunnels.drain(30.0))
    await eventually(lambda: not rig.tunnels.live, "no new streams")
    assert not draining.done()
    assert echo.transport is not None
    echo.transport.write_eof()
    await asyncio.wait_for(draining, 5)
    assert link.tunnel.closed.done()


async def test_a_beacon_that_restarts_is_found_again(tmp_path: Path) -> None:
    async with running_beacon(tmp_path) as room:
        port = room.address.port
        rig = Rig(room)
        rig.bridge(CA.bridge("b1"))
        rig.run()
        await eventually(lambda: len(rig.names()) == 2, "two tunnels")
    await eventually(lambda: rig.names() == [], "the tunnels went with the beacon")
    await eventually(
        lambda: any(one.part == "beacon" for one in rig.beacons.incidents.all()), "an attempt at the beacon"
    )
    async with running_beacon(tmp_path, port, room.files):
        await eventually(lambda: len(rig.names()) == 2, "two tunnels again", timeout=20)
        incidents = rig.beacons.incidents.all()
        assert {incident.part for incident in incidents} == {"tunnel", "beacon"}
        assert all(incident.delay is not None for incident in incidents if incident.part == "beacon")
        await rig.stop()


async def test_it_parks_at_every_beacon_and_leaves_the_others_when_one_matches(tmp_path: Path) -> None:
    async with running_beacon(tmp_path) as one, running_beacon(tmp_path, 0, one.files) as two:
        rig = Rig(one)
        rig.beacons = Beacons([one.address, two.address], one.context)
        rig.tunnels = Tunnels(
            FINGERPRINT, rig.beacons, lambda link, opening, stream: refuse_all(opening, stream)
        )
        rig.run()
        await eventually(lambda: one.beacon.rooms.parked == two.beacon.rooms.parked == 2, "parked at both")
        rig.room = two
        rig.bridge(CA.bridge("b1"))
        await eventually(lambda: rig.names() == ["b1", "b1"], "tunnels through the second beacon")
        await eventually(lambda: one.beacon.rooms.parked <= 1, "the first beacon is left")
        await rig.stop()
