"""Connections from a balancer count as those it speaks for; nobody else can choose whom he is counted as."""

from __future__ import annotations

import asyncio
import io
import ipaddress
import json
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudtaser.beacon.entrance import listed
from cloudtaser.beacon.log import Log
from cloudtaser.beacon.proxy_header import SIGNATURE
from cloudtaser.beacon.server import Beacon
from tests.integration.beacon_peer import BRIDGE, BROKER, Peer, metric, pair, running

ROOM = bytes(range(32))
HERE = (ipaddress.ip_network("127.0.0.0/8"),)
ELSEWHERE = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("2001:db8::/32"))


def header(source: str) -> bytes:
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    addresses = socket.inet_pton(family, source) * 2 + struct.pack("!HH", 40000, 443)
    kind = 0x21 if ":" in source else 0x11
    return SIGNATURE + bytes((0x21, kind)) + struct.pack("!H", len(addresses)) + addresses


LOCAL = SIGNATURE + bytes((0x20, 0, 0, 0))


async def headers(beacon: Beacon, result: str) -> float:
    return await metric(beacon.metrics_address, f'proxy_headers_total{{result="{result}"}}')


async def hits(beacon: Beacon, limit: str) -> float:
    return await metric(beacon.metrics_address, f'limit_hits_total{{limit="{limit}"}}')


async def raw(beacon: Beacon) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, beacon.addresses[0])
    return sock


async def ended(sock: socket.socket) -> bool:
    async with asyncio.timeout(10):
        try:
            return await asyncio.get_running_loop().sock_recv(sock, 100) == b""
        except ConnectionResetError:
            return True


@pytest.mark.parametrize("piecewise", [False, True])
async def test_two_parties_meet_behind_a_balancer(tmp_path: Path, piecewise: bool) -> None:
    written = io.StringIO()
    async with running(tmp_path, Log("info", written), proxy_protocol_from=HERE) as beacon:
        address = beacon.addresses[0]
        bridge = await Peer.visit(address, BRIDGE, ROOM, preamble=header("203.0.113.9"), piecewise=piecewise)
        assert await bridge.exactly(1) == b"W"
        broker = await Peer.visit(address, BROKER, ROOM, preamble=header("2001:db8:1:2::9"))
        assert await broker.exactly(1) == b"M"
        assert await bridge.exactly(1) == b"M"
        await bridge.send(b"through")
        assert await broker.exactly(7) == b"through"
        assert await headers(beacon, "ok") == 2
    matched = next(
        line for line in map(json.loads, written.getvalue().splitlines()) if line["event"] == "matched"
    )
    assert matched["bridge"] == "203.0.113.0/24"
    assert matched["broker"] == "2001:0db8:0001::/48"


async def test_the_rate_counts_for_whom_the_balancer_names(tmp_path: Path) -> None:
    async with running(tmp_path, proxy_protocol_from=HERE, source_rate=0.02, source_burst=2) as beacon:
        address = beacon.addresses[0]
        for _ in range(2):
            one = await Peer.visit(address, BRIDGE, ROOM, preamble=header("203.0.113.9"))
            assert await one.exactly(1) == b"W"
        third = await Peer.visit(address, BRIDGE, ROOM, preamble=header("203.0.113.9"))
        assert (await third.rest())[:1] == b"R"
        other = await Peer.visit(address, BRIDGE, ROOM, preamble=header("203.0.113.10"))
        assert await other.exactly(1) == b"W"
        assert await hits(beacon, "source-rate") == 1


async def test_a_source_has_a_number_of_connections_at_a_time_and_gets_them_back(tmp_path: Path) -> None:
    async with running(tmp_path, max_per_source=2, linger=0.1) as beacon:
        bridge, broker = await pair(beacon.addresses[0])
        third = await Peer.visit(beacon.addresses[0], BRIDGE, ROOM)
        assert await third.rest() == b"R\0\0"
        assert await hits(beacon, "max-per-source") == 1
        for peer in (third, bridge, broker):
            peer.close()
        await until(lambda: not beacon.links)
        fourth = await Peer.visit(beacon.addresses[0], BRIDGE, ROOM)
        assert await fourth.exactly(1) == b"W"


