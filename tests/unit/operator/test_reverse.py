"""The reverse port: who gets in, who is sent away, and that nothing thrown at it harms those who wait."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from cloudtaser.demo.certificates import CertificateFiles, write_server_certificate
from cloudtaser.errors import CloudtaserError, ConfigError, UnavailableError
from cloudtaser.net.dial import Address
from cloudtaser.net.grpc_client import dial_grpc, outer_credentials
from cloudtaser.net.rendezvous import BROKER, BeaconRefusedError, enter, meet
from cloudtaser.net.tls import beacon_client
from cloudtaser.operator.beacons import Beacons
from cloudtaser.operator.config import Config
from cloudtaser.operator.reverse import ReverseLimits
from cloudtaser.operator.reverse_port import ReversePort
from cloudtaser.operator.settings import Listen
from cloudtaser.wire.grpc_message import METHOD, encode
from cloudtaser.wire.hashes import init_room
from cloudtaser.wire.rendezvous import Hello, Refusal, Role
from tests.unit.operator.parties import FINGERPRINT
from tests.unit.operator.rig import eventually

INIT, RETURN, OPERATIONAL = init_room(FINGERPRINT), b"r" * 32, b"o" * 32


class Party(asyncio.Protocol):
    """One end of a match."""

    def __init__(self) -> None:
        self.heard = b""
        self.lost = asyncio.Event()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


@dataclass
class Rig:
    """A port, and bridges to throw at it."""

    port: ReversePort
    address: Address
    files: CertificateFiles
    registry: CollectorRegistry
    own: bool
    parties: list[Party] = field(default_factory=list)
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)

    def holds(self, parked: int) -> bool:
        return self.count("parked") == parked

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"cloudtaser_broker_reverse_{name}", labels) or 0.0

    def refused(self, reason: str) -> float:
        return self.count("refused_total", reason=reason)

    async def open(self, room: bytes) -> None:
        """Serve `room`, with no seat in it."""
        seat = self.seat(room)
        await asyncio.sleep(0)
        seat.cancel()
        await asyncio.sleep(0)

    def seat(self, room: bytes) -> asyncio.Task[Any]:
        """One of our seats, waiting in `room`."""
        task = asyncio.ensure_future(self.port.rooms.match(room, self._party))
        self.tasks.append(task)
        return task

    async def visit(
        self,
        room: bytes,
        transport: str = "tls",
        role: Role = Role.BRIDGE,
        on_parked: Callable[[], None] | None = None,
    ) -> tuple[asyncio.Transport, Party]:
        """A bridge enters `room`; returns when it is met."""
        party = self._party()
        if transport == "tls":
            context = beacon_client(str(self.files.ca), False) if self.own else beacon_client(None, True)
            return (
                await meet(self.address, role, room, context, party, whom=BROKER, on_parked=on_parked),
                party,
            )
        credentials = outer_credentials(str(self.files.ca))
        met = await enter(
            lambda visit: dial_grpc(self.address, credentials, visit),
            role,
            room,
            party,
            where="broker",
            whom=BROKER,
            on_parked=on_parked,
        )
        return met, party

    def parked(self, room: bytes, transport: str = "tls") -> asyncio.Task[tuple[asyncio.Transport, Party]]:
        task = asyncio.ensure_future(self.visit(room, transport))
        self.tasks.append(task)
        return task

    async def raw(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection without TLS."""
        return await asyncio.open_connection("127.0.0.1", self.address.port)

    async def inside(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection with outer TLS."""
        context = beacon_client(str(self.files.ca), False)
        return await asyncio.open_connection("127.0.0.1", self.address.port, ssl=context)

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for party in self.parties:
            if party.transport is not None:
                party.transport.abort()
        await self.port.close()
        await asyncio.sleep(0.05)

    def _party(self) -> Party:
        self.parties.append(Party())
        return self.parties[-1]


async def start(tmp_path: Path, *, own: bool = True, limits: ReverseLimits | None = None) -> Rig:
    files = write_server_certificate(tmp_path / "outer", "outer", ["127.0.0.1"])
    config = Config(
        FINGERPRINT,
        "",
        "",
        "",
        (),
        reverse_listen=Listen("127.0.0.1", 0),
        reverse_tls_cert=str(files.certificate) if own else None,
        reverse_tls_key=str(files.key) if own else None,
    )
    registry = CollectorRegistry()
    port = ReversePort.of(config, registry, limits)
    assert port is not None
    await port.start()
    return Rig(port, Address("127.0.0.1", port.door.address[1]), files, registry, own)


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    made = await start(tmp_path, limits=ReverseLimits(hello_seconds=0.4, parked_per_room=4))
    yield made
    await made.close()


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What came until the other side closed or cut the connection, which it does soon."""
    try:
        return await asyncio.wait_for(reader.read(), 3)
    except ConnectionResetError:
        return b""


async def refusal(
    rig: Rig, room: bytes, transport: str = "tls", role: Role = Role.BRIDGE
) -> BeaconRefusedError:
    with pytest.raises(BeaconRefusedError) as raised:
        await rig.visit(room, transport, role)
    return raised.value


@pytest.mark.parametrize("transport", ["tls", "grpc"])
async def test_a_bridge_meets_a_seat_that_waits_and_one_that_comes_later(rig: Rig, transport: str) -> None:
    first = rig.seat(OPERATIONAL)
    await asyncio.sleep(0)
    met, bridge = await rig.visit(OPERATIONAL, transport)
    _, broker, source = await first
    met.write(b"from the bridge")
    broker.transport.write(b"from the broker")
    await eventually(
        lambda: (broker.heard, bridge.heard) == (b"from the bridge", b"from the broker"), "bytes"
    )
    assert source == "127.0.0.1"
    spare = rig.parked(OPERATIONAL, transport)
    await eventually(lambda: rig.count("parked") == 1, "the spare is parked")
    await rig.seat(OPERATIONAL)
    await spare
    assert rig.count("parked") == 0
    assert rig.count("matched_total") == 2


async def test_an_uninitialised_broker_answers_the_init_hello_only(rig: Rig) -> None:
    rig.seat(INIT)
    await asyncio.sleep(0)
    for room in (RETURN, OPERATIONAL):
        assert (await refusal(rig, room)).refusal is Refusal.BAD_HELLO
    await rig.visit(INIT)


async def test_an_initialised_broker_never_answers_the_init_hello_again(rig: Rig) -> None:
    rig.seat(INIT)
    await asyncio.sleep(0)
    waiting = rig.parked(INIT)
    await waiting
    rig.seat(RETURN)
    rig.seat(OPERATIONAL)
    await asyncio.sleep(0)
    error = await refusal(rig, INIT)
    assert error.refusal is Refusal.BAD_HELLO
    assert error.retry_after == 60.0
    with pytest.raises(UnavailableError, match="its init room is closed"):
        await rig.seat(INIT)
    assert (await refusal(rig, INIT)).refusal is Refusal.BAD_HELLO
    await rig.visit(OPERATIONAL)
    await rig.visit(RETURN)


async def test_a_spare_left_in_the_init_room_is_sent_away_when_that_is_closed(rig: Rig) -> None:
    await rig.open(INIT)
    spare = rig.parked(INIT)
    await eventually(lambda: rig.count("parked") == 1, "parked")
    rig.port.rooms.serve(RETURN, OPERATIONAL)
    with pytest.raises(BeaconRefusedError) as raised:
        await spare
    assert raised.value.retry_after == 60.0
    later = rig.seat(OPERATIONAL)
    await asyncio.sleep(0.05)
    assert not later.done()


async def test_a_broker_that_poses_as_bridge_or_bridge_as_broker_is_refused(rig: Rig) -> None:
    rig.seat(OPERATIONAL)
    await asyncio.sleep(0)
    assert (await refusal(rig, OPERATIONAL, role=Role.BROKER)).refusal is Refusal.BAD_HELLO


async def test_another_clusters_room_is_refused_in_words_that_help(rig: Rig) -> None:
    rig.seat(OPERATIONAL)
    await asyncio.sleep(0)
    error = await refusal(rig, b"x" * 32)
    assert "the broker has no such room: it belongs to another cluster" in error.diagnostic()
    assert error.retry_after == 0.5
    rig.seat(RETURN)
    await asyncio.sleep(0)
    assert (await refusal(rig, b"x" * 32)).retry_after is None


async def test_no_room_is_compared_in_a_time_that_tells(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(one)
        return one == other

    rooms = [OPERATIONAL, RETURN, b"n" * 32]
    for room in rooms:
        rig.seat(room)
    await asyncio.sleep(0)
    monkeypatch.setattr("cloudtaser.operator.reverse.hmac.compare_digest", compare)
    for room in (rooms[0], rooms[2], b"x" * 32):
        compared.clear()
        rig.port.rooms._find(room)
        assert compared == rooms


async def test_a_crowded_room_turns_away_who_is_one_too_many(rig: Rig) -> None:
    await rig.open(OPERATIONAL)
    for number in range(4):
        rig.parked(OPERATIONAL)
        await eventually(partial(rig.holds, number + 1), "parked")
    assert (await refusal(rig, OPERATIONAL)).refusal is Refusal.ROOM_FULL
    assert rig.refused("max-parked-per-room") == 1


GARBAGE = {
    "random bytes": b"\x8f\x01\xfe random",
    "HTTP/1.1": b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n",
    "a hello of another version": b"CTB9" + bytes(36),
    "an unknown role": b"CTB1\x07" + bytes(35),
    "HTTP/2 of the wrong kind": b"PRI * HTTP/9.9\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("what", GARBAGE)
@pytest.mark.parametrize("where", ["raw", "inside"])
async def test_garbage_is_closed_counted_and_told_in_one_line(rig: Rig, what: str, where: str) -> None:
    rig.seat(OPERATIONAL)
    await asyncio.sleep(0)
    with capture_logs() as lines:
        for _ in range(3):
            reader, writer = await (rig.raw() if where == "raw" else rig.inside())
            writer.write(GARBAGE[what])
            assert await ended(reader) in (b"", b"H\x00\x00")
            writer.close()
    told = [line for line in lines if line["event"] == "a connection to the reverse port was refused"]
    assert len(told) == 1
    assert told[0]["source"] == "127.0.0.0/24"
    await rig.visit(OPERATIONAL)


@pytest.mark.parametrize("said", [b"", b"C", Hello(Role.BRIDGE, OPERATIONAL).encode()[:-1], b"PRI * HTTP/2"])
async def test_whoever_is_slow_to_say_hello_is_closed_in_time(rig: Rig, said: bytes) -> None:
    reader, writer = await rig.inside()
    writer.write(said)
    began = asyncio.get_running_loop().time()
    await ended(reader)
    assert asyncio.get_running_loop().time() - began < 3
    writer.close()
    await eventually(lambda: rig.refused("no hello in time") == 1, "counted")


async def test_a_handshake_that_never_ends_is_closed_in_time(rig: Rig) -> None:
    reader, writer = await rig.raw()
    writer.write(b"\x16\x03\x01")
    await asyncio.wait_for(reader.read(), 3)
    writer.close()
    await eventually(lambda: rig.refused("TLS handshake failed") == 1, "counted")


async def test_a_balancer_that_only_looks_at_the_port_is_not_mentioned(rig: Rig) -> None:
    _, writer = await rig.raw()
    writer.close()
    reader, writer = await rig.raw()
    assert await ended(reader) == b""
    writer.close()
    assert rig.count("connections_total", carries="nothing") == 0


async def test_with_a_certificate_of_its_own_bare_bytes_are_refused(rig: Rig) -> None:
    rig.seat(OPERATIONAL)
    await asyncio.sleep(0)
    reader, writer = await rig.raw()
    writer.write(Hello(Role.BRIDGE, OPERATIONAL).encode())
    assert await ended(reader) == b""
    writer.close()
    assert rig.refused("not TLS") == 1


async def test_without_a_certificate_both_bare_bytes_and_unchecked_tls_come_in(tmp_path: Path) -> None:
    rig = await start(tmp_path, own=False)
    try:
        rig.seat(OPERATIONAL)
        rig.seat(OPERATIONAL)
        await asyncio.sleep(0)
        reader, writer = await rig.raw()
        writer.write(Hello(Role.BRIDGE, OPERATIONAL).encode() + b"early")
        assert await asyncio.wait_for(reader.read(1), 3) == b"M"
        await eventually(lambda: any(party.heard == b"early" for party in rig.parties), "early bytes")
        await rig.visit(OPERATIONAL)
        writer.close()
    finally:
        await rig.close()


async def test_too_much_before_the_match_ends_the_stay(rig: Rig) -> None:
    await rig.open(OPERATIONAL)
    reader, writer = await rig.inside()
    writer.write(Hello(Role.BRIDGE, OPERATIONAL).encode())
    assert await reader.readexactly(1) == b"W"
    writer.write(b"x" * 5000)
    assert await asyncio.wait_for(reader.read(), 3) == b"H\x00\x00"
    writer.close()
    await eventually(lambda: rig.count("parked") == 0, "left")


async def test_who_connects_too_often_is_refused_and_others_are_not(tmp_path: Path) -> None:
    rig = await start(tmp_path, limits=ReverseLimits(source_rate=0.001, source_burst=3))
    try:
        rig.seat(OPERATIONAL)
        for _ in range(3):
            _, writer = await rig.raw()
            writer.close()
        _, writer = await rig.raw()
        writer.close()
        await eventually(lambda: rig.refused("too many new connections") == 1, "counted")
        other = socket.socket()
        other.bind(("127.0.0.9", 0))
        other.setblocking(False)
        await asyncio.get_running_loop().sock_connect(other, ("127.0.0.1", rig.address.port))
        context = beacon_client(str(rig.files.ca), False)
        reader, writer = await asyncio.open_connection(sock=other, ssl=context, server_hostname="127.0.0.1")
        writer.write(Hello(Role.BRIDGE, OPERATIONAL).encode())
        assert await asyncio.wait_for(reader.read(1), 3) == b"M"
        writer.close()
    finally:
        await rig.close()


async def test_many_streams_of_one_connection_count_as_many_newcomers(tmp_path: Path) -> None:
    rig = await start(tmp_path, limits=ReverseLimits(source_rate=0.001, source_burst=3))
    credentials = outer_credentials(str(rig.files.ca))
    try:
        async with grpc.aio.secure_channel(str(rig.address), credentials) as channel:
            hello = encode(Hello(Role.BRIDGE, OPERATIONAL).encode())

            async def ask(call: Any) -> bytes:
                try:
                    await call.write(hello)
                    return bytes(await call.read())
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    return b""

            asking = [ask(channel.stream_stream(METHOD)()) for _ in range(3)]
            answers = await asyncio.wait_for(asyncio.gather(*asking), 5)
            refused = encode(b"H\x01\xf4")
            assert sorted(answers) == [b"", refused, refused]  # the connection itself was one newcomer
            assert rig.refused("too many new connections") == 1
    finally:
        await rig.close()


async def test_no_more_connections_than_the_limit_are_held(tmp_path: Path) -> None:
    rig = await start(tmp_path, limits=ReverseLimits(connections=3))
    try:
        writers = [(await rig.raw())[1] for _ in range(3)]
        await eventually(lambda: rig.count("open_connections") == 3, "open")
        reader, writer = await rig.raw()
        assert await ended(reader) == b""
        assert rig.refused("too many connections") == 1
        for each in (*writers, writer):
            each.close()
        await eventually(lambda: rig.count("open_connections") == 0, "closed")
        rig.seat(OPERATIONAL)
        await rig.visit(OPERATIONAL)
    finally:
        await rig.close()


async def test_no_source_takes_all_connections(tmp_path: Path) -> None:
    limits = ReverseLimits(connections=8, connections_per_source=3)
    rig = await start(tmp_path, own=False, limits=limits)
    try:
        idle = [(await rig.raw())[1] for _ in range(3)]
        for writer in idle:
            writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        await eventually(lambda: rig.count("open_connections") == 3, "open")
        reader, refused = await rig.raw()
        assert await ended(reader) == b""
        assert rig.refused("too many connections") == 1
        rig.seat(OPERATIONAL)
        other = await asyncio.open_connection("127.0.0.1", rig.address.port, local_addr=("127.0.0.2", 0))
        other[1].write(Hello(Role.BRIDGE, OPERATIONAL).encode())
        assert await asyncio.wait_for(other[0].read(1), 3) == b"M"
        idle[0].close()
        await eventually(lambda: rig.count("open_connections") == 3, "one has left")
        _, writer = await rig.raw()
        await eventually(lambda: rig.count("open_connections") == 4, "its place is free")
        for each in (*idle, other[1], refused, writer):
            each.close()
    finally:
        await rig.close()


@pytest.mark.parametrize(
    ("flood", "reason"),
    [
        (b"\0\0\0\1\0\0\0\0\1" + b"\0\x40\0\x09\0\0\0\0\1" + bytes(16384), "headers of more than"),
        (b"\0\0\x08\6\0\0\0\0\0" + bytes(8), "a flood of HTTP/2 control frames"),
        (b"\0\0\0\4\0\0\0\0\0", "a flood of HTTP/2 control frames"),
    ],
    ids=["headers that do not end", "pings", "settings"],
)
async def test_a_flood_of_http2_frames_is_cut_before_grpc_sees_it(
    rig: Rig, flood: bytes, reason: str
) -> None:
    rig.seat(OPERATIONAL)
    reader, writer = await rig.inside()
    with capture_logs() as logs:
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        for _ in range(3000):
            writer.write(flood)
        await ended(reader)
        await rig.visit(OPERATIONAL, "grpc")
    writer.close()
    told = [line["reason"] for line in logs if "was refused" in line["event"]]
    assert len(told) == 1
    assert reason in told[0]


async def test_a_new_certificate_is_shown_from_the_next_connection_on(rig: Rig, tmp_path: Path) -> None:
    rig.seat(OPERATIONAL)
    await asyncio.sleep(0)
    other = write_server_certificate(tmp_path / "new", "outer", ["127.0.0.1"])
    rig.files.key.write_text("nothing")
    await rig.visit(OPERATIONAL)
    assert rig.count("certificate_reloads_total", outcome="failed") == 1
    rig.files.certificate.write_bytes(other.certificate.read_bytes())
    rig.files.key.write_bytes(other.key.read_bytes())
    rig.seat(OPERATIONAL)
    with pytest.raises(CloudtaserError, match="certificate"):
        await rig.visit(OPERATIONAL)
    rig.files = other
    await rig.visit(OPERATIONAL)
    assert rig.count("certificate_reloads_total", outcome="ok") == 1


async def test_a_certificate_that_cannot_be_used_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "cert").write_text("nothing")
    config = Config(
        FINGERPRINT, "", "", "", (), reverse_listen=Listen("127.0.0.1", 0),
        reverse_tls_cert=str(tmp_path / "cert"), reverse_tls_key=str(tmp_path / "cert"),
    )  # fmt: skip
    with pytest.raises(ConfigError, match="cert"):
        ReversePort.of(config, CollectorRegistry())


async def test_a_drain_sends_spares_away_and_leaves_who_was_met(rig: Rig) -> None:
    rig.seat(OPERATIONAL)
    await asyncio.sleep(0)
    _, bridge = await rig.visit(OPERATIONAL, "grpc")
    spares = [rig.parked(OPERATIONAL, transport) for transport in ("tls", "grpc")]
    await eventually(lambda: rig.count("parked") == 2, "parked")
    rig.port.drain()
    for spare in spares:
        with pytest.raises(BeaconRefusedError) as raised:
            await spare
        assert raised.value.refusal is Refusal.SHUTTING_DOWN
        assert raised.value.retry_after
    assert not bridge.lost.is_set()
    with pytest.raises(CloudtaserError):
        await rig.visit(OPERATIONAL)


async def test_a_seat_waits_at_beacons_and_here_and_is_met_once(rig: Rig) -> None:
    beacons = Beacons((), ssl.create_default_context(), reverse=rig.port.rooms)
    waiting = asyncio.ensure_future(beacons.match(OPERATIONAL, rig._party))
    await asyncio.sleep(0.01)
    await rig.visit(OPERATIONAL)
    match = await asyncio.wait_for(waiting, 3)
    assert match.beacon == "reverse port, from 127.0.0.1"
    assert match.protocol in rig.parties


async def test_a_seat_that_left_is_met_by_nobody(rig: Rig) -> None:
    await rig.open(OPERATIONAL)
    spare = rig.parked(OPERATIONAL)
    await eventually(lambda: rig.count("parked") == 1, "parked, not matched")
    assert not spare.done()


async def test_no_log_line_names_a_room(rig: Rig) -> None:
    rig.seat(OPERATIONAL)
    await asyncio.sleep(0)
    with capture_logs() as lines:
        await refusal(rig, b"\xab" * 32)
        reader, writer = await rig.inside()
        writer.write(Hello(Role.BRIDGE, OPERATIONAL).encode()[:4] + b"\x09" + bytes(3) + OPERATIONAL)
        await ended(reader)
        writer.close()
        await rig.visit(OPERATIONAL)
    assert lines
    for room in (OPERATIONAL.hex(), OPERATIONAL.decode(), "ab" * 8):
        assert room not in json.dumps(lines)
