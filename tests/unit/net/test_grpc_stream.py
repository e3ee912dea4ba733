"""A gRPC stream as a transport: bytes arrive in order and whole, both ends hear of the end, nobody floods."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from cloudtaser.demo.certificates import CertificateFiles, write_server_certificate
from cloudtaser.errors import CloudtaserError, ConfigError, UnavailableError
from cloudtaser.net.dial import Address
from cloudtaser.net.ends import HIGH_WATER
from cloudtaser.net.grpc_client import dial_grpc, outer_credentials
from cloudtaser.net.grpc_server import GrpcServer
from cloudtaser.net.grpc_stream import in_words
from cloudtaser.net.layers import TlsLayer
from cloudtaser.net.splice import Splice
from cloudtaser.net.tls import beacon_server
from cloudtaser.wire.grpc_message import MAX_MESSAGE, METHOD, encode


class Ears(asyncio.Protocol):
    """Holds what it hears."""

    def __init__(self, *, stays: bool = False) -> None:
        self.heard = bytearray()
        self.stays = stays
        self.ended = False
        self.full = False
        self.transport: asyncio.Transport | None = None
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.something = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.heard += data
        self.something.set()

    def eof_received(self) -> bool:
        self.ended = True
        return self.stays

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False

    async def until(self, size: int) -> bytes:
        async with asyncio.timeout(10):
            while len(self.heard) < size:
                self.something.clear()
                await self.something.wait()
        return bytes(self.heard)


@dataclass
class Line:
    """A server behind a door that ends TLS, as the broker's."""

    server: GrpcServer
    port: int
    files: CertificateFiles
    guests: list[Ears] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    doors: list[asyncio.Task[None]] = field(default_factory=list)
    splices: list[Splice] = field(default_factory=list)

    async def dial(self, protocol: asyncio.Protocol, name: str = "127.0.0.1") -> asyncio.Transport:
        credentials = outer_credentials(str(self.files.ca))
        return await dial_grpc(Address(name, self.port), credentials, protocol)

    async def failure(self) -> CloudtaserError:
        """What a dial comes to, at once or a moment later."""
        ears = Ears()
        try:
            await self.dial(ears)
        except CloudtaserError as error:
            return error
        found = await asyncio.wait_for(ears.lost, 5)
        assert isinstance(found, CloudtaserError)
        return found

    async def guest(self) -> Ears:
        async with asyncio.timeout(10):
            await self.arrived.wait()
        return self.guests[-1]


@pytest_asyncio.fixture
async def line(tmp_path: Path) -> AsyncIterator[Line]:
    files = write_server_certificate(tmp_path, "broker", ["127.0.0.1"])
    context = beacon_server(str(files.certificate), str(files.key))
    context.set_alpn_protocols(["h2"])
    loop = asyncio.get_running_loop()

    def welcome(source: str) -> asyncio.Protocol:
        made.sources.append(source)
        made.guests.append(Ears())
        made.arrived.set()
        return made.guests[-1]

    def door() -> asyncio.Protocol:
        splice = Splice()
        made.splices.append(splice)
        made.doors.append(loop.create_task(server.connect(splice.second, "192.0.2.7")))
        return TlsLayer(context, splice.first, server_side=True)

    server = GrpcServer(welcome, max_streams=8)
    await server.start()
    listener = await loop.create_server(door, "127.0.0.1", 0)
    made = Line(server, listener.sockets[0].getsockname()[1], files)
    yield made
    listener.close()
    await server.close()
    await asyncio.gather(*made.doors, return_exceptions=True)
    for splice in made.splices:
        splice.abort()
        await splice.ended
    await asyncio.sleep(0)


async def test_bytes_arrive_in_order_and_whole_both_ways(line: Line) -> None:
    ears = Ears()
    transport = await line.dial(ears)
    guest = await line.guest()
    assert guest.transport is not None
    up, down = bytes(range(256)) * 2_000, bytes(reversed(range(256))) * 3_000
    for start in range(0, len(up), 70_001):
        transport.write(up[start : start + 70_001])
    guest.transport.write(down)
    assert await guest.until(len(up)) == up
    assert await ears.until(len(down)) == down
    assert line.sources == ["192.0.2.7"]
    transport.abort()


async def test_what_was_written_before_a_close_arrives(line: Line) -> None:
    ears = Ears()
    transport = await line.dial(ears)
    guest = await line.guest()
    transport.write(b"x" * 500_000)
    transport.close()
    assert len(await guest.until(500_000)) == 500_000
    assert await asyncio.wait_for(guest.lost, 5) is None
    assert guest.ended
    assert await asyncio.wait_for(ears.lost, 5) is None


async def test_what_a_broker_wrote_before_it_closed_arrives(line: Line) -> None:
    ears = Ears()
    await line.dial(ears)
    guest = await line.guest()
    assert guest.transport is not None
    guest.transport.write(b"x" * 500_000)
    guest.transport.close()
    assert len(await ears.until(500_000)) == 500_000
    assert await asyncio.wait_for(ears.lost, 5) is None
    assert ears.ended


