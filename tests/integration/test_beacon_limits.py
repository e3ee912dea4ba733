"""Every limit of a beacon, provoked: what the party is told, and what the metric says."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from cloudtaser.beacon.door import Door
from cloudtaser.beacon.server import Beacon
from cloudtaser.wire.rendezvous import Hello
from tests.integration.beacon_peer import BRIDGE, BROKER, Peer, metric, pair, running

ROOM = bytes(range(32))


async def hits(beacon: Beacon, limit: str) -> float:
    return await metric(beacon.metrics_address, f'limit_hits_total{{limit="{limit}"}}')


async def ended(sock: socket.socket) -> bool:
    """Whether the next that comes is the end, by FIN or by reset."""
    try:
        return await asyncio.get_running_loop().sock_recv(sock, 100) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n",
        b"CTB2",
        b"C" * 40,
        b"CTB1\x03\x00\x00\x00" + ROOM,
        b"CTB1\x00\x00\x00\x00" + ROOM,
        b"CTB1\x01\x00\x00\x01" + ROOM,
        os.urandom(8000),
    ],
)
async def test_a_bad_hello_is_answered_with_h(tmp_path: Path, said: bytes) -> None:
    async with running(tmp_path) as beacon:
        peer = await Peer.connect(beacon.addresses[0])
        await peer.send(said)
        assert await peer.rest() == b"H\0\0"
        assert await metric(beacon.metrics_address, 'refused_total{reason="bad_hello"}') == 1


async def test_a_hello_in_single_bytes_is_a_hello(tmp_path: Path) -> None:
    async with running(tmp_path) as beacon:
        peer = await Peer.connect(beacon.addresses[0])
        for byte in Hello(BRIDGE, ROOM).encode():
            await peer.send(bytes([byte]))
        assert await peer.exactly(1) == b"W"


async def test_no_hello_in_time(tmp_path: Path) -> None:
    async with running(tmp_path, hello_timeout=0.2) as beacon:
        silent = await Peer.connect(beacon.addresses[0])
        slow = await Peer.connect(beacon.addresses[0])
        for byte in b"CTB1\x01":
            await slow.send(bytes([byte]))
        assert await silent.rest() == b"H\0\0"
        assert await slow.rest() == b"H\0\0"
        assert await hits(beacon, "hello-timeout") == 2


async def test_no_handshake_in_time(tmp_path: Path) -> None:
    async with running(tmp_path, handshake_timeout=0.2) as beacon:
        loop = asyncio.get_running_loop()
        silent, slow = socket.socket(), socket.socket()
        for sock in (silent, slow):
            sock.setblocking(False)
            await loop.sock_connect(sock, beacon.addresses[0])
        await loop.sock_sendall(slow, b"\x16\x03\x01\x02\x00\x01")  # a ClientHello's beginning
        async with asyncio.timeout(10):
            assert await loop.sock_recv(silent, 100) == b""
            assert await ended(slow)
        silent.close()
        slow.close()
        assert await hits(beacon, "handshake-timeout") == 2
        assert not beacon.links


async def test_what_is_no_tls_is_dropped(tmp_path: Path) -> None:
    async with running(tmp_path) as beacon:
        reader, writer = await asyncio.open_connection(*beacon.addresses[0])
        writer.write(b"GET / HTTP/1.1\r\nHost: beacon\r\n\r\n")
        async with asyncio.timeout(10):
            await reader.read()
        writer.close()
        assert await metric(beacon.metrics_address, 'handshakes_total{result="failed"}') == 1


async def test_a_room_is_full(tmp_path: Path) -> None:
    async with running(tmp_path, max_parked_per_room=2) as beacon:
        kept = [await Peer.visit(beacon.addresses[0], BRIDGE, ROOM) for _ in range(2)]
        for peer in kept:
            assert await peer.exactly(1) == b"W"
        third = await Peer.visit(beacon.addresses[0], BRIDGE, ROOM)
        assert await third.rest() == b"F\0\0"
        assert third.clean
        assert await hits(beacon, "max-parked-per-room") == 1


async def test_the_beacon_is_full(tmp_path: Path) -> None:
    async with running(tmp_path, max_parked=1) as beacon:
        kept = await Peer.visit(beacon.addresses[0], BRIDGE, ROOM)
        assert await kept.exactly(1) == b"W"
        other = await Peer.visit(beacon.addresses[0], BRIDGE, os.urandom(32))
        assert await other.rest() == b"F\0\0"
        assert await hits(beacon, "max-parked") == 1


async def test_all_pairs_are_taken(tmp_path: Path) -> None:
    async with running(tmp_path, max_pairs=1) as beacon:
        bridge, broker = await pair(beacon.addresses[0])
        waiting = await Peer.visit(beacon.addresses[0], BRIDGE, ROOM)
        assert await waiting.exactly(1) == b"W"
        refused = await Peer.visit(beacon.addresses[0], BROKER, ROOM)
        assert await refused.rest() == b"F\0\0"
        assert await hits(beacon, "max-pairs") == 1
        bridge.close()
        assert await broker.rest() == b""
        broker.close()
        again = await Peer.visit(beacon.addresses[0], BROKER, ROOM)
        assert await again.exactly(1) == b"M"
        assert await waiting.exactly(1) == b"M"


async def test_parked_too_long(tmp_path: Path) -> None:
    async with running(tmp_path, max_parked_age=0.2) as beacon:
        peer = await Peer.visit(beacon.addresses[0], BRIDGE, ROOM)
        assert await peer.rest() == b"WT\0\0"
        assert peer.clean
        assert await hits(beacon, "max-parked-age") == 1


async def test_too_many_new_connections_from_one_source(tmp_path: Path) -> None:
    async with running(tmp_path, source_rate=0.02, source_burst=3) as beacon:
        kept = [await Peer.visit(beacon.addresses[0], BRIDGE, ROOM) for _ in range(3)]
        for peer in kept:
            assert await peer.exactly(1) == b"W"
        fourth = await Peer.visit(beacon.addresses[0], BRIDGE, ROOM)
        answer = await fourth.rest()
        assert answer[:1] == b"R"
        assert 0 < int.from_bytes(answer[1:], "big") <= 50_000
        assert await hits(beacon, "source-rate") == 1


async def test_who_is_far_over_the_rate_costs_no_handshake(tmp_path: Path) -> None:
    async with running(tmp_path, source_rate=0.1, source_burst=1) as beacon:
        while (
            beacon.entrance._courtesy.admit("", 1e9) == 0
        ):  # the handshakes that refusals may cost in a second
            pass
        await Peer.connect(beacon.addresses[0])
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            await Peer.connect(beacon.addresses[0])
        assert await hits(beacon, "source-rate") == 1


@pytest.mark.parametrize("when", ["with the hello", "while parked"])
async def test_more_than_four_kib_before_the_match(tmp_path: Path, when: str) -> None:
    async with running(tmp_path) as beacon:
        if when == "with the hello":
            peer = await Peer.visit(beacon.addresses[0], BRIDGE, ROOM, b"x" * 4097)
        else:
            peer = await Peer.visit(beacon.addresses[0], BRIDGE, ROOM, b"x" * 4096)
            assert await peer.exactly(1) == b"W"
            await peer.send(b"x")
        assert await peer.rest() == b"H\0\0"
        assert await hits(beacon, "early-bytes") == 1
        assert beacon.rooms.parked == 0


async def test_exactly_four_kib_are_kept(tmp_path: Path) -> None:
    async with running(tmp_path) as beacon:
        early = os.urandom(4096)
        bridge = await Peer.visit(beacon.addresses[0], BRIDGE, ROOM, early)
        assert await bridge.exactly(1) == b"W"
        broker = await Peer.visit(beacon.addresses[0], BROKER, ROOM)
        assert await broker.exactly(4097) == b"M" + early


async def test_an_idle_pair_is_ended_and_a_busy_one_is_not(tmp_path: Path) -> None:
    async with running(tmp_path, pair_idle=0.4) as beacon:
        bridge, broker = await pair(beacon.addresses[0])
        busy_bridge, busy_broker = await pair(beacon.addresses[0])

        async def chat() -> None:
            while True:
                await busy_bridge.send(b"x")
                await busy_broker.exactly(1)
                await asyncio.sleep(0.02)

        chatting = asyncio.create_task(chat())
        assert await broker.rest() == b""
        assert await bridge.rest() == b""
        assert await hits(beacon, "pair-idle") == 1
        assert beacon.rooms.pairs == 1
        assert not chatting.done()
        chatting.cancel()


async def test_a_half_closed_pair_has_less_patience(tmp_path: Path) -> None:
    async with running(tmp_path, half_closed_idle=0.2) as beacon:
        bridge, broker = await pair(beacon.addresses[0])
        await bridge.half_close()
        assert await broker.rest() == b""
        assert broker.clean
        assert await bridge.rest() == b""
        assert await hits(beacon, "half-closed-idle") == 1


async def test_a_direction_holds_one_buffer_and_then_waits(tmp_path: Path) -> None:
    async with running(tmp_path, buffer=65_536) as beacon:
        bridge, broker = await pair(beacon.addresses[0])
        sent = 0
        async with asyncio.timeout(20):
            while await hits(beacon, "buffer") == 0:
                try:
                    bridge.tls.write(bytes(16_384))
                    await asyncio.wait_for(bridge.flush(), 1)
                    sent += 16_384
                except TimeoutError:
                    break
        held = await metric(beacon.metrics_address, "buffered_bytes")
        assert 0 < held < 65_536 * 1.1
        for link in beacon.links:
            assert link.pending is None or len(link.pending) < 65_536 * 1.1
        assert await broker.exactly(sent) == bytes(sent)
        assert await metric(beacon.metrics_address, "buffered_bytes") == 0


async def test_more_connections_than_descriptors_are_closed_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as beacon:
        beacon.max_links = 2
        kept = [await Peer.connect(beacon.addresses[0]) for _ in range(2)]
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            await Peer.connect(beacon.addresses[0])
        assert await hits(beacon, "descriptors") == 1
        assert len(kept) == len(beacon.links)


async def test_out_of_descriptors_the_door_is_shut_and_does_not_spin() -> None:
    class NoMore(socket.socket):
        tries = 0

        def accept(self) -> NoReturn:
            NoMore.tries += 1
            raise OSError(errno.EMFILE, "Too many open files")

    told = asyncio.Event()
    door = Door(lambda *_: None, lambda _: told.set())
    await door.bind([("127.0.0.1", 0)], 30)
    real = door._listeners[0]
    door._listeners[0] = NoMore(fileno=real.detach())
    door.open()
    client = socket.socket()
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, door.addresses[0])
    async with asyncio.timeout(10):
        await told.wait()
    for _ in range(100):
        await asyncio.sleep(0)
    assert (NoMore.tries, door.is_open) == (1, False)
    door.open()
    for _ in range(100):
        await asyncio.sleep(0)
    assert NoMore.tries == 2
    client.close()
    door.close()


async def test_every_limit_has_a_value_and_a_count(tmp_path: Path) -> None:
    async with running(tmp_path) as beacon:
        for name in ("handshake-timeout", "max-pairs", "source-burst", "descriptors", "pair-idle"):
            assert await metric(beacon.metrics_address, f'limit{{limit="{name}"}}') > 0
            assert await hits(beacon, name) == 0
        assert replace(beacon.config, max_pairs=3).max_pairs == 3
