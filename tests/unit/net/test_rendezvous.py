"""meet() waits as long as the beacon lives and no longer, and loses no byte of the other side's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import pytest

from cloudtaser.errors import ProtocolError, UnavailableError
from cloudtaser.net import tls
from cloudtaser.net.dial import Address
from cloudtaser.net.ends import NOWHERE
from cloudtaser.net.layers import TlsLayer
from cloudtaser.net.rendezvous import BeaconRefusedError, StayOverError, meet
from cloudtaser.wire.rendezvous import HELLO_SIZE, MATCHED, PARKED, Hello, Refusal, Role, encode_refusal
from tests.unit.net import parties
from tests.unit.net.wires import Recorder

ROOM = bytes(range(32))
CLIENT = tls.beacon_client(None, True)


class Visit(asyncio.Protocol):
    """The beacon's side of one connection: calls `act` with the hello, passes on once it has a partner."""

    def __init__(self, act: Callable[[Visit, Hello], None]) -> None:
        self.act = act
        self.data = b""
        self.partner: Visit | None = None
        self.transport: asyncio.Transport = NOWHERE
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.partner is not None:
            self.partner.transport.write(data)
            return
        self.data += data
        if len(self.data) == HELLO_SIZE:
            self.act(self, Hello.decode(self.data))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


@asynccontextmanager
async def beacon(act: Callable[[Visit, Hello], None]) -> AsyncIterator[tuple[Address, list[Visit]]]:
    context = tls.pod_server(parties.tunnel_ca().issue(names=["localhost"]))
    visits: list[Visit] = []

    def accept() -> asyncio.Protocol:
        visits.append(Visit(act))
        return TlsLayer(context, visits[-1], server_side=True)

    server = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0)
    try:
        yield Address("127.0.0.1", server.sockets[0].getsockname()[1]), visits
    finally:
        server.close()
        for visit in visits:
            visit.transport.abort()
        await server.wait_closed()


def pairing() -> Callable[[Visit, Hello], None]:
    waiting: dict[Role, Visit] = {}

    def act(visit: Visit, hello: Hello) -> None:
        assert hello.room == ROOM
        other = waiting.get(Role.BRIDGE if hello.role == Role.BROKER else Role.BROKER)
        if other is None:
            waiting[hello.role] = visit
            visit.transport.write(PARKED)
            return
        visit.partner, other.partner = other, visit
        for matched in (visit, other):
            matched.transport.write(MATCHED)

    return act


async def test_two_sides_of_a_room_get_a_connection_with_each_other() -> None:
    async with beacon(pairing()) as (address, _):
        a, b = Recorder(), Recorder()
        parked = asyncio.Event()
        first = asyncio.ensure_future(meet(address, Role.BRIDGE, ROOM, CLIENT, a, on_parked=parked.set))
        await parked.wait()
        assert not first.done()
        transport = await meet(address, Role.BROKER, ROOM, CLIENT, b)
        assert transport is b.transport
        assert await first is a.transport
        a.transport.write(b"from the bridge")
        b.transport.write(b"from the broker")
        assert await b.received(15) == b"from the bridge"
        assert await a.received(15) == b"from the broker"
        a.transport.close()
        b.transport.close()


async def test_bytes_that_come_with_the_match_are_delivered_once() -> None:
    def act(visit: Visit, hello: Hello) -> None:
        visit.transport.write(PARKED + MATCHED + b"W M early")
        visit.transport.write(b" and on")

    async with beacon(act) as (address, _):
        end = Recorder()
        await meet(address, Role.BRIDGE, ROOM, CLIENT, end)
        assert await end.received(16) == b"W M early and on"
        await asyncio.sleep(0.01)
        assert len(end.data) == 16
        end.transport.close()


async def test_a_layer_of_tls_starts_right_at_the_match() -> None:
    async with beacon(pairing()) as (address, _):
        bridge, broker = Recorder(), Recorder()
        trusted = [parties.tunnel_ca().pem]
        client = TlsLayer(tls.tunnel_client(parties.bridge(), trusted), bridge, server_side=False)
        server = TlsLayer(tls.tunnel_server(parties.broker(), trusted), broker, server_side=True)
        await asyncio.gather(
            meet(address, Role.BRIDGE, ROOM, CLIENT, client), meet(address, Role.BROKER, ROOM, CLIENT, server)
        )
        await asyncio.gather(client.handshake, server.handshake)
        bridge.transport.write(b"inner")
        assert await broker.received(5) == b"inner"
        bridge.transport.close()
        await asyncio.gather(bridge.lost, broker.lost)


