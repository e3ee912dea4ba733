"""What reaches broker and bridge at a pod's port and is no pod's client: other TLS, other protocols, too much
of everything. Each costs its own connection."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from cloudtaser.demo import setup
from cloudtaser.demo.chain import Chain
from cloudtaser.openbao.client import OpenBao
from cloudtaser.wire import names
from cloudtaser.wire.hashes import pod_ca_label
from tests.chain_attackers import raw_pod
from tests.chain_tools import pod_client

pytestmark = pytest.mark.asyncio(loop_scope="session")

ELSEWHERE = ("127.0.0.3", 0)
"""Another pod's address than that of the other tests."""
REQUEST = b"GET /v1/sys/health HTTP/1.1\r\nHost: x\r\n"


@pytest_asyncio.fixture(loop_scope="session", autouse=True)
async def _served_before_and_after(chain: Chain, admin: OpenBao) -> AsyncIterator[None]:
    await setup.write_secret(admin, "shop/served", {"value": "served"})
    await reads(chain)
    yield
    await reads(chain)


async def reads(chain: Chain) -> None:
    async with asyncio.timeout(10):
        with pod_client(chain) as client:
            await client.login(chain.pod("shop").token_file.read_text())
            assert (await client.request("GET", "/v1/secret/data/shop/served"))[0] == 200


def context(chain: Chain) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.load_verify_locations(cadata=chain.pod_ca())
    return made


def server_name(chain: Chain) -> str:
    return f"{pod_ca_label(ssl.PEM_cert_to_DER_cert(chain.pod_ca()))}.{names.BRIDGE_NAME}"


@contextlib.asynccontextmanager
async def connect(
    chain: Chain, tls: ssl.SSLContext | None = None, name: str | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", chain.ports.broker, ssl=tls, server_hostname=name, local_addr=ELSEWHERE
        )
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_a_client_that_asks_for_another_name_sees_that_it_is_not_it(chain: Chain) -> None:
    for name in ("evil.example", "operator.cloudtaser.internal"):
        with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
            async with connect(chain, context(chain), name):
                pass


async def test_a_pod_that_pins_a_ca_which_is_not_served_is_told_so(chain: Chain) -> None:
    for label in ("00000000", "x.y", "*"):
        with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
            async with connect(chain, context(chain), f"{label}.bridge.cloudtaser.internal"):
                pass


async def test_a_client_that_names_nobody_is_served_as_anybody(chain: Chain) -> None:
    tls = context(chain)
    tls.check_hostname = False
    async with connect(chain, tls, "") as (reader, writer), asyncio.timeout(10):
        writer.write(b"GET /v1/secret/data/shop/served HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 403")


async def test_nothing_older_than_tls_1_3_is_spoken_and_no_other_protocol_agreed(chain: Chain) -> None:
    old = context(chain)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        async with connect(chain, old, server_name(chain)):
            pass
    h2 = context(chain)
    h2.set_alpn_protocols(["h2", "http/1.1"])
    async with connect(chain, h2, server_name(chain)) as (reader, writer), asyncio.timeout(10):
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() is None
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
        said = await reader.read()
    assert re.match(rb"HTTP/1\.1 [45]\d\d ", said)
    assert said.count(b"HTTP/1.1 4") == 1, "and nothing is read behind it"


@pytest.mark.parametrize(
    "data",
    [
        REQUEST + b"\r\n",
        b"\x16\x03\x01\xff\xff" + b"\x01" * 70_000,
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"\x00" * 10_000,
        b"SSH-2.0-OpenSSH\r\n",
        b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n" + REQUEST,
        b"\x16\x03\x01\x00\x01\x01" * 3000,
    ],
    ids=["http", "huge record", "alert", "zeros", "ssh", "proxy protocol", "crumbs"],
)
async def test_what_is_no_tls_gets_no_answer_of_its_own(chain: Chain, data: bytes) -> None:
    async with connect(chain) as (reader, writer), asyncio.timeout(15):
        writer.write(data)
        try:
            said = await reader.read()
        except ConnectionError:
            said = b""
    assert not said or said[0] in (0x15, 0x16), "TLS's own words at most"
    assert len(said) < 200


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (REQUEST + b"X: " + b"a" * 20_000 + b"\r\n\r\n", b"431"),
        (REQUEST + b"X: y\r\n" * 200 + b"\r\n", b"431"),
        (b"GET /v1/" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"414"),
        (b"GET /v1/" + b"a" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"414"),
        (b"G" * 20_000, b"4"),
        (b"\r\n" * 10_000, b"4"),
        (b"GET /v1/x HTTP/9.9\r\nHost: x\r\n\r\n", b"[45]"),
        (b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n", b"4"),
        (b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1073741824\r\n\r\n", b"413"),
    ],
    ids=["one header", "many headers", "target", "path", "method", "line ends", "version", "length", "body"],
)
async def test_a_head_beyond_its_bounds_is_refused(chain: Chain, head: bytes, status: bytes) -> None:
    async with raw_pod(chain) as pod:
        pod.writer.write(head)
        async with asyncio.timeout(15):
            said = await pod.reader.readuntil(b"\r\n")
    assert re.match(rb"HTTP/1\.1 " + status, said), said


@pytest.mark.slow
async def test_a_hundred_heads_that_never_end_keep_nobody_waiting(chain: Chain) -> None:
    async with contextlib.AsyncExitStack() as stack:
        pods = []
        for _ in range(100):
            slow = connect(chain, context(chain), server_name(chain))
            reader, writer = await stack.enter_async_context(slow)
            writer.write(REQUEST + b"X: ")
            pods.append(reader)
        for _ in range(3):
            await reads(chain)
        async with asyncio.timeout(20):  # ten seconds for a head, however slowly it comes
            await asyncio.gather(*(reader.read() for reader in pods), return_exceptions=True)


async def test_one_pod_takes_its_share_of_the_broker_and_no_more(chain: Chain) -> None:
    """Half a thousand connections that say nothing; another pod is let in at once."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(500):
            with contextlib.suppress(ConnectionError):
                await stack.enter_async_context(connect(chain))
        await reads(chain)
