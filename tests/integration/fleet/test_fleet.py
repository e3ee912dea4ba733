"""A fleet behind a balancer: both sides of a cluster meet at one beacon; beacons die while pods read."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from cloudtaser.net.dial import Address
from cloudtaser.net.rendezvous import StayOverError, meet
from cloudtaser.net.tls import beacon_client
from cloudtaser.wire.rendezvous import Role
from tests.chain_tools import eventually
from tests.integration.fleet.fleet_tools import CONFIGURATION, Fleet, FleetChain, Readers
from tests.unit.net.wires import Recorder

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.slow, pytest.mark.timeout(300)]
INSECURE = beacon_client(
    None, True
)  # in this process the fleet is "localhost", for which no wildcard can stand
BACK_WITHIN = 5.0


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def fleet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    fleet = Fleet(tmp_path_factory.mktemp("fleet"), CONFIGURATION, "--drain-grace", "8s")
    try:
        await fleet.start()
        yield fleet
    finally:
        await fleet.close()


def here(fleet: Fleet) -> Address:
    return Address("localhost", fleet.port, wildcard=True)


async def party(fleet: Fleet, role: Role, room: bytes) -> Recorder:
    recorder = Recorder()
    async with asyncio.timeout(30):
        await meet(here(fleet), role, room, INSECURE, recorder)
    return recorder


async def test_both_sides_of_every_cluster_land_at_the_same_beacon(fleet: Fleet) -> None:
    rooms = [os.urandom(32) for _ in range(60)]
    visits = [asyncio.ensure_future(party(fleet, role, room)) for role in Role for room in rooms]
    met = await asyncio.gather(*visits)
    for number, (bridge, broker) in enumerate(zip(met[:60], met[60:], strict=True)):
        bridge.transport.write(bytes([number]))
        assert await broker.received(1) == bytes([number])
    spread = [await beacon.metric("pairs") for beacon in fleet.beacons]
    assert sum(spread) == 60
    assert min(spread) >= 5, spread
    assert sum([await beacon.metric("proxy_headers_total") for beacon in fleet.beacons]) >= 120
    for recorder in met:
        recorder.transport.abort()


async def test_the_beacon_behind_knows_the_source_from_the_balancer(fleet: Fleet) -> None:
    def babble() -> bytes:
        plain = socket.create_connection(("127.0.0.1", fleet.port), 10, ("127.1.2.3", 0))
        with plain, INSECURE.wrap_socket(plain, server_hostname="0badcafe.localhost") as tls:
            tls.sendall(b"no hello at all")
            return tls.recv(100)

    assert await asyncio.to_thread(babble) == b"H\0\0"
    logs = [beacon.part.log.read_text() for beacon in fleet.beacons]
    assert sum('"bad hello"' in log and '"source": "127.1.2.0/24"' in log for log in logs) == 1


async def test_a_party_that_parked_while_its_beacon_was_away_is_met_after_its_stay(fleet: Fleet) -> None:
    room = os.urandom(32)

    async def parked_at() -> list[int]:
        return [number for number, beacon in enumerate(fleet.beacons) if await beacon.metric("parked") > 0]

    async def is_parked() -> bool:
        return len(await parked_at()) == 1

    first = asyncio.ensure_future(party(fleet, Role.BRIDGE, room))
    await eventually(is_parked, "parked at the beacon that the room belongs to")
    (home,) = await parked_at()
    first.cancel()
    await fleet.beacons[home].part.kill()
    recorder = Recorder()

    async def keeps_coming() -> None:
        while not recorder.made.is_set():
            try:
                await meet(here(fleet), Role.BRIDGE, room, INSECURE, recorder, stay=2.0)
            except StayOverError:
                continue

    bridge = asyncio.ensure_future(keeps_coming())
    await eventually(is_parked, "parked at the next beacon on the ring")
    assert await parked_at() != [home]
    await fleet.beacons[home].start()
    await eventually(fleet.all_up, "the balancer knows that the beacon is back")
    broker = await party(fleet, Role.BROKER, room)
    await bridge
    broker.transport.write(b"met")
    assert await recorder.received(3) == b"met"
    assert await fleet.beacons[home].metric("pairs") == 1
    broker.transport.abort()
    recorder.transport.abort()


async def test_no_read_fails_while_a_beacon_is_killed_another_drained_and_both_come_back(
    fleet: Fleet,
) -> None:
    chain = FleetChain(fleet.beacons, fleet.address, fleet.files.ca)
    loop = asyncio.get_running_loop()
    try:
        await chain.start()
        async with Readers(chain).running() as readers:

            async def two_tunnels() -> bool:
                return await chain.tunnels() == 2

            await eventually(two_tunnels, "two tunnels")
            killed = await fleet.holder()
            readers.fresh()
            began = loop.time()
            await killed.part.kill()
            await readers.more(50)
            kill_took = loop.time() - began
            await eventually(two_tunnels, "two tunnels again")
            after_kill = readers.fresh()

            drained = await fleet.holder()
            assert drained is not killed
            await killed.start()
            await eventually(fleet.all_up, "the killed beacon is back")
            await readers.more(50)
            after_return = readers.fresh()

            number = fleet.beacons.index(drained) + 1
            await fleet.control(f"set server beacons/beacon-{number} state drain")
            await readers.more(100)
            only_drain = readers.fresh()
            began = loop.time()
            status = await drained.part.stop()
            drain_took = loop.time() - began
            await readers.more(50)
            await eventually(two_tunnels, "two tunnels at another beacon", timeout=90)
            after_drain = readers.fresh()
            await drained.start()
            await fleet.control(f"set server beacons/beacon-{number} state ready")
            await eventually(fleet.all_up, "the drained beacon is back")
            await readers.more(50)
        for what, reading in {
            f"killed (50 reads after {kill_took:.2f} s)": after_kill,
            "back": after_return,
            "balancer drains": only_drain,
            f"SIGTERM (exit after {drain_took:.2f} s)": after_drain,
            "back again": readers.now,
        }.items():
            print(f"{what}: {reading} {sorted(reading.errors) or ''}")
            assert reading.failed == 0, reading
        assert status == 0
        assert after_kill.longest < BACK_WITHIN
        assert after_drain.longest < BACK_WITHIN
        assert after_return.broken == only_drain.broken == 0
    finally:
        await chain.close()
