"""Manager and broker in one process, against a stand-in API server, a real beacon and a bridge's half."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from cloudtaser.demo.apiserver import StandInApiServer
from cloudtaser.net.layers import TlsLayer
from cloudtaser.net.tls import pod_client, pod_server
from cloudtaser.operator.certificates import der
from cloudtaser.operator.config import Config
from cloudtaser.operator.settings import Listen
from cloudtaser.operator.standalone import Standalone
from cloudtaser.wire.bootstrap import Mode
from cloudtaser.wire.hashes import pod_ca_label
from cloudtaser.wire.names import BRIDGE_NAME, POD_CA_CONFIGMAP, SYSTEM_NAMESPACE, TRUST_CONFIGMAP
from cloudtaser.wire.opening import Kind, Opening
from tests.unit.operator.parties import FINGERPRINT, OTHER_FINGERPRINT
from tests.unit.operator.rig import Echo, FakeBridge, Room, eventually, running_beacon
from tests.unit.operator.test_enrol import POD, TUNNEL, Responder


class World:
    """Everything round an operator; the bridge is three halves: init room, return room, tunnels."""

    def __init__(self, directory: Path, room: Room, api: StandInApiServer) -> None:
        self.directory = directory
        self.room = room
        self.api = api
        self.init = Responder(room, Mode.INIT)
        self.back = Responder(room, Mode.RETURN)
        self.bridge = FakeBridge(room, TUNNEL.trust.operational_room, TUNNEL.bridge().identity, TUNNEL.pem)
        self.bridge.half.others[Kind.POD] = self.end_tls
        self.seen: list[tuple[str, bytes]] = []
        self.running: list[tuple[asyncio.Event, asyncio.Task[int], Standalone]] = []

    def end_tls(self, opening: Opening) -> asyncio.Protocol:
        """What the bridge does with a pod's stream: end its TLS, then echo."""
        return TlsLayer(pod_server(POD.pod_server().identity), Echo(), server_side=True)

    @property
    def config(self) -> Config:
        return Config(
            fingerprint=FINGERPRINT,
            apiserver=self.api.url,
            apiserver_ca=str(self.api.ca_file),
            apiserver_token_file=str(self.api.operator_token_file),
            beacons=(self.room.address,),
            beacon_ca=str(self.room.files.ca),
            listen=Listen("127.0.0.1", 0),
            probe_addr=None,
            metrics_addr=None,
            drain_seconds=10.0,
        )

    def operator(self) -> Standalone:
        operator = Standalone(self.config, tap=lambda side, data: self.seen.append((side, data)))
        stop = asyncio.Event()
        self.running.append((stop, asyncio.ensure_future(operator.run(stop)), operator))
        return operator

    async def stop(self) -> None:
        for stop, task, _ in self.running:
            stop.set()
            await asyncio.wait_for(task, 15)
        for responder in (self.init, self.back):
            await responder.stop()
        await self.bridge.stop()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    api = StandInApiServer(tmp_path / "api", FINGERPRINT)
    await api.start()
    async with running_beacon(tmp_path) as room:
        world = World(tmp_path, room, api)
        world.bridge.park()
        yield world
        await world.stop()
    await api.close()


async def up(operator: Standalone) -> None:
    await eventually(lambda: len(operator.tunnels.live) == 2, "two tunnels", timeout=20)


async def pod(operator: Standalone, say: bytes) -> bytes:
    """A wrapper's connection: TLS under the pod CA, through the broker, to the bridge."""
    name = f"{pod_ca_label(der(POD.certificate))}.{BRIDGE_NAME}"
    reader, writer = await asyncio.open_connection(
        *operator.address, ssl=pod_client(POD.pem.encode()), server_hostname=name
    )
    writer.write(say)
    heard = await asyncio.wait_for(reader.readexactly(len(say)), 10)
    writer.close()
    await writer.wait_closed()
    return heard


async def test_from_the_fingerprint_to_a_pods_bytes(world: World) -> None:
    operator = world.operator()
    await up(operator)
    assert operator.is_ready()
    assert await pod(operator, b"the secret's way") == b"the secret's way"
    trust = await operator.kube.get_config_map(SYSTEM_NAMESPACE, TRUST_CONFIGMAP)
    pod_ca = await operator.kube.get_config_map(SYSTEM_NAMESPACE, POD_CA_CONFIGMAP)
    assert trust is not None
    assert pod_ca is not None
    assert trust.data["tunnel-ca.crt"] == TUNNEL.trust.tunnel_ca
    assert pod_ca.data["pod-ca.crt"] == POD.pem


