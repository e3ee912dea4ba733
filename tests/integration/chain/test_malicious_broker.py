"""A broker with a certificate of the cluster, or a pod without any, that wants the bridge to break: it may
cut off itself, and nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec

from cloudtaser.demo import setup
from cloudtaser.demo.chain import Chain
from cloudtaser.errors import CloudtaserError
from cloudtaser.net.frames import NoiseDialogue
from cloudtaser.net.stream import TunnelStream
from cloudtaser.net.tunnel import Tunnel
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.pki import PkiRole
from cloudtaser.wire.bootstrap import Mode, Refusal, ReturnRequest, decode_answer, derive_psk, prologue
from cloudtaser.wire.names import broker_uri
from cloudtaser.wire.noise import Channel
from cloudtaser.wire.opening import Kind, Opening
from tests.chain_attackers import (
    Heard,
    administrator,
    certified,
    join_as_broker,
    leaf,
    raw_pod,
    rooms,
)
from tests.chain_tools import pod_client
from tests.unit.bridge.scripted_operator import csr_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

HEADER = struct.Struct("!BBHII")
DATA, WINDOW, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8


@pytest_asyncio.fixture(loop_scope="session")
async def honest(chain: Chain, admin: OpenBao) -> AsyncIterator[None]:
    """Whatever a test does, the true broker's pods read before it, and after it."""
    await setup.write_secret(admin, "shop/honest", {"value": "still here"})
    await reads(chain)
    yield
    await reads(chain)


async def reads(chain: Chain) -> None:
    async with asyncio.timeout(10):
        with pod_client(chain) as client:
            await client.login(chain.pod("shop").token_file.read_text())
            status, body = await client.request("GET", "/v1/secret/data/shop/honest")
    assert status == 200
    assert b"still here" in body


class Rogue:
    """A tunnel of our own to the bridge."""

    def __init__(self) -> None:
        self.asked: list[Opening] = []
        self.tunnel = Tunnel(False, self._accept)

    def _accept(self, opening: Opening, stream: TunnelStream) -> asyncio.Protocol | None:
        self.asked.append(opening)
        return None

    def open(self, kind: Kind, first: bytes = b"", **fields: str) -> Heard:
        heard = Heard(first)
        self.tunnel.open(Opening(kind, **fields), heard)
        return heard


async def rogue_of(chain: Chain, instance: str = "rogue") -> Rogue:
    identity, _ = await leaf(chain, PkiRole.BROKER, broker_uri(chain.fingerprint, instance))
    rogue = Rogue()
    await join_as_broker(chain, identity, rogue.tunnel)
    async with asyncio.timeout(10):
        await rogue.tunnel.established
    return rogue


@pytest.mark.usefixtures("honest")
async def test_kinds_that_are_not_a_brokers_are_reset(chain: Chain) -> None:
    rogue = await rogue_of(chain)
    async with asyncio.timeout(30):
        assert await rogue.open(Kind.APISERVER, b"GET / HTTP/1.1\r\n\r\n").lost is not None
    assert not rogue.tunnel.closed.done()
    rogue.tunnel.abort()


@pytest.mark.usefixtures("honest")
async def test_bytes_that_are_no_tls_end_their_stream_only(chain: Chain) -> None:
    rogue = await rogue_of(chain)
    garbage = [
        b"GET /v1/sys/health HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(64),
        b"\x16\x03\x01\xff\xff" + bytes(70_000),
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
        bytes(5000),
        b"\x80\x2e\x01\x00\x02",
        b"SSH-2.0-x\r\n",
    ]
    streams = [rogue.open(kind, data) for data in garbage for kind in (Kind.POD, Kind.OPERATOR, Kind.ADMIN)]
    streams += [rogue.open(Kind.RENEW, data) for data in garbage]
    async with asyncio.timeout(20):
        await asyncio.gather(*(stream.ended for stream in streams))
    assert not rogue.tunnel.closed.done()
    rogue.tunnel.abort()


@pytest.mark.usefixtures("honest")
async def test_a_certificate_alone_renews_nothing(chain: Chain) -> None:
    """Without the operator's ServiceAccount there is no token for the channel."""
    rogue = await rogue_of(chain)
    before = certified(chain)
    room = rooms(chain)[1]
    key = ec.generate_private_key(ec.SECP256R1())
    for token in (chain.pod("shop").token_file.read_text(), chain.apiserver.operator_token_file.read_text()):
        dialogue = NoiseDialogue(
            Channel.initiator(derive_psk(chain.fingerprint), prologue(room, Mode.RETURN))
        )
        rogue.tunnel.open(Opening(Kind.RENEW), dialogue)
        await dialogue.establish(5)
        await dialogue.receive(5)
        dialogue.send(ReturnRequest(chain.fingerprint, csr_of(key), token).encode())
        answer = decode_answer(await dialogue.receive(10))
        dialogue.close()
        assert isinstance(answer, Refusal)
        assert answer.error == "denied"
    assert certified(chain) == before
    rogue.tunnel.abort()


@pytest.mark.usefixtures("honest")
@pytest.mark.parametrize(
    "flood",
    [b"\x00" * 100_000, b'{"type":"keys"}\n' * 1000, b"{" * 4097, b'{"type":"version","version":7}\n' * 500],
    ids=["zeros", "hints", "braces", "versions"],
)
async def test_garbage_on_the_control_stream_costs_that_stream(chain: Chain, flood: bytes) -> None:
    rogue = await rogue_of(chain)
    asked = sum("/openid/v1/jwks" in line for line in chain.apiserver.audit)
    control = rogue.open(Kind.CONTROL, flood)
    async with asyncio.timeout(10):
        assert await control.lost is not None
    assert not rogue.tunnel.closed.done()
    assert sum("/openid/v1/jwks" in line for line in chain.apiserver.audit) - asked <= 1
    rogue.tunnel.abort()


