"""A bridge reaches this cluster's API server through a stream, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import cast

import pytest

from cloudtaser.net.dial import Address
from cloudtaser.net.tunnel import Tunnel
from cloudtaser.operator.apiserver import ApiServerStreams
from cloudtaser.operator.metrics import Metrics
from cloudtaser.operator.tunnels import Link
from cloudtaser.wire.opening import Kind, Opening
from tests.unit.operator.rig import Echo, eventually, refuse_all


class Rig:
    def __init__(self) -> None:
        self.metrics = Metrics()
        self.closers: list[asyncio.Server] = []
        self.streams: ApiServerStreams
        self.broker: Tunnel
        self.bridge: Tunnel

    async def start(self, *, limit: int = 4, listening: bool = True) -> None:
        loop = asyncio.get_running_loop()
        api = await loop.create_server(Echo, "127.0.0.1", 0)
        self.closers.append(api)
        port = api.sockets[0].getsockname()[1]
        if not listening:
            api.close()
        self.streams = ApiServerStreams(Address("127.0.0.1", port), self.metrics, limit=limit)
        link = cast("Link", SimpleNamespace(bridge="b1"))
        self.broker = Tunnel(False, lambda opening, stream: self.streams.accept(link, opening, stream))
        server = await loop.create_server(lambda: self.broker, "127.0.0.1", 0)
        self.closers.append(server)
        port = server.sockets[0].getsockname()[1]
        _, self.bridge = await loop.create_connection(lambda: Tunnel(True, refuse_all), "127.0.0.1", port)
        await self.broker.established

    def ask(self, kind: Kind = Kind.APISERVER) -> Echo:
        protocol = Echo(quiet=True)
        self.bridge.open(Opening(kind), protocol)
        assert protocol.transport is not None
        protocol.transport.write(b"ClientHello")
        return protocol

    def count(self, outcome: str) -> float:
        name = "cloudtaser_operator_apiserver_streams_total"
        return self.metrics.registry.get_sample_value(name, {"outcome": outcome}) or 0.0

    async def stop(self) -> None:
        await self.streams.close()
        for tunnel in (self.broker, self.bridge):
            tunnel.abort()
            await tunnel.closed
        for server in self.closers:
            server.close()


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    await rig.stop()


async def test_bytes_pass_to_the_api_server_and_back(rig: Rig) -> None:
    await rig.start()
    stream = rig.ask()
    await eventually(lambda: stream.heard == b"ClientHello", "echoed")
    assert stream.transport is not None
    stream.transport.close()
    assert await asyncio.wait_for(stream.lost, 5) is None
    assert rig.count("ok") == 1


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.APISERVER])
async def test_a_bridge_may_open_no_other_kind(rig: Rig, kind: Kind) -> None:
    await rig.start()
    assert await asyncio.wait_for(rig.ask(kind).lost, 5) is not None
    assert rig.count("refused") == 1
    assert rig.count("ok") == 0


async def test_streams_are_bounded_and_a_place_becomes_free(rig: Rig) -> None:
    await rig.start(limit=2)
    kept = [rig.ask(), rig.ask()]
    await eventually(lambda: rig.count("ok") == 2, "two are open")
    assert await asyncio.wait_for(rig.ask().lost, 5) is not None
    assert kept[0].transport is not None
    kept[0].transport.close()
    await asyncio.wait_for(kept[0].lost, 5)
    again = rig.ask()
    await eventually(lambda: again.heard == b"ClientHello", "a new one gets in")


async def test_an_api_server_that_is_away_resets_the_stream(rig: Rig) -> None:
    await rig.start(listening=False)
    assert await asyncio.wait_for(rig.ask().lost, 5) is not None
    assert rig.count("failed") == 1
