"""Beacons: waiting for a bridge in one room at every configured beacon, until the first match.

Used by `enrol` and `tunnels`. In reverse mode our own port is one more place to wait at. A match says only
that somebody with the room's hash is there; who it is, the caller's protocol finds out.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from cloudtaser.errors import CloudtaserError
from cloudtaser.net.dial import Address, Backoff
from cloudtaser.net.log import get_logger
from cloudtaser.net.proxy import DIRECT, Proxies
from cloudtaser.net.rendezvous import BeaconRefusedError, StayOverError, meet
from cloudtaser.operator.enrolment import Reporter
from cloudtaser.operator.incidents import Incidents
from cloudtaser.operator.reverse import Reverse
from cloudtaser.wire.rendezvous import Role

SETTLED: Final = 5.0
"""Seconds parked after which a beacon counts as working and the next failure waits but shortly."""

_log = get_logger("operator.beacons")

P = TypeVar("P", bound=asyncio.Protocol)


@dataclass(frozen=True, slots=True)
class Match(Generic[P]):
    """Somebody came: by which beacon (or from where, to our own port), over what, and the protocol that talks
    to them."""

    beacon: str
    transport: asyncio.Transport
    protocol: P


class Beacons:
    """Every configured beacon. One object serves all rooms; each beacon has one backoff."""

    def __init__(
        self,
        addresses: Sequence[Address],
        context: ssl.SSLContext,
        proxies: Proxies = DIRECT,
        *,
        reverse: Reverse | None = None,
    ) -> None:
        """`reverse`: where bridges come that dial us; beside beacons, or instead of them."""
        self._addresses = tuple(addresses)
        self._context = context
        self._proxies = proxies
        self._reverse = reverse
        self._backoffs = {address: Backoff() for address in self._addresses}
        self._reporter = Reporter()
        self._parked: Counter[bytes] = Counter()
        self.failures = 0
        self.incidents = Incidents()
        """What went wrong lately, here and with what came of matches."""

    def parked(self, room: bytes) -> int:
        """How many of ours are parked in `room`, at all beacons."""
        return self._parked[room]

    def serve(self, *rooms: bytes) -> None:
        """In reverse mode: bridges may wait in these rooms from now on, whether we do or not."""
        if self._reverse is not None:
            self._reverse.serve(*rooms)

    async def match(self, room: bytes, make: Callable[[], P]) -> Match[P]:
        """Park as broker in `room` at all beacons; the first match wins, the other rooms are left.

        Waits for ever: failures are logged and tried again. Cancelling it leaves the rooms.
        """
        tasks = [asyncio.ensure_future(self._at(address, room, make)) for address in self._addresses]
        if self._reverse is not None:
            tasks.append(asyncio.ensure_future(self._here(self._reverse, room, make)))
        winner: asyncio.Future[Match[P]] | None = None
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            winner = next(iter(done))
        finally:  # nothing is awaited here: cancelled meanwhile, a match would belong to nobody
            for task in tasks:
                if task is not winner:
                    task.cancel()
                    task.add_done_callback(_abandon)
        return winner.result()

    async def _at(self, address: Address, room: bytes, make: Callable[[], P]) -> Match[P]:
        backoff, loop = self._backoffs[address], asyncio.get_running_loop()
        while True:
            started = loop.time()
            protocol = make()
            parked = _Parked(self._parked, room)
            try:
                transport = await meet(
                    address,
                    Role.BROKER,
                    room,
                    self._context,
                    protocol,
                    on_parked=parked.enter,
                    proxies=self._proxies,
                )
                return Match(str(address), transport, protocol)
            except StayOverError:
                backoff.reset()
                continue
            except CloudtaserError as error:
                self.failures += 1
                if loop.time() - started > SETTLED:
                    backoff.reset()
                delay = _delay(error, backoff)
                self.incidents.record("beacon", error, beacon=str(address), delay=delay)
                if self._reporter.due(f"{address} {error.what}", loop.time()):
                    _log.warning("beacon failed", beacon=str(address), error=error.diagnostic())
            finally:
                parked.leave()
            await asyncio.sleep(delay)

    @staticmethod
    async def _here(reverse: Reverse, room: bytes, make: Callable[[], P]) -> Match[P]:
        transport, protocol, source = await reverse.match(room, make)
        return Match(f"reverse port, from {source}", transport, protocol)


class _Parked:
    """One party's part in the count of a room."""

    def __init__(self, count: Counter[bytes], room: bytes) -> None:
        self._count = count
        self._room = room
        self._counted = 0

    def enter(self) -> None:
        self._counted = 1
        self._count[self._room] += 1

    def leave(self) -> None:
        self._count[self._room] -= self._counted
        self._counted = 0
        if self._count[self._room] <= 0:
            del self._count[self._room]


def _abandon(task: asyncio.Future[Match[P]]) -> None:
    """A match that came too late, or for somebody who has left."""
    if not task.cancelled() and task.exception() is None:
        task.result().transport.abort()


def _delay(error: CloudtaserError, backoff: Backoff) -> float:
    """The beacon's own wish, spread a little, or the backoff."""
    wished = error.retry_after if isinstance(error, BeaconRefusedError) else None
    own = backoff.next()
    return own if wished is None else max(own, wished * random.uniform(1.0, 1.25))  # noqa: S311  # spreads load