@pytest.mark.usefixtures("honest")
async def test_thousands_of_streams_of_one_broker_leave_room_for_the_others(chain: Chain) -> None:
    rogue = await rogue_of(chain)
    streams = []
    for number in range(6000):
        try:
            # a record that never becomes whole: each waits for its handshake
            streams.append(
                rogue.open(Kind.POD, b"\x16\x03\x01\x02\x00", peer=f"10.0.{number >> 8}.{number & 255}:1")
            )
        except CloudtaserError:
            break
    assert len(streams) >= 4000
    await reads(chain)
    async with asyncio.timeout(30):
        await asyncio.gather(*(stream.ended for stream in streams))
    rogue.tunnel.abort()


def resident(pid: int) -> int:
    """Bytes of a process in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096


@pytest.mark.usefixtures("honest")
async def test_a_revoked_certificate_loses_its_tunnel_and_gets_no_other(chain: Chain) -> None:
    identity, issued = await leaf(chain, PkiRole.BROKER, broker_uri(chain.fingerprint, "stolen"))
    rogue = Rogue()
    await join_as_broker(chain, identity, rogue.tunnel)
    async with asyncio.timeout(10):
        await rogue.tunnel.established
    async with administrator(chain) as client:
        path = f"state/data/clusters/{chain.fingerprint}/revoked"
        body = {"data": {"serials": [issued.serial]}, "options": {"cas": 0}}
        await client.request("POST", path, namespace="cloudtaser", body=body)
    async with asyncio.timeout(10):
        await rogue.tunnel.closed
    again = Rogue()
    layer = await join_as_broker(chain, identity, again.tunnel)
    async with asyncio.timeout(10):
        await again.tunnel.closed
    assert again.tunnel.error is not None
    layer.abort()


class RawYamux(asyncio.Protocol):
    """The tunnel's bytes themselves."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.writable = asyncio.Event()
        self.writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(HEADER.pack(0, PING, SYN, 0, 1))

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.writable.set()
        if not self.lost.done():
            self.lost.set_result(None)


def opening(stream: int) -> bytes:
    line = Opening(Kind.POD, peer="10.0.0.9:9").encode()
    return HEADER.pack(0, DATA, SYN, stream, len(line)) + line


@pytest.mark.usefixtures("honest")
@pytest.mark.parametrize(
    "abuse",
    [
        HEADER.pack(1, DATA, 0, 0, 0),
        HEADER.pack(0, 9, 0, 0, 0),
        HEADER.pack(0, DATA, SYN, 1, 0),
        HEADER.pack(0, PING, SYN, 7, 0),
        HEADER.pack(0, DATA, SYN, 2, 0xFFFFFFFF),
        opening(2) + HEADER.pack(0, DATA, 0, 2, 262_145),
        opening(2) + opening(2),
        opening(2) + HEADER.pack(0, WINDOW, 0, 2, 0xFFFFFFFF) * 2,
        HEADER.pack(0, GO_AWAY, 0, 0, 2),
    ],
    ids=[
        "version",
        "type",
        "parity",
        "ping on a stream",
        "huge frame",
        "window overrun",
        "opened twice",
        "window overflow",
        "go-away with an error",
    ],
)
async def test_yamux_that_breaks_the_rules_ends_its_own_tunnel(chain: Chain, abuse: bytes) -> None:
    identity, _ = await leaf(chain, PkiRole.BROKER, broker_uri(chain.fingerprint, "rogue"))
    raw = RawYamux()
    await join_as_broker(chain, identity, raw)
    assert raw.transport is not None
    raw.transport.write(abuse + bytes(2048))
    async with asyncio.timeout(10):
        await raw.lost


@pytest.mark.usefixtures("honest")
async def test_a_broker_that_asks_without_end_and_never_listens_is_cut_off(chain: Chain) -> None:
    """Each ping is owed an answer; who reads none must not fill the bridge's memory."""
    assert chain.bridge is not None
    identity, _ = await leaf(chain, PkiRole.BROKER, broker_uri(chain.fingerprint, "rogue"))
    raw = RawYamux()
    await join_as_broker(chain, identity, raw)
    transport = raw.transport
    assert transport is not None
    transport.pause_reading()
    pings = HEADER.pack(0, PING, SYN, 0, 7) * 4096
    sent = 0
    before = resident(chain.bridge.pid)
    async with asyncio.timeout(60):
        while not raw.lost.done() and sent < 200 << 20:
            transport.write(pings)
            sent += len(pings)
            await asyncio.sleep(0)
            await raw.writable.wait()
    grown = resident(chain.bridge.pid) - before
    assert raw.lost.done() or grown < 32 << 20, f"the bridge grew by {grown >> 20} MiB for {sent >> 20} MiB"
    transport.abort()


@pytest.mark.usefixtures("honest")
@pytest.mark.parametrize("begun", [1, 50_000])
async def test_slow_uploads_of_one_pod_leave_openbao_to_the_others(chain: Chain, begun: int) -> None:
    """A pod without any right begins a hundred writes and ends none of them."""
    head = b"POST /v1/secret/data/shop/x HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n"
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(100):
            pod = await stack.enter_async_context(raw_pod(chain))
            pod.writer.write(head + b"a" * begun)
            await pod.writer.drain()
        for _ in range(5):
            await reads(chain)
