"""A fleet for tests: real beacons behind a real HAProxy as it is shipped, and pods that read."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import random
import shutil
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cloudtaser.demo import setup
from cloudtaser.demo.apiserver import StandInApiServer
from cloudtaser.demo.certificates import CertificateFiles, write_server_certificate
from cloudtaser.demo.chain import Chain, OperatorPorts
from cloudtaser.demo.command import program
from cloudtaser.demo.exposition import fetch, probe, sum_metric
from cloudtaser.demo.ports import free_port
from cloudtaser.demo.process import PartProcess, together
from cloudtaser.demo.timing import PodClient
from cloudtaser.errors import CloudtaserError
from tests.chain_tools import eventually

ROOT = Path(__file__).parents[3]
CONFIGURATION = ROOT / "deploy" / "haproxy" / "beacon-fleet.cfg"
NAME = "beacons.internal"
SECRET = "shop/value"


def system_program(name: str) -> str:
    """A program that the distribution may keep in sbin."""
    found = shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin")
    assert found, f"{name} is not installed: run `tools/prepare test`"
    return found


def with_hosts(hosts: Path, command: Sequence[str]) -> list[str]:
    """`command` in a mount namespace of its own, where `hosts` is /etc/hosts."""
    script = 'mount --bind "$0" /etc/hosts && exec "$@"'
    return ["unshare", "-m", "--propagation", "private", "sh", "-c", script, str(hosts), *command]


@dataclass
class FleetBeacon:
    """One beacon of a fleet."""

    part: PartProcess
    port: int
    metrics: int

    async def start(self) -> None:
        self.part.start()
        await self.part.wait_until(lambda: probe(self.metrics, "/readyz"), "ready")

    async def metric(self, name: str) -> float:
        """Sum of a metric, 0 when it does not answer."""
        return sum_metric(await fetch(self.metrics, "/metrics"), f"cloudtaser_beacon_{name}")


def make_beacon(directory: Path, number: int, files: CertificateFiles, *arguments: str) -> FleetBeacon:
    """A beacon on ports of its own, not started."""
    port, metrics = free_port(), free_port()
    command = [program("cloudtaser-beacon"), "--addr", f"127.0.0.1:{port}"]
    command += ["--metrics-addr", f"127.0.0.1:{metrics}"]
    command += ["--tls-cert", str(files.certificate), "--tls-key", str(files.key), *arguments]
    return FleetBeacon(
        PartProcess(f"beacon-{number}", command, directory / f"beacon-{number}.log"), port, metrics
    )


class Fleet:
    """Three beacons behind HAProxy."""

    def __init__(self, directory: Path, configuration: Path = CONFIGURATION, *beacon_arguments: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.files = write_server_certificate(directory, "fleet", [f"*.{NAME}"])
        arguments = ("--proxy-protocol-from", "127.0.0.1", *beacon_arguments)
        self.beacons = [make_beacon(directory, number, self.files, *arguments) for number in (1, 2, 3)]
        self._admin = directory / "haproxy.sock"
        environment = {"FLEET_BIND": f"127.0.0.1:{self.port}", "FLEET_ADMIN": str(self._admin)}
        environment |= {
            f"FLEET_BEACON_{number}": f"127.0.0.1:{beacon.port}"
            for number, beacon in enumerate(self.beacons, 1)
        }
        command = [system_program("haproxy"), "-db", "-f", str(configuration)]
        self.haproxy = PartProcess("haproxy", command, directory / "haproxy.log", environment)

    @property
    def address(self) -> str:
        return f"*.{NAME}:{self.port}"

    async def start(self) -> None:
        await together(*(beacon.start() for beacon in self.beacons))
        self.haproxy.start()
        await self.haproxy.wait_until(self.all_up, "balancing")

    async def close(self) -> None:
        await asyncio.gather(*(part.stop() for part in (self.haproxy, *(one.part for one in self.beacons))))

    async def all_up(self) -> bool:
        """Whether HAProxy has found every beacon healthy."""
        try:
            states = await self.control("show servers state beacons")
        except OSError:
            return False
        rows = [line.split() for line in states.splitlines() if " beacon-" in line]
        return len(rows) == 3 and all(row[5] == "2" for row in rows)

    async def control(self, command: str) -> str:
        """Say `command` to HAProxy's administration socket."""
        return await control(self._admin, command)

    async def holder(self) -> FleetBeacon:
        """The one beacon through which tunnels run."""
        found: list[FleetBeacon] = []

        async def one_holds() -> bool:
            found[:] = [beacon for beacon in self.beacons if await beacon.metric("pairs") > 0]
            return len(found) == 1

        await eventually(one_holds, "tunnels run through one beacon")
        return found[0]