async def test_behind_a_balancer_each_source_has_its_own_number(tmp_path: Path) -> None:
    async with running(tmp_path, proxy_protocol_from=HERE, max_per_source=1) as beacon:
        address = beacon.addresses[0]
        for source, heard in (("203.0.113.9", b"W"), ("203.0.113.9", b"R"), ("203.0.113.10", b"W")):
            peer = await Peer.visit(address, BRIDGE, ROOM, preamble=header(source))
            assert await peer.exactly(1) == heard


async def test_a_header_from_elsewhere_is_broken_tls(tmp_path: Path) -> None:
    for networks in ((), ELSEWHERE):
        async with running(tmp_path, proxy_protocol_from=networks) as beacon:
            sock = await raw(beacon)
            await asyncio.get_running_loop().sock_sendall(sock, header("203.0.113.9"))
            async with asyncio.timeout(10):
                alert = await asyncio.get_running_loop().sock_recv(sock, 100)
            assert alert[:1] in (b"\x15", b"")
            sock.close()
            assert await metric(beacon.metrics_address, 'handshakes_total{result="failed"}') == 1
            assert await headers(beacon, "ok") == 0
            plain = await Peer.visit(beacon.addresses[0], BRIDGE, ROOM)
            assert await plain.exactly(1) == b"W"


@pytest.mark.parametrize(
    "said",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
        SIGNATURE + b"\x21\x11\xff\xff",
        b"\0",
    ],
)
async def test_a_balancers_connection_without_a_header_is_closed(tmp_path: Path, said: bytes) -> None:
    async with running(tmp_path, proxy_protocol_from=HERE) as beacon:
        sock = await raw(beacon)
        await asyncio.get_running_loop().sock_sendall(sock, said)
        assert await ended(sock)
        sock.close()
        assert await headers(beacon, "bad") == 1


async def test_a_header_that_does_not_come_costs_its_time_and_no_more(tmp_path: Path) -> None:
    async with running(tmp_path, proxy_protocol_from=HERE, handshake_timeout=0.2) as beacon:
        silent, slow = await raw(beacon), await raw(beacon)
        loop = asyncio.get_running_loop()
        sender = asyncio.ensure_future(trickle(slow, header("203.0.113.9")))
        assert await ended(silent)
        assert await ended(slow)
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)
        assert await headers(beacon, "late") == 2
        assert await hits(beacon, "handshake-timeout") == 2
        for sock in (silent, slow):
            loop.remove_reader(sock)
            sock.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # the beacon has no event for it
            await asyncio.sleep(0.005)


async def trickle(sock: socket.socket, data: bytes) -> None:
    for byte in data:
        await asyncio.get_running_loop().sock_sendall(sock, bytes([byte]))
        await asyncio.sleep(0.05)


async def test_waiting_headers_count_as_descriptors(tmp_path: Path) -> None:
    async with running(tmp_path, proxy_protocol_from=HERE) as beacon:
        beacon.max_links = 1
        first = await raw(beacon)
        await until(lambda: beacon.entrance.waiting == 1)
        second = await raw(beacon)
        assert await ended(second)
        assert await hits(beacon, "descriptors") == 1
        first.close()
        second.close()


async def test_a_balancers_own_connection_is_its_own(tmp_path: Path) -> None:
    async with running(tmp_path, proxy_protocol_from=HERE) as beacon:
        check = await raw(beacon)
        await asyncio.get_running_loop().sock_sendall(check, LOCAL)
        check.close()
        peer = await Peer.visit(beacon.addresses[0], BRIDGE, ROOM, preamble=LOCAL)
        assert await peer.exactly(1) == b"W"
        assert await headers(beacon, "local") == 2


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("11.1.2.3", False),
        ("2001:db8::1", True),
        ("2001:db9::1", False),
    ],
)
def test_an_address_is_on_the_list_however_the_kernel_writes_it(host: str, expected: bool) -> None:
    assert listed(host, ELSEWHERE) is expected