@pytest.mark.parametrize("refusal", list(Refusal))
@pytest.mark.parametrize(("retry_ms", "seconds"), [(0, None), (1500, 1.5)])
async def test_a_refusal_is_typed_and_says_when_to_come_back(
    refusal: Refusal, retry_ms: int, seconds: float | None
) -> None:
    def act(visit: Visit, hello: Hello) -> None:
        visit.transport.write(encode_refusal(refusal, retry_ms))
        visit.transport.close()

    async with beacon(act) as (address, _):
        with pytest.raises(BeaconRefusedError) as caught:
            await meet(address, Role.BRIDGE, ROOM, CLIENT, Recorder())
        assert (caught.value.refusal, caught.value.retry_after) == (refusal, seconds)
        assert str(address) in caught.value.diagnostic()


async def test_a_beacon_that_falls_silent_is_dead() -> None:
    async with beacon(lambda visit, _: visit.transport.write(PARKED)) as (address, visits):
        end = Recorder()
        with pytest.raises(UnavailableError, match=r"silent for 0\.1 s"):
            await meet(address, Role.BRIDGE, ROOM, CLIENT, end, parked_timeout=0.1)
        await visits[0].lost.wait()
        assert not end.made.is_set()


async def test_a_beacon_that_keeps_speaking_is_waited_for() -> None:
    def act(visit: Visit, hello: Hello) -> None:
        loop = asyncio.get_running_loop()
        for turn in range(10):
            loop.call_later(turn * 0.05, visit.transport.write, PARKED)
        loop.call_later(0.5, visit.transport.write, MATCHED)

    async with beacon(act) as (address, _):
        parked: list[None] = []
        end = Recorder()
        await meet(
            address, Role.BRIDGE, ROOM, CLIENT, end, parked_timeout=0.3, on_parked=lambda: parked.append(None)
        )
        assert parked == [None]
        end.transport.close()


async def test_at_a_fleet_a_party_comes_anew_and_elsewhere_it_stays() -> None:
    async with beacon(pairing()) as (address, visits):
        fleet = Address("localhost", address.port, wildcard=True)
        loop = asyncio.get_running_loop()
        parked: list[float] = []
        with pytest.raises(StayOverError):
            await meet(
                fleet,
                Role.BRIDGE,
                ROOM,
                CLIENT,
                Recorder(),
                stay=0.2,
                on_parked=lambda: parked.append(loop.time()),
            )
        assert loop.time() - parked[0] > 0.09  # uvloop counts in whole milliseconds
        async with asyncio.timeout(30):
            await visits[0].lost.wait()
        stays = asyncio.ensure_future(meet(address, Role.BRIDGE, ROOM, CLIENT, Recorder(), stay=0.01))
        done, _ = await asyncio.wait([stays], timeout=0.1)
        assert not done
        stays.cancel()


async def test_a_match_ends_the_stay() -> None:
    async with beacon(pairing()) as (address, _):
        fleet = Address("localhost", address.port, wildcard=True)
        a, b = Recorder(), Recorder()
        parked = asyncio.Event()
        first = asyncio.ensure_future(
            meet(fleet, Role.BRIDGE, ROOM, CLIENT, a, stay=0.1, on_parked=parked.set)
        )
        await parked.wait()
        await meet(address, Role.BROKER, ROOM, CLIENT, b)
        await first
        await asyncio.wait([a.lost], timeout=0.2)
        b.transport.write(b"still here")
        assert await a.received(10) == b"still here"
        a.transport.close()
        b.transport.close()


async def test_a_beacon_that_never_answers_the_hello_is_given_up() -> None:
    async with beacon(lambda *_: None) as (address, _):
        with pytest.raises(UnavailableError, match=r"silent for 0\.05 s"):
            await meet(address, Role.BRIDGE, ROOM, CLIENT, Recorder(), answer_timeout=0.05)


async def test_a_beacon_that_hangs_up_or_babbles_is_an_error_of_one_line() -> None:
    async with beacon(lambda visit, _: visit.transport.close()) as (address, _):
        with pytest.raises(UnavailableError, match="closed the connection"):
            await meet(address, Role.BRIDGE, ROOM, CLIENT, Recorder())
    async with beacon(lambda visit, _: visit.transport.write(b"HTTP/1.1 400")) as (address, _):
        with pytest.raises((ProtocolError, BeaconRefusedError)):
            await meet(address, Role.BRIDGE, ROOM, CLIENT, Recorder())


async def test_a_beacon_whose_certificate_is_not_trusted_hears_nothing_of_the_room() -> None:
    async with beacon(pairing()) as (address, visits):
        with pytest.raises(ProtocolError, match="certificate verify failed"):
            await meet(address, Role.BRIDGE, ROOM, tls.beacon_client(None, False), Recorder())
        assert [visit.data for visit in visits] == [b""]


async def test_cancelling_leaves_the_room() -> None:
    parked = asyncio.Event()
    async with beacon(lambda visit, _: visit.transport.write(PARKED)) as (address, visits):
        waiting = asyncio.ensure_future(
            meet(address, Role.BRIDGE, ROOM, CLIENT, Recorder(), on_parked=parked.set)
        )
        await parked.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await visits[0].lost.wait()
