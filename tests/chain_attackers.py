"""Attackers for the tests of the whole chain: a beacon under foreign control, parties with valid certificates
who misbehave, a pod that says what no client says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cloudtaser.demo.certificates import write_server_certificate
from cloudtaser.demo.chain import Chain
from cloudtaser.demo.command import program, run_command
from cloudtaser.net.dial import Address
from cloudtaser.net.layers import TlsLayer
from cloudtaser.net.rendezvous import meet
from cloudtaser.net.tls import Identity, beacon_client, tunnel_server
from cloudtaser.openbao import pki
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.layout import Space
from cloudtaser.openbao.pki import Issued, PkiRole
from cloudtaser.wire import names
from cloudtaser.wire.hashes import operational_room, pod_ca_label, return_room, short_fingerprint
from cloudtaser.wire.rendezvous import HELLO_SIZE, MATCHED, Hello, Role
from tests.integration.bridge_world import Pod


def administrator(chain: Chain) -> OpenBao:
    """OpenBao's administrator, in no namespace."""
    return OpenBao(chain.openbao.address, ca_file=chain.openbao.ca_file, token=chain.openbao.root_token)


def space_of(fingerprint: str) -> Space:
    """A registered cluster's corner of OpenBao."""
    fp8 = short_fingerprint(fingerprint)
    return Space(fp8, f"cloudtaser/{fp8}")


def tunnel_ca(chain: Chain) -> bytes:
    """The tunnel CA (PEM) as the operator pinned it."""
    data = chain.apiserver.config_map(names.SYSTEM_NAMESPACE, names.TRUST_CONFIGMAP)
    return data["tunnel-ca.crt"].encode()


def rooms(chain: Chain) -> tuple[bytes, bytes]:
    """Operational and return room."""
    der = x509.load_pem_x509_certificate(tunnel_ca(chain)).public_bytes(Encoding.DER)
    return operational_room(der), return_room(der)


async def leaf(chain: Chain, role: PkiRole, uri: str) -> tuple[Identity, Issued]:
    """A certificate under the cluster's tunnel CA, as whoever robbed a bridge or a broker would have it."""
    key, csr = pki.new_key()
    async with administrator(chain) as client:
        issued = await pki.sign(client, space_of(chain.fingerprint), role, csr, uris=(uri,))
    return Identity(issued.certificate_pem, key, issued.chain_pem), issued


async def failures(chain: Chain) -> int:
    """How many handshakes and other things failed so far, as the first bridge counts them."""
    command = [program("cloudtaser-bridge"), "status", "--status-socket", str(chain.bridge_socket)]
    return int(json.loads((await run_command(command, {})).output)["failures"])


def certified(chain: Chain) -> int:
    """How many broker certificates the first bridge has had signed."""
    assert chain.bridge is not None
    return chain.bridge.log.read_text().count("broker certified")


async def visit(
    chain: Chain, role: Role, room: bytes, protocol: asyncio.Protocol, *, beacon: str = ""
) -> asyncio.Transport:
    """Meet somebody in a room of the chain's beacon."""
    context = beacon_client(str(chain.beacon_ca), False)
    address = Address.parse(beacon or chain.beacon_address)
    async with asyncio.timeout(20):
        return await meet(address, role, room, context, protocol)


async def join_as_broker(chain: Chain, identity: Identity, upper: asyncio.Protocol) -> TlsLayer:
    """A tunnel to the bridge under a broker's certificate, with `upper` at our end of it."""
    layer = TlsLayer(tunnel_server(identity, [tunnel_ca(chain)]), upper, server_side=True)
    await visit(chain, Role.BROKER, rooms(chain)[0], layer)
    await layer.handshake
    return layer


class Heard(asyncio.Protocol):
    """Keeps what it is told, and says what it is given first."""

    def __init__(self, first: bytes = b"") -> None:
        self.first = first
        self.data = bytearray()
        self.transport: asyncio.Transport | None = None
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self.first:
            transport.write(self.first)

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> bool:
        if not self.ended.done():
            self.ended.set_result(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
        if not self.lost.done():
            self.lost.set_result(exc)


@contextlib.asynccontextmanager
async def raw_pod(chain: Chain, *, broker_port: int = 0, pod_ca: str = "") -> AsyncIterator[Pod]:
    """A pod's TLS to the bridge, with nothing between the test and the bytes."""
    ca = pod_ca or chain.pod_ca()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=ca)
    name = f"{pod_ca_label(ssl.PEM_cert_to_DER_cert(ca))}.{names.BRIDGE_NAME}"
    port = broker_port or chain.ports.broker
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    try:
        yield Pod(reader, writer)
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


Handler = Callable[[Hello, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class EvilBeacon:
    """Terminates TLS as a beacon does and does with each visitor what a test wants."""

    def __init__(self, address: str, ca: Path, server: asyncio.Server) -> None:
        self.address = address
        self.ca = ca
        self.arguments = ["--beacon-address", address, "--beacon-ca", str(ca)]
        self._server = server


@contextlib.asynccontextmanager
async def evil_beacon(directory: Path, handler: Handler) -> AsyncIterator[EvilBeacon]:
    """`handler` is called for each visitor once its hello was read; the connection closes after it."""
    files = write_server_certificate(directory, "evil", ["127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    visits: set[asyncio.Task[Any]] = set()

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        visits.add(task)
        try:
            hello = Hello.decode(await reader.readexactly(HELLO_SIZE))
            await handler(hello, reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            visits.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(receive, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    try:
        yield EvilBeacon(f"127.0.0.1:{port}", files.ca, server)
    finally:
        server.close()
        for task in visits:
            task.cancel()
        await asyncio.gather(*visits, return_exceptions=True)


async def frame(reader: asyncio.StreamReader) -> bytes:
    """One Noise message with its length before it."""
    length = await reader.readexactly(2)
    return length + await reader.readexactly(int.from_bytes(length))


def frames(data: bytes) -> list[bytes]:
    """A recording cut into its Noise messages."""
    found, position = [], 0
    while position + 2 <= len(data):
        end = position + 2 + int.from_bytes(data[position : position + 2])
        found.append(data[position:end])
        position = end
    return found


def match(writer: asyncio.StreamWriter) -> None:
    """Tell a visitor that it has met somebody."""
    writer.write(MATCHED)
