"""Reverse mode, the broker's side: bridges dial us, and find our seats in rooms of our own.

Made by `standalone` when there is a --reverse-listen; `beacons` waits here as it waits at a beacon. The rooms
are those of `wire.rooms`. There are those that this process waits in or holds a tunnel CA for; once there is
another than the init room, that one is closed for good. So a broker
that is not initialised answers the init hello only, and one that is never again (spec/wire.md, "Reverse
mode").
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from cloudtaser.errors import UnavailableError
from cloudtaser.net.log import get_logger
from cloudtaser.operator.enrolment import Reporter
from cloudtaser.operator.reverse_guest import Guest
from cloudtaser.operator.reverse_metrics import ReverseMetrics
from cloudtaser.wire.rendezvous import Hello, Refusal, Role
from cloudtaser.wire.rooms import Event, Matched, Parked, RoomLimits, Rooms, TurnedAway
from cloudtaser.wire.sources import blurred

SWEEP: Final = 1.0
"""Seconds between two looks for what is due."""
ROOMS_LIMIT: Final = 8
"""Rooms at a time: return and operational, of two tunnel CAs during a rotation, and one to spare."""
CLOSED_ROOM_RETRY: Final = 60_000
"""Milliseconds after which a bridge may ask again for the init room of an initialised cluster."""
ENROLLING_RETRY: Final = 500
"""Milliseconds after which a bridge may ask again for a room of a broker that is about to open its rooms."""
_HIDDEN: Final = "no such room"

_log = get_logger("operator.reverse")

P = TypeVar("P", bound=asyncio.Protocol)


@dataclass(frozen=True, slots=True)
class ReverseLimits:
    """What the reverse port holds at most. Times in seconds; rates of new connections for one source."""

    connections: int = 1024
    connections_per_source: int = 768
    source_rate: float = 50.0
    source_burst: int = 500
    hello_seconds: float = 5.0
    parked_per_room: int = 64
    parked: int = 512


@dataclass(eq=False, slots=True)
class _Waiter(Generic[P]):
    """One of our seats, waiting in a room."""

    make: Callable[[], P]
    met: asyncio.Future[tuple[asyncio.Transport, P, str]] = field(repr=False)

    @property
    def live(self) -> bool:
        return not self.met.done()


class Reverse:
    """The rooms of this broker, and everybody in them."""

    def __init__(self, init_room: bytes, limits: ReverseLimits, metrics: ReverseMetrics) -> None:
        self.hello_seconds = limits.hello_seconds
        self._init_room = init_room
        self._metrics = metrics
        self._rooms: Rooms[Guest | _Waiter[asyncio.Protocol]] = Rooms(
            RoomLimits(
                parked_per_room=limits.parked_per_room,
                parked=limits.parked,
                pairs=2**31,  # counted by whoever is met
                parked_age=float("inf"),
            )
        )
        self._served: dict[bytes, None] = {}
        self._guests: set[Guest] = set()
        self._reporter = Reporter()
        self._timer: asyncio.TimerHandle | None = None
        metrics.observe(parked=lambda: self._rooms.parked_as(Role.BRIDGE))

    # --- our seats

    async def match(self, room: bytes, make: Callable[[], P]) -> tuple[asyncio.Transport, P, str]:
        """Wait in `room` for a bridge that dials us: its connection, what `make` gave for it, and its source.

        Waits for ever. Cancelling it leaves the room.
        """
        loop = asyncio.get_running_loop()
        self.serve(room)
        waiter: _Waiter[P] = _Waiter(make, loop.create_future())
        self._act_on([self._rooms.arrive(waiter, Role.BROKER, room, loop.time(), _is_live)])  # type: ignore[arg-type]  # as a party it is only compared
        try:
            return await waiter.met
        except asyncio.CancelledError:
            if waiter.met.done() and not waiter.met.cancelled() and waiter.met.exception() is None:
                waiter.met.result()[0].abort()  # met in this very turn
            raise
        finally:
            self._rooms.leave(waiter)  # type: ignore[arg-type]  # as above

    def serve(self, *rooms: bytes) -> None:
        """These rooms exist from now on; with any other than the init room, that one no longer does."""
        for room in rooms:
            if room == self._init_room and self._served and room not in self._served:
                raise UnavailableError("this cluster is initialised; its init room is closed")
            if room != self._init_room and self._init_room in self._served:
                self._close_init_room()
            self._served.pop(room, None)
            self._served[room] = None
        while len(self._served) > ROOMS_LIMIT:
            del self._served[next(iter(self._served))]

    def _close_init_room(self) -> None:
        del self._served[self._init_room]
        for guest in [guest for guest in self._guests if guest.room == self._init_room]:
            if self._rooms.leave(guest):
                guest.refuse(Refusal.BAD_HELLO, CLOSED_ROOM_RETRY)

    # --- guests

    def welcome(self, source: str) -> Guest:
        """The protocol for a connection that came from `source`."""
        guest = Guest(self, source)
        self._guests.add(guest)
        self._start_sweeping()
        return guest

    def arrived(self, guest: Guest, hello: Hello) -> None:
        """See reverse_guest.House."""
        room = self._find(hello.room)
        if hello.role is not Role.BRIDGE or room is None:
            self._refuse(guest, Refusal.BAD_HELLO, _HIDDEN, self._when_again(hello.room))
            return
        now = asyncio.get_running_loop().time()
        guest.room = room
        self._act_on(self._rooms.make_room(Role.BRIDGE, room, guest.source))
        self._act_on([self._rooms.arrive(guest, Role.BRIDGE, room, now, _is_live, source=guest.source)])

    def left(self, guest: Guest) -> None:
        """See reverse_guest.House."""
        self._guests.discard(guest)
        self._rooms.leave(guest)

    def unwelcome(self, guest: Guest, reason: str) -> None:
        """See reverse_guest.House."""
        self._rooms.leave(guest)
        self._refuse(guest, Refusal.BAD_HELLO, reason)

    def refused(self, reason: str, source: str) -> None:
        """A connection came to nothing: count it, and say it once a minute."""
        self._metrics.refused.labels(reason).inc()
        if self._reporter.due(reason, asyncio.get_running_loop().time()):
            source = blurred(source)
            _log.warning("a connection to the reverse port was refused", reason=reason, source=source)

    # --- ends

    def drain(self) -> None:
        """Send every spare away, and whoever still comes: we are going."""
        self._act_on(self._rooms.drain())

    def close(self) -> None:
        """Cut every guest."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for guest in list(self._guests):
            guest.cut()

    # --- inside

    def _when_again(self, room: bytes) -> int:
        """Milliseconds after which a refused bridge may ask again; 0 leaves it to its backoff."""
        if len(self._served) < 2 and not hmac.compare_digest(room, self._init_room):
            return ENROLLING_RETRY
        if (
            hmac.compare_digest(room, self._init_room)
            and self._served
            and self._init_room not in self._served
        ):
            return CLOSED_ROOM_RETRY
        return 0

    def _find(self, room: bytes) -> bytes | None:
        """The room that a hello names, if it is one of ours. Takes as long whatever it names."""
        found = None
        for served in self._served:
            if hmac.compare_digest(served, room):
                found = served
        return found

    def _act_on(self, events: Iterable[Event[Guest | _Waiter[asyncio.Protocol]]]) -> None:
        for event in events:
            match event:
                case Parked(Guest() as guest):
                    guest.park()
                case Matched(Guest() as guest, _Waiter() as waiter):
                    self._meet(guest, waiter)
                case TurnedAway(Guest() as guest, refusal, retry_ms, limit):
                    self._refuse(guest, refusal, limit or "shutting down", retry_ms, said=bool(limit))
                case TurnedAway(_Waiter() as waiter):
                    waiter.met.set_exception(UnavailableError("there is no place in the room"))
                case _:
                    pass  # a seat of ours need not be told that it waits

    def _meet(self, guest: Guest, waiter: _Waiter[asyncio.Protocol]) -> None:
        self._rooms.pair_ended()
        self._guests.discard(guest)
        protocol = waiter.make()
        transport = guest.meet(protocol)
        self._metrics.matched.inc()
        waiter.met.set_result((transport, protocol, guest.source))

    def _refuse(
        self, guest: Guest, refusal: Refusal, reason: str, retry_ms: int = 0, *, said: bool = True
    ) -> None:
        if said and reason is not _HIDDEN:
            self.refused(reason, guest.source)
        else:
            self._metrics.refused.labels(reason).inc()
        guest.refuse(refusal, retry_ms)

    def _start_sweeping(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SWEEP, self._sweep)

    def _sweep(self) -> None:
        now = asyncio.get_running_loop().time()
        self._act_on(self._rooms.tick(now))
        self._timer = None
        if self._guests:
            self._start_sweeping()


def _is_live(party: Guest | _Waiter[asyncio.Protocol]) -> bool:
    return party.live
