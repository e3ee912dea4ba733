"""Tunnels: keeps two of them up, whatever beacons and bridges do.

Used by `broker` (which takes the one with the fewest streams), `operator_stream` and `renewal`. A seat parks
at every beacon until somebody comes, then has five seconds to become a tunnel: TLS 1.3 under the pinned
tunnel CA, with a certificate that says bridge of this cluster. A seat that is slow about it does not keep the
next from parking, so a squatter in the room costs time but not the room. A new certificate of ours, or a new
tunnel CA with its room, makes a new generation of tunnels: the old ones go once the new ones stand. What is
decided is decided in `roster`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cloudtaser.errors import CloudtaserError, UnavailableError
from cloudtaser.net.dial import Backoff
from cloudtaser.net.layers import TlsLayer
from cloudtaser.net.log import get_logger
from cloudtaser.net.stream import TunnelStream
from cloudtaser.net.tls import Identity, peer_certificate, require_party, tunnel_server
from cloudtaser.net.tunnel import Tunnel
from cloudtaser.operator.beacons import Beacons
from cloudtaser.operator.enrolment import Reporter
from cloudtaser.operator.roster import Roster
from cloudtaser.operator.trust import Trust
from cloudtaser.wire.opening import Opening

HANDSHAKE_SECONDS: Final = 5.0
SLOW_HANDSHAKE: Final = 1.0
"""Seconds after which a handshake no longer keeps the next seat from parking."""
MAX_SEATS: Final = 10
SHORT_LIFE: Final = 5.0
"""A tunnel that ends sooner was probably not accepted by the bridge."""
REJECTIONS: Final = 3
"""Matches in a row that became no tunnel, after which our certificate may be what is wrong."""
RETIRE_SECONDS: Final = 600.0
"""How long the streams of a tunnel that was given up may take to end; then they are cut."""

_log = get_logger("operator.tunnels")

Accept = Callable[["Link", Opening, TunnelStream], asyncio.Protocol | None]


@dataclass(frozen=True, slots=True, eq=False)
class Generation:
    """What tunnels are made with: the room of one tunnel CA, and a TLS context with one certificate."""

    number: int
    room: bytes
    context: ssl.SSLContext


class Link:
    """One connection to one bridge: from the match on, and a tunnel once the handshake is done."""

    def __init__(
        self,
        number: int,
        fingerprint: str,
        generation: Generation,
        accept: Accept,
        drains: Callable[[int], None],
    ) -> None:
        self.number = number
        self.generation = generation
        self.bridge = ""
        """Id of the bridge as its certificate says."""
        self.up_since = 0.0
        self.surplus = False
        """Given up again at once: there was no better bridge."""
        self.leaving: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once it takes no new streams: what stays open for its own sake is to be closed."""
        self._fingerprint = fingerprint
        self.tunnel = Tunnel(
            client=False,
            accept=lambda opening, stream: accept(self, opening, stream),
            on_draining=lambda: drains(number),
        )
        self.layer = TlsLayer(
            generation.context,
            self.tunnel,
            server_side=True,
            handshake_timeout=HANDSHAKE_SECONDS,
            verify=self._verify,
        )

    def leave(self) -> None:
        """It takes no new streams from now on."""
        if not self.leaving.done():
            self.leaving.set_result(None)

    def _verify(self, ssl_object: ssl.SSLObject) -> None:
        """Before any stream: who is it? (The chain was OpenSSL's to check.)"""
        party = require_party(peer_certificate(ssl_object), self._fingerprint, "bridge")
        self.bridge = party.instance


