"""A beacon and real TLS: parties meet, bytes pass both ways exactly once, ends are passed on."""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import ssl
from collections import defaultdict
from pathlib import Path

import pytest

from cloudtaser.beacon.log import Log
from cloudtaser.wire.rendezvous import Hello
from tests.integration.beacon_peer import BRIDGE, BROKER, Peer, metric, pair, running

ROOM = bytes(range(32))


async def test_two_meet_and_early_bytes_arrive_exactly_once(tmp_path: Path) -> None:
    async with running(tmp_path) as beacon:
        bridge = await Peer.visit(beacon.addresses[0], BRIDGE, ROOM, b"first ")
        assert await bridge.exactly(1) == b"W"
        await bridge.send(b"second ")
        broker = await Peer.visit(beacon.addresses[0], BROKER, ROOM, b"hello from the broker")
        await bridge.send(b"third")
        assert await broker.exactly(19) == b"Mfirst second third"
        assert await bridge.exactly(22) == b"Mhello from the broker"
        await bridge.half_close()
        await broker.half_close()
        assert await broker.rest() == b""
        assert await bridge.rest() == b""


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_half_close_is_passed_on_and_the_other_way_stays_open(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    async with running(tmp_path) as beacon:
        bridge = await Peer.connect(beacon.addresses[0], version)
        await bridge.send(Hello(BRIDGE, ROOM).encode())
        await bridge.exactly(1)
        broker = await Peer.visit(beacon.addresses[0], BROKER, ROOM)
        await bridge.exactly(1)
        await broker.exactly(1)
        await bridge.send(b"question")
        await bridge.half_close()
        assert await broker.rest() == b"question"
        assert broker.clean
        answer = os.urandom(300_000)
        await broker.send(answer)
        await broker.half_close()
        assert await bridge.rest() == answer
        assert bridge.clean
        assert await metric(beacon.metrics_address, 'pairs_ended_total{reason="finished"}') == 1
        assert beacon.rooms.pairs == 0


async def test_an_end_without_goodbye_is_passed_on_as_such(tmp_path: Path) -> None:
    async with running(tmp_path) as beacon:
        bridge, broker = await pair(beacon.addresses[0])
        await bridge.send(b"last words")
        bridge.close()
        assert await broker.rest() == b"last words"
        assert not broker.clean


async def test_a_reset_ends_the_pair(tmp_path: Path) -> None:
    async with running(tmp_path) as beacon:
        bridge, broker = await pair(beacon.addresses[0])
        bridge.reset()
        assert await broker.rest() == b""
        assert not broker.clean
        assert await metric(beacon.metrics_address, 'pairs_ended_total{reason="reset"}') == 1


async def test_bytes_that_are_no_tls_end_the_pair(tmp_path: Path) -> None:
    async with running(tmp_path) as beacon:
        bridge, broker = await pair(beacon.addresses[0])
        other_bridge, other_broker = await pair(beacon.addresses[0])
        await bridge.loop.sock_sendall(bridge.sock, os.urandom(50_000))
        assert await broker.rest() == b""
        assert await metric(beacon.metrics_address, 'pairs_ended_total{reason="broken"}') == 1
        await other_bridge.send(b"still here")
        assert await other_broker.exactly(10) == b"still here"


async def test_many_pairs_at_once_get_their_own_bytes_and_only_those(tmp_path: Path) -> None:
    async with running(tmp_path) as beacon:
        rng = random.Random(7)
        pairs = [await pair(beacon.addresses[0]) for _ in range(12)]

        async def talk(one: Peer, other: Peer, data: bytes) -> bool:
            async def write() -> None:
                position = 0
                while position < len(data):
                    size = rng.choice((1, 17, 1400, 16_000, 40_000))
                    one.tls.write(data[position : position + size])
                    position += size
                    raw = one.outgoing.read()
                    cut = rng.randrange(len(raw) + 1)  # records end up in pieces
                    for piece in (raw[:cut], raw[cut:]):
                        await one.loop.sock_sendall(one.sock, piece)
                        await asyncio.sleep(0)
                await one.half_close()

            writing = asyncio.create_task(write())
            got = await other.rest()
            await writing
            return got == data

        talks = [
            talk(*ends, os.urandom(rng.randrange(400_000)))
            for bridge, broker in pairs
            for ends in ((bridge, broker), (broker, bridge))
        ]
        assert all(await asyncio.gather(*talks))
        assert beacon.rooms.pairs == 0


async def test_a_parked_party_that_left_is_never_matched(tmp_path: Path) -> None:
    async with running(tmp_path) as beacon:
        for leave in ("close_notify", "fin", "reset"):
            gone = await Peer.visit(beacon.addresses[0], BRIDGE, ROOM)
            await gone.exactly(1)
            if leave == "close_notify":
                await gone.half_close()
            elif leave == "fin":
                gone.close()
            else:
                gone.reset()
        broker = await Peer.visit(beacon.addresses[0], BROKER, ROOM)
        assert await broker.exactly(1) == b"W"
        bridge = await Peer.visit(beacon.addresses[0], BRIDGE, ROOM)
        assert await bridge.exactly(1) == b"M"


async def test_one_that_leaves_in_the_moment_of_the_match_is_passed_over(tmp_path: Path) -> None:
    """Its goodbye is in the socket, not yet read, when the other side's hello is."""
    async with running(tmp_path) as beacon:
        leaving = await Peer.visit(beacon.addresses[0], BRIDGE, ROOM)
        await leaving.exactly(1)
        staying = await Peer.visit(beacon.addresses[0], BRIDGE, ROOM)
        await staying.exactly(1)
        broker = await Peer.connect(beacon.addresses[0])
        broker.tls.write(Hello(BROKER, ROOM).encode())
        # both without giving the beacon, which runs on this loop, a turn in between; the hello first
        broker.sock.send(broker.outgoing.read())
        leaving.close()
        assert await broker.exactly(1) == b"M"
        assert await staying.exactly(1) == b"M"


async def test_the_parked_are_reminded(tmp_path: Path) -> None:
    async with running(tmp_path, remind_every=0.05) as beacon:
        bridge = await Peer.visit(beacon.addresses[0], BRIDGE, ROOM)
        assert await bridge.exactly(5) == b"WWWWW"


async def test_a_tap_sees_each_side_and_room(tmp_path: Path) -> None:
    seen: dict[tuple[str, bytes], bytes] = defaultdict(bytes)

    def tap(side: str, room: bytes, data: memoryview) -> None:
        seen[side, room] += bytes(data)

    async with running(tmp_path) as beacon:
        beacon.pump._tap = tap
        bridge = await Peer.visit(beacon.addresses[0], BRIDGE, ROOM, b"early ")
        await bridge.exactly(1)
        broker = await Peer.visit(beacon.addresses[0], BROKER, ROOM)
        await bridge.send(b"late")
        assert await broker.exactly(11) == b"Mearly late"
        await broker.send(b"answer")
        assert await bridge.exactly(7) == b"Manswer"
    assert seen == {("bridge", ROOM): b"early late", ("broker", ROOM): b"answer"}


async def test_no_log_line_holds_a_hash_or_a_payload(tmp_path: Path) -> None:
    stream = io.StringIO()
    rooms = [os.urandom(32) for _ in range(4)]
    async with running(tmp_path, Log("debug", stream), max_parked_per_room=1) as beacon:
        for room in rooms:
            bridge = await Peer.visit(beacon.addresses[0], BRIDGE, room, b"CANARY-EARLY")
            second = await Peer.visit(beacon.addresses[0], BRIDGE, room)
            broker = await Peer.visit(beacon.addresses[0], BROKER, room)
            await broker.exactly(13)
            await bridge.send(b"CANARY-LATE")
            await broker.exactly(11)
            for peer in (bridge, second, broker):
                peer.close()
        bad = await Peer.connect(beacon.addresses[0])
        await bad.send(b"CANARY-GARBAGE")
        await bad.rest()
        await beacon.drain(5)
    text = stream.getvalue()
    events = {json.loads(line)["event"] for line in text.splitlines()}
    assert {"listening", "matched", "pair ended", "bad hello", "draining"} <= events
    assert "CANARY" not in text
    for room in rooms:
        assert room[:4].hex() in text
        assert room[:5].hex() not in text
        assert room.hex()[8:24] not in text
