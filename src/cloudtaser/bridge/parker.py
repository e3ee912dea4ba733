"""Dials what `parking` asks for, and receives whoever is met.

Used by `station`, one for each room that its cluster needs. Holds one small task for each spare and nothing
else while nothing happens: what a match needs is made at the match (`invite`), with the certificate of that
moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from cloudtaser.bridge.background import Background
from cloudtaser.bridge.doors import Door
from cloudtaser.bridge.parking import Parking, Party, Stage
from cloudtaser.errors import CloudtaserError
from cloudtaser.net.rendezvous import BeaconRefusedError, StayOverError


class Guest(Protocol):
    """Whoever was met, as far as this bridge's side of it goes."""

    @property
    def protocol(self) -> asyncio.Protocol:
        """What takes the connection's bytes."""

    async def receive(self) -> None:
        """See the guest through its handshake, and a bootstrap to its end. CloudtaserError when it fails."""


class Parker:
    """Keeps the spares of one room parked."""

    def __init__(
        self,
        room: bytes,
        doors: Sequence[Door],
        invite: Callable[[], Guest],
        *,
        on_unreachable: Callable[[Door, CloudtaserError], None],
        on_parked: Callable[[Door], None],
        on_failed: Callable[[CloudtaserError], None],
    ) -> None:
        """`invite` is called at each match. `on_parked`: a door took us in, or we met somebody at once.
        `on_failed`: a guest did not get through its handshake."""
        self._loop = asyncio.get_running_loop()
        self._room = room
        self._doors = doors
        self._invite = invite
        self._on_unreachable = on_unreachable
        self._on_parked = on_parked
        self._on_failed = on_failed
        self._parking = Parking(len(doors))
        self._background = Background("bridge.parker")
        self._visits: dict[asyncio.Task[None], Party] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def parked(self) -> int:
        """Spares that a beacon or broker has confirmed."""
        return self._parking.parked

    @property
    def busy(self) -> bool:
        """Whether anybody is still on the way in or out."""
        return bool(self._visits)

    def lonely_for(self) -> float | None:
        """Seconds since which nobody was met, if that is a minute or more."""
        now = self._loop.time()
        since = self._parking.lonely_since(now)
        return None if since is None else now - since

    def start(self) -> None:
        """Dial what is missing."""
        self._fill()

    def leave(self) -> None:
        """Leave the room; guests that were met already are seen through."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for visit, party in self._visits.items():
            if party.stage is not Stage.MATCHED:
                visit.cancel()

    async def close(self) -> None:
        """Leave the room and show every guest out."""
        self.leave()
        await self._background.close()

    def _fill(self) -> None:
        if self._closed:
            return
        now = self._loop.time()
        for party in self._parking.begin(now):
            visit = self._background.start(self._visit(party))
            self._visits[visit] = party
            visit.add_done_callback(self._visits.pop)
        if self._timer is not None:
            self._timer.cancel()
        due = self._parking.next_due(now)
        self._timer = None if due is None else self._loop.call_at(due, self._fill)

    async def _visit(self, party: Party) -> None:
        seat = _Seat(self._invite)
        door = self._doors[party.lane]
        try:
            transport = await door.meet(self._room, seat, partial(self._took_in, party, door))
        except StayOverError:
            self._parking.came_anew(party)
            self._fill()
            return
        except CloudtaserError as error:
            retry_after = error.retry_after if isinstance(error, BeaconRefusedError) else None
            self._parking.failed(party, self._loop.time(), retry_after)
            self._on_unreachable(door, error)
            self._fill()
            return
        self._parking.matched(party, self._loop.time())
        self._on_parked(door)
        self._fill()
        try:
            assert seat.guest is not None
            await seat.guest.receive()
        except CloudtaserError as error:
            transport.abort()
            self._on_failed(error)
        except asyncio.CancelledError:
            transport.abort()
            raise
        finally:
            self._parking.done(party)
            self._fill()

    def _took_in(self, party: Party, door: Door) -> None:
        self._parking.took_in(party, self._loop.time())
        self._on_parked(door)
        self._fill()


class _Seat(asyncio.Protocol):
    """Keeps a place in the room; the guest's own protocol takes over at the match."""

    __slots__ = ("_invite", "guest")

    def __init__(self, invite: Callable[[], Guest]) -> None:
        self._invite = invite
        self.guest: Guest | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.guest = self._invite()
        transport.set_protocol(self.guest.protocol)
        self.guest.protocol.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """The first bytes, which came with the match."""
        assert self.guest is not None
        self.guest.protocol.data_received(data)