class Tunnels:
    """The broker's tunnels. `run` keeps them; everybody else only looks, and opens streams."""

    def __init__(
        self,
        fingerprint: str,
        beacons: Beacons,
        accept: Accept,
        *,
        wanted: int = 2,
        retire_seconds: float = RETIRE_SECONDS,
    ) -> None:
        """`retire_seconds`: how long streams of a tunnel that was given up may go on."""
        self._retire_seconds = retire_seconds
        self._fingerprint = fingerprint
        self._beacons = beacons
        self._accept = accept
        self._roster = Roster(wanted)
        self._numbers = itertools.count(1)
        self._links: dict[int, Link] = {}
        self._seats: dict[asyncio.Task[None], bool] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._backoff = Backoff()
        self._reporter = Reporter()
        self._generation: Generation | None = None
        self._watchers: list[Callable[[Link], None]] = []
        self._rejections = 0
        self._hold_until = 0.0
        self._closing = False
        self.on_rejected: Callable[[], None] = lambda: None
        """Called when bridges come but none accepts us: a new certificate may help."""

    # --- what others see

    @property
    def live(self) -> list[Link]:
        """Links that take new streams."""
        return [self._links[number] for number in self._roster.live]

    @property
    def links(self) -> list[Link]:
        """Every link that is up, draining ones included."""
        return list(self._links.values())

    @property
    def available(self) -> bool:
        """Whether `open` has where to go."""
        return bool(self._roster.live)

    @property
    def parked(self) -> bool:
        """Whether we wait in the operational room for a further bridge."""
        return self._generation is not None and self._beacons.parked(self._generation.room) > 0

    def pick(self, room: bytes | None = None, preferred: Link | None = None) -> Link | None:
        """The live link with the fewest streams, or None; of those matched in `room`, if that is given;
        `preferred`, if it is one of them."""
        links = [link for link in self.live if room is None or link.generation.room == room]
        if preferred in links:
            return preferred
        return min(links, key=lambda link: link.tunnel.active, default=None)

    def watch(self, watcher: Callable[[Link], None]) -> None:
        """`watcher` is called for each link that comes up from now on."""
        self._watchers.append(watcher)

    def use(self, identity: Identity, trust: Trust) -> None:
        """Make new tunnels, with this certificate, in this room; when they stand, give up the others."""
        context = tunnel_server(identity, [trust.tunnel_ca.encode()])
        self._roster.renewed()
        self._generation = Generation(self._roster.generation, trust.operational_room, context)
        self._beacons.serve(trust.return_room, trust.operational_room)
        self._rejections = 0
        for seat in self._seats:  # what they would bring is outdated
            seat.cancel()
        self._wake.set()

    # --- keeping them

    async def run(self) -> None:
        """Park and re-park until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                self._wake.clear()
                self._staff(loop.time())
                try:
                    async with asyncio.timeout(self._roster.next_change(loop.time())):
                        await self._wake.wait()
                except TimeoutError:
                    pass
        finally:
            for task in (*self._seats, *self._tasks):
                task.cancel()
            await asyncio.gather(*self._seats, *self._tasks, return_exceptions=True)

    async def drain(self, grace: float) -> None:
        """Take no new streams, let the present ones end for at most `grace` seconds, then close."""
        self._closing = True
        self._wake.set()
        links = self.links
        for link in links:
            self._roster.drains(link.number)
            link.leave()
            link.tunnel.go_away()
        if links:
            await asyncio.wait([link.tunnel.closed for link in links], timeout=grace)
        for link in links:
            link.tunnel.close()

    def _staff(self, now: float) -> None:
        """As many seats as the roster wants; a slow one does not count, a superfluous one is recalled."""
        wanted = 0 if self._generation is None or self._closing else self._roster.to_park(now)
        waiting = [task for task, slow in self._seats.items() if not slow]
        for _ in range(min(wanted - len(waiting), MAX_SEATS - len(self._seats))):
            seat = asyncio.ensure_future(self._seat())
            self._seats[seat] = False
            seat.add_done_callback(self._left)
        for task in waiting[wanted:] if len(waiting) > wanted else ():
            task.cancel()

    def _left(self, seat: asyncio.Task[None]) -> None:
        self._seats.pop(seat, None)
        self._wake.set()
        if not seat.cancelled() and seat.exception() is not None:
            _log.error("a seat failed", error=repr(seat.exception()))

    async def _seat(self) -> None:
        """Park, match, shake hands; ends as a link or with a logged failure."""
        loop = asyncio.get_running_loop()
        links: dict[TlsLayer, Link] = {}

        generation = self._generation
        assert generation is not None

        def make() -> TlsLayer:
            link = Link(next(self._numbers), self._fingerprint, generation, self._accept, self._drains)
            links[link.layer] = link
            return link.layer

        await asyncio.sleep(max(0.0, self._hold_until - loop.time()))
        match = await self._beacons.match(generation.room, make)
        link = links[match.protocol]
        links.clear()
        seat = asyncio.current_task()
        assert seat is not None
        slow = loop.call_later(SLOW_HANDSHAKE, self._is_slow, seat)
        try:
            await link.layer.handshake
        except CloudtaserError as error:
            self._rejected("a match became no tunnel", match.beacon, error)
            return
        except asyncio.CancelledError:
            match.transport.abort()
            raise
        finally:
            slow.cancel()
        self._up(link, match.beacon)

    def _is_slow(self, seat: asyncio.Task[None]) -> None:
        if seat in self._seats:
            self._seats[seat] = True
            self._wake.set()

    def _rejected(self, what: str, beacon: str, error: CloudtaserError) -> None:
        """A bridge, or who says to be one, came to nothing: new seats wait a little."""
        self._rejections += 1
        loop = asyncio.get_running_loop()
        if self._reporter.due(f"{beacon} {error.what}", loop.time()):
            _log.warning(what, beacon=beacon, error=error.diagnostic())
        if self._rejections >= REJECTIONS and not self._roster.live:
            self._rejections = 0
            self.on_rejected()
        delay = self._backoff.next()
        self._hold_until = loop.time() + delay
        self._beacons.incidents.record("tunnel", error, beacon=beacon, delay=delay)

    def _up(self, link: Link, beacon: str) -> None:
        loop = asyncio.get_running_loop()
        if link.tunnel.closed.done():
            return
        link.up_since = loop.time()
        self._links[link.number] = link
        given_up = self._roster.arrived(link.number, link.bridge, link.up_since, link.generation.number)
        task = asyncio.ensure_future(self._until_closed(link, beacon))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        link.surplus = link.number in given_up
        for number in given_up:
            self._retire(self._links[number])
        if not link.surplus:
            _log.info("tunnel up", bridge=link.bridge, beacon=beacon, tunnel=link.number)
            for watcher in self._watchers:
                watcher(link)

    def _retire(self, link: Link) -> None:
        """No new streams on it; those that run may end, for a while."""
        link.leave()
        link.tunnel.go_away()
        if not link.tunnel.closed.done():
            cut = asyncio.get_running_loop().call_later(self._retire_seconds, link.tunnel.close)
            link.tunnel.closed.add_done_callback(lambda _: cut.cancel())

    def _drains(self, number: int) -> None:
        link = self._links.get(number)
        if link is not None:
            _log.info("the bridge drains a tunnel", bridge=link.bridge, tunnel=number)
            self._roster.drains(number)
            link.leave()
            self._wake.set()

    async def _until_closed(self, link: Link, beacon: str) -> None:
        await asyncio.wait([link.tunnel.closed])
        link.leave()
        self._links.pop(link.number, None)
        self._roster.gone(link.number)
        self._wake.set()
        error = link.tunnel.error
        _log.log(
            logging.DEBUG if link.surplus else logging.INFO,
            "tunnel down",
            bridge=link.bridge,
            tunnel=link.number,
            error=error.diagnostic() if error else None,
        )
        if asyncio.get_running_loop().time() - link.up_since >= SHORT_LIFE:
            self._backoff.reset()
            self._rejections = 0
        elif error is not None and not self._closing:
            self._rejected("a tunnel did not last", beacon, error)
            return
        if error is not None and not self._closing:
            self._beacons.incidents.record("tunnel", error, beacon=beacon)

    def open(self, opening: Opening, protocol: asyncio.Protocol) -> Link:
        """Open a stream on the least-loaded link; UnavailableError when there is none."""
        link = self.pick()
        if link is None:
            raise UnavailableError("no tunnel to a bridge is up")
        link.tunnel.open(opening, protocol)
        return link
