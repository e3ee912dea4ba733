"""Two beacons, listed with a comma: one may be lost and come back while pods read."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest

from cloudtaser.demo.certificates import write_server_certificate
from tests.chain_tools import eventually
from tests.integration.fleet.fleet_tools import FleetBeacon, FleetChain, Readers, make_beacon

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.slow, pytest.mark.timeout(200)]
BACK_WITHIN = 5.0


async def has_spares(beacon: FleetBeacon) -> bool:
    return await beacon.metric("parked") >= 4  # the bridge's: two in each of its two rooms


async def has_tunnels(beacon: FleetBeacon) -> bool:
    return await beacon.metric("pairs") == 2


async def test_no_read_fails_while_either_of_two_listed_beacons_is_lost_and_comes_back(
    tmp_path: Path,
) -> None:
    files = write_server_certificate(tmp_path, "beacons", ["127.0.0.1"])
    beacons = [make_beacon(tmp_path, number, files) for number in (1, 2)]
    addresses = ",".join(f"127.0.0.1:{beacon.port}" for beacon in beacons)
    chain = FleetChain(beacons, addresses, files.ca)
    try:
        for beacon in beacons:
            await beacon.start()
        await chain.start()

        async def two_tunnels() -> bool:
            return await chain.tunnels() == 2

        async with Readers(chain).running() as readers:
            await eventually(two_tunnels, "two tunnels")
            for lost, other in (beacons, beacons[::-1]):
                readers.fresh()
                await lost.part.kill()
                await readers.more(50)
                took = await eventually(two_tunnels, "two tunnels through the one that is left")
                await eventually(partial(has_tunnels, other), "both run through the one that is left")
                lost_one = readers.fresh()
                await lost.start()
                parked = await eventually(partial(has_spares, lost), "parked there again")
                await readers.more(50)
                back = readers.fresh()
                print(f"lost: {lost_one}, two tunnels after {took:.2f} s; parked again after {parked:.2f} s")
                assert lost_one.failed == back.failed == 0
                assert lost_one.longest < BACK_WITHIN
                assert back.broken == 0
    finally:
        await chain.close()
        await asyncio.gather(*(beacon.part.stop() for beacon in beacons))
