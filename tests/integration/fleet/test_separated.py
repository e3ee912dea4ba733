"""Behind a balancer without route keys both sides may wait at different beacons: the bridge says so."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from cloudtaser.demo.apiserver import StandInApiServer
from cloudtaser.demo.certificates import write_server_certificate
from cloudtaser.demo.chain import Chain, OperatorPorts
from cloudtaser.demo.command import program
from cloudtaser.demo.ports import free_port
from cloudtaser.demo.process import PartProcess
from tests.chain_tools import eventually
from tests.integration.fleet.fleet_tools import control, listening, make_beacon, system_program

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.slow, pytest.mark.timeout(200)]
CONFIGURATION = Path(__file__).parent / "separated.cfg"
# the same programs with a minute of two seconds
BRIDGE = """
import sys
from cloudtaser.bridge import parking, station
parking.LONELY_AFTER = station.LONELY_AFTER = 2.0
from cloudtaser.bridge.app import main
sys.exit(main())
"""
OPERATOR = """
import sys
from cloudtaser.operator.control import Controls
Controls.__init__.__kwdefaults__["report_seconds"] = 0.5
from cloudtaser.operator.app import main
sys.exit(main())
"""


class SeparatedChain(Chain):
    """Bridge and operator come to the balancer by different doors."""

    def __init__(self, ca: Path, doors: tuple[int, int]) -> None:
        self._ca = ca
        self._doors = doors
        super().__init__()

    @property
    def beacon_ca(self) -> Path:
        return self._ca

    async def start_beacon(self) -> None:
        pass

    def _part(self, name: str, command: list[str], environment: dict[str, str] | None = None) -> PartProcess:
        if name.startswith("bridge"):
            command = self._by(command, BRIDGE, "cloudtaser-bridge", self._doors[0])
        return super()._part(name, command, environment)

    def _operator_command(self, ports: OperatorPorts, apiserver: StandInApiServer) -> list[str]:
        command = super()._operator_command(ports, apiserver)
        return self._by(command, OPERATOR, "cloudtaser-operator", self._doors[1])

    def _by(self, command: list[str], code: str, name: str, door: int) -> list[str]:
        words = [f"127.0.0.1:{door}" if word == self.beacon_address else word for word in command]
        return [sys.executable, "-c", code, *words[words.index(program(name)) + 1 :]]


async def test_a_bridge_that_waits_elsewhere_than_the_broker_says_so_and_what_to_do(tmp_path: Path) -> None:
    files = write_server_certificate(tmp_path, "beacons", ["127.0.0.1"])
    beacons = [make_beacon(tmp_path, number, files) for number in (1, 2)]
    doors = free_port(), free_port()
    admin = tmp_path / "haproxy.sock"
    environment = {
        "FLEET_ADMIN": str(admin),
        "FLEET_BEACON_1": f"127.0.0.1:{beacons[0].port}",
        "BRIDGES_BIND": f"127.0.0.1:{doors[0]}",
        "OPERATORS_BIND": f"127.0.0.1:{doors[1]}",
    }
    command = [system_program("haproxy"), "-db", "-f", str(CONFIGURATION)]
    balancer = PartProcess("haproxy", command, tmp_path / "haproxy.log", environment)
    chain = SeparatedChain(files.ca, doors)

    async def balances() -> bool:
        return all(listening(door) for door in doors)

    async def two_tunnels() -> bool:
        return await chain.tunnels() == 2

    async def complains() -> bool:
        return "while the broker is parked too" in (chain.logs / "bridge-1.log").read_text()

    try:
        for beacon in beacons:
            await beacon.start()
        balancer.start()
        await balancer.wait_until(balances, "listening")
        await chain.start()
        await eventually(two_tunnels, "two tunnels")
        assert not await complains()

        await control(admin, f"set server operators/beacon addr 127.0.0.1 port {beacons[1].port}")
        sessions = (await control(admin, "show sess")).splitlines()
        of_operator = [line.split(":")[0] for line in sessions if "fe=operators " in line]
        assert len(of_operator) == 2, sessions
        await control(admin, f"shutdown session {of_operator[0]}")
        await eventually(complains, "the bridge says that both are parked")
        assert await chain.tunnels() == 1
        line = next(
            line
            for line in (chain.logs / "bridge-1.log").read_text().splitlines()
            if "while the broker is parked too" in line
        )
        assert "balance the beacons by SNI route key" in line
    finally:
        await chain.close()
        await balancer.stop()
        await asyncio.gather(*(beacon.part.stop() for beacon in beacons))
