"""The broker passes bytes and knows nothing of them; it refuses at once what it cannot carry."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
from collections.abc import AsyncIterator

import pytest

from cloudtaser.errors import UnavailableError
from cloudtaser.operator import broker as broker_module
from cloudtaser.operator.broker import ADMINS, Broker
from cloudtaser.operator.config import ADMIN_LIMITS, BrokerLimits
from cloudtaser.operator.metrics import Metrics
from cloudtaser.operator.settings import Listen
from cloudtaser.wire.opening import Kind
from tests.unit.operator.rig import BridgeHalf, Pipes, eventually, tunnel_pair

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Rig:
    def __init__(self) -> None:
        self.half = BridgeHalf()
        self.pipes = Pipes()
        self.metrics = Metrics()
        self.tapped: list[tuple[str, bytes]] = []
        self.bridges: list[object] = []
        self.broker: Broker
        self.admin: Broker | None = None
        self.clients: list[asyncio.StreamWriter] = []

    async def start(self, tunnels: int = 1, limits: BrokerLimits | None = None) -> None:
        for _ in range(tunnels):
            mine, theirs = await tunnel_pair(self.half)
            self.pipes.tunnels.append(mine)
            self.bridges.append(theirs)
        self.broker = Broker(
            Listen("127.0.0.1", 0),
            limits or BrokerLimits(),
            self.pipes,
            self.metrics,
            tap=lambda side, data: self.tapped.append((side, data)),
        )
        await self.broker.start()

    async def start_admin(self, limits: BrokerLimits = ADMIN_LIMITS) -> None:
        listen = Listen("127.0.0.1", 0)
        self.admin = Broker(listen, limits, self.pipes, self.metrics.admin, clients=ADMINS)
        await self.admin.start()

    async def connect(self, to: Broker | None = None) -> Connection:
        reader, writer = await asyncio.open_connection(*(to or self.broker).address)
        self.clients.append(writer)
        return reader, writer

    async def say(self, connection: Connection, data: bytes) -> bytes:
        reader, writer = connection
        writer.write(data)
        return await asyncio.wait_for(reader.readexactly(len(data)), 10)

    async def stop(self) -> None:
        for writer in self.clients:
            writer.transport.abort()
        await self.broker.close()
        if self.admin is not None:
            await self.admin.close()
        for tunnel in self.pipes.tunnels:
            tunnel.abort()
            await tunnel.closed

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    await rig.stop()


async def refused(rig: Rig) -> None:
    """A connection that ends with a reset, not with an end of data."""
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(_until_end(rig), 5)


async def _until_end(rig: Rig) -> bytes:
    reader, _ = await rig.connect()
    return await reader.read()


async def test_bytes_of_any_kind_pass_unchanged_both_ways(rig: Rig) -> None:
    await rig.start()
    connection = await rig.connect()
    for data in (b"\x16\x03\x01", os.urandom(1_500_000), b"GET / HTTP/1.1\r\n\r\n", bytes(range(256))):
        assert await rig.say(connection, data) == data
    assert rig.half.echoes[0].heard[:3] == b"\x16\x03\x01"
    assert rig.broker.bytes_passed == (1_500_277, 1_500_277)


async def test_an_end_passes_and_what_follows_it_still_arrives(rig: Rig) -> None:
    await rig.start()
    reader, writer = await rig.connect()
    writer.write(b"last words")
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), 5) == b"last words"
    await eventually(lambda: rig.broker.open_connections == 0, "the connection is forgotten")
    assert rig.count("cloudtaser_broker_bytes_total", source="pod") == 10
    assert rig.count("cloudtaser_broker_bytes_total", source="bridge") == 10
    assert rig.count("cloudtaser_broker_cut_total") == 0


async def test_the_opening_says_who_it_is_for_and_has_an_id_of_its_own(rig: Rig) -> None:
    await rig.start()
    connections = [await rig.connect() for _ in range(2)]
    for connection in connections:
        await rig.say(connection, b"x")
    peers = ["{}:{}".format(*writer.get_extra_info("sockname")) for _, writer in connections]
    assert [(opening.kind, opening.peer) for opening in rig.half.openings] == [
        (Kind.POD, peer) for peer in peers
    ]
    assert len({opening.id for opening in rig.half.openings}) == 2


async def test_without_a_tunnel_a_pod_is_refused_at_once(rig: Rig) -> None:
    await rig.start(tunnels=0)
    await refused(rig)
    assert rig.count("cloudtaser_broker_refused_total", reason="no tunnel") == 1


async def test_a_tunnel_that_is_lost_before_the_first_bytes_is_a_refusal_too(rig: Rig) -> None:
    await rig.start()
    reader, writer = await rig.connect()
    await eventually(lambda: rig.broker.open_connections == 1, "accepted")
    rig.pipes.tunnels[0].abort()
    writer.write(b"hello")
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 5)


async def test_a_stream_that_the_bridge_refuses_resets_the_pod(rig: Rig) -> None:
    await rig.start()
    rig.half.refuse = True
    reader, writer = await rig.connect()
    writer.write(b"hello")
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 5)


async def test_a_tunnel_that_dies_resets_its_pods_and_no_others(rig: Rig) -> None:
    await rig.start(tunnels=2)
    first, second = await rig.connect(), await rig.connect()
    assert await rig.say(first, b"one") == b"one"
    assert await rig.say(second, b"two") == b"two"
    rig.pipes.tunnels[0].abort()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(first[0].read(), 5)
    assert await rig.say(second, b"still here") == b"still here"
    await eventually(lambda: rig.count("cloudtaser_broker_cut_total") == 1, "the cut is counted")


async def test_go_away_moves_new_pods_and_drops_no_running_stream(rig: Rig) -> None:
    await rig.start(tunnels=2)
    old = await rig.connect()
    await rig.say(old, b"running")
    leaving = next(tunnel for tunnel in rig.pipes.tunnels if tunnel.active)
    other = next(tunnel for tunnel in rig.pipes.tunnels if tunnel is not leaving)
    rig.bridges[rig.pipes.tunnels.index(leaving)].go_away()  # type: ignore[attr-defined]  # a Tunnel
    await eventually(lambda: leaving.draining, "go-away arrived")
    new = [await rig.connect() for _ in range(3)]
    for connection in new:
        await rig.say(connection, b"new")
    assert other.active == 3
    assert await rig.say(old, os.urandom(100_000))
    old[1].close()
    await asyncio.wait_for(leaving.closed, 5)
    assert leaving.error is None


async def test_one_pod_cannot_take_all_connections(rig: Rig) -> None:
    await rig.start(limits=BrokerLimits(connections_per_pod=2))
    kept = [await rig.connect() for _ in range(2)]
    for connection in kept:
        await rig.say(connection, b"x")
    await refused(rig)
    kept[0][1].close()
    await eventually(lambda: rig.broker.open_connections == 1, "the place is free")
    assert await rig.say(await rig.connect(), b"y") == b"y"


async def test_the_total_is_bounded(rig: Rig) -> None:
    await rig.start(limits=BrokerLimits(connections=1))
    await rig.say(await rig.connect(), b"x")
    await refused(rig)
    assert rig.count("cloudtaser_broker_refused_total", reason="too many connections") == 1


async def test_a_pod_that_says_nothing_costs_no_stream_and_is_sent_away(rig: Rig) -> None:
    await rig.start(limits=BrokerLimits(first_bytes_seconds=0.05))
    reader, _ = await rig.connect()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 5)
    assert rig.half.openings == []
    await eventually(lambda: rig.broker.open_connections == 0, "forgotten")


async def test_a_pod_that_leaves_without_a_word_is_forgotten(rig: Rig) -> None:
    await rig.start()
    _, writer = await rig.connect()
    await eventually(lambda: rig.broker.open_connections == 1, "accepted")
    writer.close()
    await eventually(lambda: rig.broker.open_connections == 0, "forgotten")
    assert rig.half.openings == []


async def test_a_silent_connection_ends(rig: Rig) -> None:
    await rig.start(limits=BrokerLimits(idle_seconds=0.05))
    reader, writer = await rig.connect()
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    assert await asyncio.wait_for(reader.read(), 5) == b""
    assert rig.count("cloudtaser_broker_cut_total") == 1


async def test_500_pods_at_once_share_two_tunnels(rig: Rig) -> None:
    await rig.start(tunnels=2, limits=BrokerLimits(connections_per_pod=1000))
    connections = await asyncio.gather(*(rig.connect() for _ in range(500)))
    payloads = [os.urandom(3000) for _ in connections]
    answers = await asyncio.gather(
        *(rig.say(connection, data) for connection, data in zip(connections, payloads, strict=True))
    )
    assert answers == payloads
    assert [tunnel.active for tunnel in rig.pipes.tunnels] == [250, 250]


async def test_a_slow_pod_holds_no_more_than_windows_and_buffers(rig: Rig) -> None:
    await rig.start()
    reader, writer = await rig.connect()
    await rig.say((reader, writer), b"x")
    echo = rig.half.echoes[0]
    assert echo.transport is not None
    echo.transport.write(bytes(20_000_000))
    await asyncio.sleep(0.3)  # the pod does not read: what can move has moved
    passed = sum(len(data) for side, data in rig.tapped if side == "bridge")
    assert passed < 12_000_000
    assert len(await asyncio.wait_for(reader.readexactly(20_000_000), 20)) == 20_000_000


async def test_the_tap_sees_all_that_passes_and_only_that(rig: Rig) -> None:
    await rig.start()
    await rig.say(await rig.connect(), b"ciphertext")
    for side in ("pod", "bridge"):
        assert b"".join(data for name, data in rig.tapped if name == side) == b"ciphertext"


async def test_an_address_in_use_is_one_line(rig: Rig) -> None:
    await rig.start()
    host, port = rig.broker.address
    other = Broker(Listen(host, port), BrokerLimits(), rig.pipes, Metrics())
    with pytest.raises(UnavailableError, match=f"cannot listen for pods.*{port}"):
        await other.start()


async def test_an_administrators_bytes_go_in_streams_of_their_own_kind_counted_apart(rig: Rig) -> None:
    await rig.start()
    await rig.start_admin()
    assert await rig.say(await rig.connect(rig.admin), b"\x16\x03\x01") == b"\x16\x03\x01"
    assert await rig.say(await rig.connect(), b"pod") == b"pod"
    assert [opening.kind for opening in rig.half.openings] == [Kind.ADMIN, Kind.POD]
    for name, source in (("admin_", "admin"), ("", "pod")):
        assert rig.count(f"cloudtaser_broker_{name}connections_total") == 1
        assert rig.count(f"cloudtaser_broker_{name}bytes_total", source=source) == 3


async def test_administrators_have_limits_of_their_own(rig: Rig) -> None:
    await rig.start(limits=BrokerLimits(connections=1))
    await rig.start_admin(BrokerLimits(connections=1))
    await rig.say(await rig.connect(), b"the only pod")
    assert await rig.say(await rig.connect(rig.admin), b"x") == b"x"
    reader, _ = await rig.connect(rig.admin)
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 5)
    assert rig.count("cloudtaser_broker_admin_refused_total", reason="too many connections") == 1
    assert rig.count("cloudtaser_broker_refused_total", reason="too many connections") == 0


def test_the_broker_is_blind_by_construction() -> None:
    """No TLS, certificate, token, parser or Kubernetes is in reach of the module that carries the bytes."""
    imported = set()
    for node in ast.walk(ast.parse(inspect.getsource(broker_module))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
    ours = {name for name in imported if name.startswith("cloudtaser")}
    assert ours == {
        "cloudtaser.errors",
        "cloudtaser.net.dial",
        "cloudtaser.net.log",
        "cloudtaser.net.splice",
        "cloudtaser.operator.config",
        "cloudtaser.operator.enrolment",
        "cloudtaser.operator.incidents",
        "cloudtaser.operator.metrics",
        "cloudtaser.operator.settings",
        "cloudtaser.wire.opening",
    }
    assert not imported & {"ssl", "cryptography", "json", "aiohttp", "httptools", "joserfc"}
