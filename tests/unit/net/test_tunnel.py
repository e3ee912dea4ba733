"""A tunnel carries many streams, each like a connection of its own, and none at the expense of another."""

from __future__ import annotations

import asyncio
import os

import pytest

from cloudtaser.errors import CloudtaserError, ProtocolError, UnavailableError
from cloudtaser.net.stream import HIGH_WATER, StreamResetError, TunnelStream
from cloudtaser.net.tunnel import Tunnel
from cloudtaser.wire.opening import Kind, Opening
from tests.unit.net.wires import Recorder, Wire, plug

POD = Opening(Kind.POD, "10.0.0.7:51324", "c1")


class Side:
    """One side of a tunnel that accepts everything, and keeps what it accepted."""

    def __init__(self, client: bool, **options: object) -> None:
        self.accepted: list[tuple[Opening, Recorder]] = []
        self.news = asyncio.Event()
        self.echo = False
        self.half_open = False
        self.tunnel = Tunnel(client, self.accept, **options)  # type: ignore[arg-type]  # test shorthand

    def accept(self, opening: Opening, stream: TunnelStream) -> asyncio.Protocol | None:
        recorder = Recorder(echo=self.echo, half_open=self.half_open)
        self.accepted.append((opening, recorder))
        self.news.set()
        return recorder

    async def nth(self, number: int) -> Recorder:
        while len(self.accepted) <= number:
            self.news.clear()
            await self.news.wait()
        return self.accepted[number][1]


def connect(**options: object) -> tuple[Side, Side, Wire, Wire]:
    """Bridge's side, broker's side, and the wire between them."""
    bridge, broker = Side(True, **options), Side(False, **options)
    return bridge, broker, *plug(bridge.tunnel, broker.tunnel)


async def test_a_stream_delivers_both_ways_and_ends_cleanly() -> None:
    bridge, broker, *_ = connect()
    near = Recorder()
    stream = broker.tunnel.open(POD, near)
    far = await bridge.nth(0)
    assert bridge.accepted[0][0] == POD
    near_data, far_data = os.urandom(1_000_000), os.urandom(700_000)
    await asyncio.gather(near.send(near_data), far.send(far_data))
    assert await far.received(len(near_data)) == near_data
    assert await near.received(len(far_data)) == far_data
    stream.close()
    assert await near.lost is None
    assert await far.lost is None
    assert (broker.tunnel.active, bridge.tunnel.active) == (0, 0)
