"""Dialling for one room: spares are replaced, guests are seen through or shown out, leaving leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from cloudtaser.bridge.parker import Parker
from cloudtaser.errors import CloudtaserError, UnavailableError
from cloudtaser.net.rendezvous import BeaconRefusedError
from cloudtaser.wire.rendezvous import Refusal


class Line(asyncio.Transport):
    """A matched connection; hands its protocol over as TlsLayer does."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: asyncio.BaseProtocol | None = None
        self.aborted = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def abort(self) -> None:
        self.aborted = True


class Beacon:
    """A door: every visit waits until the test decides."""

    def __init__(self) -> None:
        self.kind = "beacon"
        self.visits: list[Visit] = []
        self.arrived = asyncio.Event()

    async def meet(
        self, room: bytes, protocol: asyncio.Protocol, on_parked: Callable[[], None]
    ) -> asyncio.Transport:
        assert room == b"room"
        visit = Visit(protocol, on_parked)
        self.visits.append(visit)
        self.arrived.set()
        try:
            return await visit.outcome
        except asyncio.CancelledError:
            visit.cancelled = True
            raise

    async def count(self, number: int) -> None:
        async with asyncio.timeout(30):
            while len(self.visits) < number:
                self.arrived.clear()
                await self.arrived.wait()


class Visit:
    def __init__(self, protocol: asyncio.Protocol, on_parked: Callable[[], None]) -> None:
        self.protocol = protocol
        self.on_parked = on_parked
        self.outcome: asyncio.Future[asyncio.Transport] = asyncio.get_running_loop().create_future()
        self.cancelled = False
        self.line = Line()

    def match(self, early: bytes = b"") -> None:
        self.protocol.connection_made(self.line)
        if early:
            self.protocol.data_received(early)
        self.outcome.set_result(self.line)


class Guest:
    def __init__(self) -> None:
        self.protocol = Ears()
        self.outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.received = asyncio.Event()

    async def receive(self) -> None:
        self.received.set()
        await self.outcome


class Ears(asyncio.Protocol):
    def __init__(self) -> None:
        self.heard = b""

    def data_received(self, data: bytes) -> None:
        self.heard += data


class House:
    def __init__(self) -> None:
        self.beacon = Beacon()
        self.guests: list[Guest] = []
        self.unreachable: list[CloudtaserError] = []
        self.told = asyncio.Event()
        self.parker = Parker(
            b"room",
            [self.beacon],
            self._invite,
            on_unreachable=lambda _, error: self.unreachable.append(error),
            on_parked=lambda _: None,
            on_failed=self._failed,
        )

    def _failed(self, _: CloudtaserError) -> None:
        self.told.set()

    async def finished(self) -> None:
        """Until nobody is on the way in or out."""
        async with asyncio.timeout(30):
            await asyncio.wait(self.parker._visits)
        await asyncio.sleep(0)
        assert not self.parker.busy

    def _invite(self) -> Guest:
        self.guests.append(Guest())
        return self.guests[-1]


@pytest.fixture
async def house() -> AsyncIterator[House]:
    made = House()
    made.parker.start()
    await made.beacon.count(2)
    yield made
    await made.parker.close()


async def test_a_match_is_replaced_before_its_handshake_is_done(house: House) -> None:
    first = house.beacon.visits[0]
    first.on_parked()
    assert house.parker.parked == 1
    first.match(b"early")
    await house.beacon.count(3)
    (guest,) = house.guests
    assert guest.protocol.heard == b"early"
    assert first.line.protocol is guest.protocol
    assert not guest.outcome.done()


async def test_a_guest_that_fails_is_shown_out_and_counted(house: House) -> None:
    visit = house.beacon.visits[0]
    visit.match()
    await house.beacon.count(3)
    await house.guests[0].received.wait()
    house.guests[0].outcome.set_exception(UnavailableError("no handshake within 5 s"))
    async with asyncio.timeout(30):
        await house.told.wait()
    assert visit.line.aborted


async def test_a_refused_spare_comes_back_when_the_beacon_says_so(house: House) -> None:
    for visit in list(house.beacon.visits):
        visit.outcome.set_exception(BeaconRefusedError(Refusal.SHUTTING_DOWN, 20, "beacon"))
    await house.beacon.count(3)
    assert len(house.unreachable) == 2


async def test_leaving_the_room_lets_guests_finish(house: House) -> None:
    house.beacon.visits[0].match()
    await house.beacon.count(3)
    house.parker.leave()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [visit.cancelled for visit in house.beacon.visits] == [False, True, True]
    assert house.parker.busy
    house.guests[0].outcome.set_result(None)
    await house.finished()
    assert len(house.beacon.visits) == 3


async def test_closing_shows_every_guest_out(house: House) -> None:
    visit = house.beacon.visits[0]
    visit.match()
    await house.beacon.count(3)
    await house.guests[0].received.wait()
    await house.parker.close()
    assert visit.line.aborted
    assert not house.parker.busy