class FleetChain(Chain):
    """The whole chain with given beacons; bridge and operator find `NAME` in a hosts file of their own."""

    def __init__(self, beacons: Sequence[FleetBeacon], address: str, ca: Path) -> None:
        self._address = address
        self._ca = ca
        self._fleet = beacons
        super().__init__()
        self._hosts = self.directory / "hosts"
        self._hosts.write_text(f"127.0.0.1 localhost {NAME}\n")

    @property
    def beacon_address(self) -> str:
        return self._address

    @property
    def beacon_ca(self) -> Path:
        return self._ca

    async def start_beacon(self) -> None:
        pass  # the fleet has its own

    def _part(self, name: str, command: list[str], environment: dict[str, str] | None = None) -> PartProcess:
        if name.startswith("bridge"):
            command = with_hosts(self.directory / "hosts", command)
        return super()._part(name, command, environment)

    def _operator_command(self, ports: OperatorPorts, apiserver: StandInApiServer) -> list[str]:
        return with_hosts(self.directory / "hosts", super()._operator_command(ports, apiserver))


@dataclass
class Reading:
    """What readers met: good reads, attempts that broke, how long one read took with its repetitions."""

    reads: int = 0
    broken: int = 0
    failed: int = 0
    longest: float = 0.0
    errors: set[str] = field(default_factory=set)

    def __str__(self) -> str:
        return (
            f"{self.reads} reads, {self.failed} failed, {self.broken} repeated, longest {self.longest:.2f} s"
        )


class Readers:
    """Pods that read one secret over and over, and repeat what breaks as the wrapper does."""

    PATIENCE = 30.0

    def __init__(self, chain: Chain, number: int = 3) -> None:
        self._chain = chain
        self._number = number
        self._stop = asyncio.Event()
        self.now = Reading()

    def fresh(self) -> Reading:
        """Begin a new account; returns the one that is over."""
        over, self.now = self.now, Reading()
        return over

    async def more(self, reads: int) -> None:
        """Wait until so many more reads were good."""
        goal = self.now.reads + reads

        async def done() -> bool:
            return self.now.reads >= goal

        await eventually(done, f"{reads} more reads; so far {self.now}", timeout=60)

    async def _read(self) -> None:
        client = PodClient(self._chain.broker_address, self._chain.pod_ca())
        jwt = self._chain.pod("shop").token_file.read_text()
        loop = asyncio.get_running_loop()
        try:
            while not self._stop.is_set():
                began, bound = loop.time(), 0.2
                while not await self._attempt(client, jwt):
                    client.close()
                    if loop.time() - began > self.PATIENCE:
                        self.now.failed += 1
                        break
                    await asyncio.sleep(random.uniform(0, bound))
                    bound = min(4.0, bound * 2)
                else:
                    self.now.reads += 1
                self.now.longest = max(self.now.longest, loop.time() - began)
                await asyncio.sleep(0.005)
        finally:
            client.close()

    async def _attempt(self, client: PodClient, jwt: str) -> bool:
        try:
            if not client.token:
                await asyncio.to_thread(client.login, jwt)
            status, body = await asyncio.to_thread(client.request, "GET", f"/v1/secret/data/{SECRET}")
        except (OSError, http.client.HTTPException, CloudtaserError) as error:
            self.now.broken += 1
            self.now.errors.add(type(error).__name__)
            return False
        if status == 403:
            client.token = ""
        if status != 200:
            self.now.broken += 1
            self.now.errors.add(f"{status}: {body[:200]!r}")
        return status == 200

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Readers]:
        async with setup.administrator(self._chain) as admin:
            await setup.write_secret(admin, SECRET, {"value": "v"})
        tasks = [asyncio.ensure_future(self._read()) for _ in range(self._number)]
        try:
            await self.more(10)
            yield self
        finally:
            self._stop.set()
            await asyncio.gather(*tasks)


async def control(socket_file: Path, command: str) -> str:
    """What HAProxy answers to `command` at its administration socket."""
    reader, writer = await asyncio.open_unix_connection(str(socket_file))
    writer.write(command.encode() + b"\n")
    answer = (await reader.read()).decode()
    writer.close()
    return answer


def listening(port: int, host: str = "127.0.0.1") -> bool:
    """Whether somebody takes connections there."""
    with socket.socket() as probe_socket:
        return probe_socket.connect_ex((host, port)) == 0
