"""TlsLayer keeps what its module promises, over TCP, over itself, over a wire in memory."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from cloudtaser.errors import CloudtaserError, ProtocolError, UnavailableError
from cloudtaser.net import tls
from cloudtaser.net.layers import HIGH_WATER, TlsLayer
from tests.unit.net import parties
from tests.unit.net.wires import Recorder, Wire, plug


def client(upper: asyncio.Protocol, **options: object) -> TlsLayer:
    context = tls.tunnel_client(parties.bridge(), [parties.tunnel_ca().pem])
    return TlsLayer(context, upper, server_side=False, **options)  # type: ignore[arg-type]  # test shorthand


def server(upper: asyncio.Protocol, **options: object) -> TlsLayer:
    context = tls.tunnel_server(parties.broker(), [parties.tunnel_ca().pem])
    return TlsLayer(context, upper, server_side=True, **options)  # type: ignore[arg-type]  # test shorthand


@asynccontextmanager
async def over_tcp(
    make_client: Callable[[], asyncio.Protocol], make_server: Callable[[], asyncio.Protocol]
) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(make_server, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    transport, _ = await loop.create_connection(make_client, "127.0.0.1", port)
    try:
        yield
    finally:
        transport.abort()
        listener.close()
        await listener.wait_closed()


async def pair(*, half_open: bool = False) -> tuple[Recorder, Recorder, Wire, Wire]:
    """Two recorders that talk through TLS over a wire in memory."""
    a, b = Recorder(half_open=half_open), Recorder(half_open=half_open)
    one, two = plug(client(a), server(b))
    await asyncio.gather(a.made.wait(), b.made.wait())
    return a, b, one, two


@pytest.mark.parametrize("depth", [1, 2, 3])
async def test_what_is_written_arrives_in_order_over_any_number_of_layers(depth: int) -> None:
    a, b = Recorder(), Recorder()
    upper, lower = client(a), server(b)
    for _ in range(depth - 1):
        upper, lower = client(upper), server(lower)
    async with over_tcp(lambda: upper, lambda: lower):
        await b.made.wait()
        data = os.urandom(3_000_000)
        await asyncio.gather(a.send(data), b.send(data[::-1]))
        assert await b.received(len(data)) == data
        assert await a.received(len(data)) == data[::-1]
        a.transport.close()
        assert await b.lost is None
        assert await a.lost is None
    assert (a.losses, b.losses) == (1, 1)