async def test_a_cut_by_the_broker_is_heard_as_an_error(line: Line) -> None:
    ears = Ears()
    await line.dial(ears)
    guest = await line.guest()
    assert guest.transport is not None
    guest.transport.abort()
    error = await asyncio.wait_for(ears.lost, 5)
    assert isinstance(error, UnavailableError)
    assert "gRPC stream was lost" in error.diagnostic()


async def test_a_cut_by_the_bridge_ends_the_brokers_side(line: Line) -> None:
    transport = await line.dial(Ears())
    guest = await line.guest()
    transport.abort()
    await asyncio.wait_for(guest.lost, 5)
    assert guest.transport is not None
    assert guest.transport.is_closing()


async def test_a_reader_that_pauses_stops_the_writer(line: Line) -> None:
    ears = Ears()
    transport = await line.dial(ears)
    guest = await line.guest()
    assert guest.transport is not None
    guest.transport.pause_reading()
    written = 0
    while written < 64 * 1024 * 1024 and not bool(ears.full):
        transport.write(b"x" * 65_536)
        written += 65_536
        await asyncio.sleep(0)
    assert bool(ears.full)
    assert transport.get_write_buffer_size() <= HIGH_WATER + 65_536
    assert len(guest.heard) <= 65_536
    guest.transport.resume_reading()
    await guest.until(written)
    assert not bool(ears.full)
    transport.abort()


async def test_nobody_answers_is_one_line_that_says_so(line: Line) -> None:
    credentials = outer_credentials(str(line.files.ca))
    with pytest.raises(UnavailableError) as raised:
        await dial_grpc(Address("127.0.0.1", 1), credentials, Ears())
    assert "connection refused" in raised.value.diagnostic().lower()
    assert "127.0.0.1:1" in raised.value.diagnostic()


async def test_another_name_than_the_certificates_is_refused(line: Line) -> None:
    with pytest.raises(UnavailableError) as raised:
        await line.dial(Ears(), "localhost")
    assert "no gRPC stream" in raised.value.diagnostic()
    assert not line.guests


async def test_a_ca_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(ConfigError, match=r"ca\.pem"):
        outer_credentials(str(tmp_path / "ca.pem"))


async def test_a_message_that_is_too_long_or_none_of_ours_ends_its_stream_alone(line: Line) -> None:
    credentials = outer_credentials(str(line.files.ca))
    options = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.secure_channel(f"127.0.0.1:{line.port}", credentials, options=options) as channel:
        for message in (b"\x0b garbage", b"x" * (MAX_MESSAGE + 1), b"x" * 8_000_000):
            line.arrived.clear()
            call: Any = channel.stream_stream(METHOD)()
            await call.write(message)
            guest = await line.guest()
            await asyncio.wait_for(guest.lost, 5)
            assert not guest.heard
            assert await call.code() is not grpc.StatusCode.OK
        line.arrived.clear()
        call = channel.stream_stream(METHOD)()
        await call.write(encode(b"still here"))
        assert await (await line.guest()).until(10) == b"still here"
        call.cancel()


async def test_another_method_is_unknown_and_said_to_be_no_broker(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cloudtaser.net import grpc_client

    monkeypatch.setattr(grpc_client, "METHOD", "/somebody.Else/Method")
    error = await line.failure()
    assert "no cloudtaser broker" in error.diagnostic()


async def test_who_comes_in_past_the_door_is_sent_away(line: Line) -> None:
    async with grpc.aio.insecure_channel(f"unix-abstract:{line.server._name}") as channel:
        call: Any = channel.stream_stream(METHOD)()
        assert await asyncio.wait_for(call.code(), 5) is grpc.StatusCode.PERMISSION_DENIED
    assert not line.guests


async def test_more_streams_than_allowed_are_refused(line: Line) -> None:
    ears = [Ears() for _ in range(8)]
    transports = [await line.dial(each) for each in ears]
    await line.failure()
    assert len(line.guests) == 8
    for transport in transports:
        transport.abort()
    await asyncio.wait_for(asyncio.gather(*(each.lost for each in ears)), 5)


async def test_a_dial_that_takes_too_long_leaves_nothing(line: Line) -> None:
    dials = [Ears()]
    silent = await asyncio.get_running_loop().create_server(lambda: dials[0], "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    credentials = outer_credentials(str(line.files.ca))
    with pytest.raises(UnavailableError, match=r"within 0\.2 s"):
        await dial_grpc(Address("127.0.0.1", port), credentials, Ears(), timeout=0.2)
    silent.close()
    await asyncio.wait_for(dials[0].lost, 5)


def test_a_status_is_told_in_a_line() -> None:
    text = "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: refused\nx\x1b[31m"
    assert in_words("UNAVAILABLE", text) == "ipv4:127.0.0.1:1: refused x [31m"
    assert in_words("INTERNAL", "") == "gRPC status INTERNAL"
    assert len(in_words("INTERNAL", "y" * 10_000)) < 200