async def test_the_broker_sees_ciphertext_only(world: World) -> None:
    operator = world.operator()
    await up(operator)
    secret = os.urandom(8).hex().encode() * 200
    assert await pod(operator, secret) == secret
    for side in ("pod", "bridge"):
        crossed = b"".join(data for name, data in world.seen if name == side)
        assert len(crossed) > len(secret)
        assert secret[:16] not in crossed


async def test_a_restarted_operator_and_a_second_replica_come_back_by_the_return_room(world: World) -> None:
    first = world.operator()
    await up(first)
    stop, task, _ = world.running.pop()
    stop.set()
    assert await asyncio.wait_for(task, 15) == 0
    for operator in (world.operator(), world.operator()):
        await up(operator)
        assert await pod(operator, b"x") == b"x"
    assert len(world.init.requests) == 1
    assert len(world.back.requests) == 2


async def test_killed_before_it_stored_anything_it_starts_over_and_is_served(world: World) -> None:
    await world.api.close()
    await world.api.start()
    operator = Standalone(world.config)
    task = asyncio.ensure_future(operator.enrol.run())
    await eventually(lambda: bool(world.init.matches), "the bridge was met")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await operator.close()
    await up(world.operator())


async def test_the_wrong_fingerprint_is_said_at_once(world: World, tmp_path: Path) -> None:
    status, error = await run_process(world, "--fingerprint", OTHER_FINGERPRINT)
    assert status == 2
    assert f"is not this cluster's, which is {FINGERPRINT}" in error
    assert "Traceback" not in error


async def test_an_api_server_that_is_away_is_waited_for(world: World) -> None:
    await world.api.close()
    operator = world.operator()
    await eventually(lambda: bool(operator._tasks), "running without it")
    assert not operator.is_ready()
    await world.api.start()
    await up(operator)


async def test_stopping_lets_running_connections_finish(world: World) -> None:
    operator = world.operator()
    await up(operator)
    name = f"{pod_ca_label(der(POD.certificate))}.{BRIDGE_NAME}"
    reader, writer = await asyncio.open_connection(
        *operator.address, ssl=pod_client(POD.pem.encode()), server_hostname=name
    )
    writer.write(b"before")
    assert await reader.readexactly(6) == b"before"
    stop, task, _ = world.running.pop()
    stop.set()
    await eventually(lambda: not operator.tunnels.live, "draining")
    writer.write(b"during")
    assert await asyncio.wait_for(reader.readexactly(6), 5) == b"during"
    writer.close()
    await writer.wait_closed()
    assert await asyncio.wait_for(task, 15) == 0


async def run_process(world: World, *more: str) -> tuple[int | None, str]:
    """Run the program itself until it ends; status and standard error."""
    process = await asyncio.create_subprocess_exec(
        *command(world), *more, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, error = await asyncio.wait_for(process.communicate(), 20)
    return process.returncode, error.decode()


def command(world: World) -> list[str]:
    config = world.config
    settings = {
        "--fingerprint": config.fingerprint,
        "--apiserver": config.apiserver,
        "--apiserver-ca": config.apiserver_ca,
        "--apiserver-token-file": config.apiserver_token_file,
        "--beacon-address": str(world.room.address),
        "--beacon-ca": str(world.room.files.ca),
        "--listen": "127.0.0.1:0",
        "--probe-addr": "off",
        "--metrics-addr": f"127.0.0.1:{free_port()}",
    }
    flags = [part for pair in settings.items() for part in pair]
    return [sys.executable, "-m", "cloudtaser.operator.app", "--standalone", *flags]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def test_the_program_serves_probes_and_metrics_and_ends_well_at_sigterm(world: World) -> None:
    arguments = command(world)
    address = arguments[arguments.index("--metrics-addr") + 1]
    process = await asyncio.create_subprocess_exec(
        *arguments, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    await eventually(lambda: len(world.bridge.tunnels) >= 2, "tunnels", timeout=20)
    async with aiohttp.ClientSession() as client:
        for path, text in (
            ("/healthz", "ok"),
            ("/readyz", "ready"),
            ("/metrics", "cloudtaser_broker_tunnels 2"),
        ):
            async with client.get(f"http://{address}{path}") as response:
                assert response.status == 200
                assert text in await response.text()
    process.send_signal(signal.SIGTERM)
    _, error = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0
    assert b"Traceback" not in error
    token = world.api.operator_token_file.read_bytes()
    assert token not in error
    assert b"PRIVATE KEY" not in error
