"""The beacon: takes in connections, asks `rooms` who meets whom, and has `pump` move the bytes.

Used by `app`, by tests and by the demo: `beacon = Beacon(config)`, `await beacon.start()`,
`beacon.addresses`, `await beacon.drain(grace)`, `beacon.close()`. Runs on any loop with add_reader; the
program uses uvloop. What needs a clock is done by one sweep; there is no task and no timer a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterable

from cloudtaser.beacon import limits
from cloudtaser.beacon.config import BeaconConfig
from cloudtaser.beacon.door import Door, set_dead_after
from cloudtaser.beacon.entrance import Entrance
from cloudtaser.beacon.farewell import partings
from cloudtaser.beacon.limits import Deadlines
from cloudtaser.beacon.link import Link, State, Tap, side
from cloudtaser.beacon.log import Log, room8
from cloudtaser.beacon.metrics import Counts
from cloudtaser.beacon.page import metrics_page
from cloudtaser.beacon.probes import Answer, Probes
from cloudtaser.beacon.pump import Pump
from cloudtaser.beacon.renewal import Renewal
from cloudtaser.beacon.tls import Certificate
from cloudtaser.errors import CloudtaserError, ProtocolError
from cloudtaser.wire.rendezvous import (
    HELLO_SIZE,
    MAGIC,
    MATCHED,
    PARKED,
    Hello,
    Refusal,
    Role,
    encode_refusal,
)
from cloudtaser.wire.rooms import Event, Matched, Parked, RoomLimits, Rooms, TurnedAway
from cloudtaser.wire.sources import blurred, source_of


class Beacon:
    """One beacon on one loop. Implements `pump.Listener`."""

    def __init__(self, config: BeaconConfig, *, tap: Tap | None = None, log: Log | None = None) -> None:
        self.config = config
        self.log = log or Log(config.log_level)
        self.counts = Counts()
        self.certificate: Certificate | None = None
        self._renewal: Renewal | None = None
        self.max_pairs = 0
        self.max_links = 0
        self.links: set[Link] = set()
        self.rooms: Rooms[Link]
        self.pump: Pump
        self._tap = tap
        self._pairs: set[Link] = set()  # the bridge's end of each
        self._handshakes: Deadlines[Link] = Deadlines(config.handshake_timeout)
        self._hellos: Deadlines[Link] = Deadlines(config.hello_timeout)
        self._leaving: Deadlines[Link] = Deadlines(config.linger)
        self.entrance = Entrance(config, self.counts, self.log, self.admit, self._is_full)
        self._door = Door(self.entrance.welcome, self.out_of_descriptors)
        self._asked: Link | None = None  # the candidate that `rooms` is asking about
        self._empty = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._next_idle_sweep = 0.0
        pages = {"/metrics": self._metrics, "/healthz": self._healthy, "/readyz": self._ready}
        self._probes = Probes(pages)

    # -- life

    async def start(self) -> None:
        """Listen. CloudtaserError when the certificate or an address cannot be used."""
        config = self.config
        self._loop = asyncio.get_running_loop()
        descriptors = limits.raise_descriptor_limit()
        self.max_pairs = config.max_pairs or limits.default_max_pairs(descriptors)
        self.max_links = max(descriptors - limits.DESCRIPTORS_RESERVED // 2, 1)
        room_limits = RoomLimits(
            parked_per_room=config.max_parked_per_room,
            parked=config.max_parked,
            pairs=self.max_pairs,
            parked_age=config.max_parked_age,
            remind_every=config.remind_every,
            drain_spread=config.drain_spread,
        )
        self.rooms = Rooms(room_limits, random_pairing=config.pairing == "random")
        self.pump = Pump(self._loop, self, buffer=config.buffer, tap=self._tap)
        self.certificate = Certificate(config.tls_cert, config.tls_key)
        self._renewal = Renewal(self.certificate, config.cert_poll, self.counts, self.log)
        try:
            await self._door.bind(config.addr, config.parked_dead_after)
            if config.metrics_addr is not None:
                await self._probes.start(*config.metrics_addr)
        except CloudtaserError:
            self.close()
            raise
        self._door.open()
        self._sweep()
        self.log.info(
            "listening",
            addresses=[f"{host}:{port}" for host, port in self.addresses],
            metrics="{}:{}".format(*self.metrics_address) if self.metrics_address else "off",
            max_pairs=self.max_pairs,
            descriptors=descriptors,
            certificate_ends=int(self.certificate.not_after),
        )

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where the beacon listens, with the real ports."""
        return self._door.addresses

    @property
    def metrics_address(self) -> tuple[str, int] | None:
        """Where /metrics, /healthz and /readyz are."""
        return self._probes.address

    async def drain(self, grace: float | None = None) -> None:
        """Stop accepting, send the parked away, give pairs `grace` seconds; then close. Of several pairs in
        one room all but one are ended earlier, one after the other."""
        grace = self.config.drain_grace if grace is None else grace
        self._door.close()
        self.entrance.close()
        self.log.info("draining", parked=self.rooms.parked, pairs=self.rooms.pairs, grace=grace)
        self._act_on(self.rooms.drain())
        self._empty.clear()
        if self.links:
            parting = asyncio.ensure_future(self._part_one_by_one(grace))
            try:
                await asyncio.wait_for(self._empty.wait(), grace)
            except TimeoutError:
                self.log.warning("grace period is over", pairs=self.rooms.pairs)
            finally:
                parting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await parting
        self.close()

    async def _part_one_by_one(self, grace: float) -> None:
        began = self._loop.time()
        for at, bridge in partings([(bridge, bridge.room) for bridge in self._pairs], grace):
            await asyncio.sleep(began + at - self._loop.time())
            self.pump.part(bridge, "drained")

    def close(self) -> None:
        """Stop at once: every connection is closed."""
        self._door.close()
        self.entrance.close()
        self._probes.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for link in list(self.links):
            self.pump.close(link)

    def reload(self) -> None:
        """Read the certificate again (SIGHUP). A bad one leaves the old one in use."""
        if self._renewal is not None:
            self._renewal.reload()

    def admit(self, sock: socket.socket, host: str, now: float, verdict: int | None) -> None:
        """A connection came in by the entrance: begin its handshake. With a `verdict` it is refused after."""
        assert self.certificate is not None
        link = self.pump.attach(sock, self.certificate.context, host, now)
        link.verdict = verdict
        self.links.add(link)
        self._handshakes.start(link, now)

    def out_of_descriptors(self, error: OSError) -> None:
        """Nothing can be accepted before somebody goes."""
        self.counts.limit_hits["descriptors"] += 1
        self.log.error("cannot accept", reason=error.strerror)

    def _is_full(self) -> bool:
        return len(self.links) + self.entrance.waiting >= self.max_links

    # -- what the pump reports

    def established(self, link: Link) -> None:
        """pump.Listener"""
        now = time.monotonic()
        self._handshakes.stop(link)
        self.counts.handshakes["ok"] += 1
        self.counts.handshake_took.observe(now - link.since)
        if link.verdict is not None:
            self._refuse(link, Refusal.RATE_LIMITED, link.verdict)
        else:
            self._hellos.start(link, now)

    def handshake_failed(self, link: Link, reason: str) -> None:
        """pump.Listener"""
        self._handshakes.stop(link)
        self._leaving.start(link, time.monotonic())
        self.counts.handshakes["failed"] += 1
        self.log.info("TLS handshake failed", reason=reason, source=blurred(link.host))

    def heard(self, link: Link, data: bytes) -> None:
        """pump.Listener"""
        link.early += data
        arriving = link.role is None
        if arriving:
            said = link.early[:HELLO_SIZE]
            if len(said) < HELLO_SIZE and said[: len(MAGIC)] == MAGIC[: len(said)]:
                return
            try:
                hello = Hello.decode(said)
            except ProtocolError as error:
                self._bad_hello(link, error.what)
                return
            link.early = link.early[HELLO_SIZE:]
        if len(link.early) > self.config.early_bytes:
            self.counts.limit_hits["early-bytes"] += 1
            self._unpark(link)
            self._bad_hello(link, "too much was said before the match")
        elif arriving:
            self._hellos.stop(link)
            link.role, link.room = hello.role, hello.room
            now = time.monotonic()
            source = source_of(link.host)
            self._act_on(self.rooms.make_room(hello.role, hello.room, source))
            self._act_on([self.rooms.arrive(link, hello.role, hello.room, now, self._is_live, source=source)])

    def gone(self, link: Link) -> None:
        """pump.Listener"""
        if link.role is not None:
            self.counts.left_parked += 1
            self._unpark(link)

    def pair_over(self, link: Link, peer: Link, reason: str) -> None:
        """pump.Listener"""
        bridge, broker = (link, peer) if link.role is Role.BRIDGE else (peer, link)
        self._pairs.discard(bridge)
        self.rooms.pair_ended()
        self.counts.pairs_ended[reason] += 1
        self.counts.relayed["bridge"] += bridge.relayed
        self.counts.relayed["broker"] += broker.relayed
        now = time.monotonic()
        for each in (link, peer):
            if each.state is not State.CLOSED:
                self._leaving.start(each, now)
        self.log.info(
            "pair ended",
            room=room8(link.room),
            reason=reason,
            by="both" if reason in ("finished", "idle", "drained") else side(link),
            seconds=round(now - link.since, 3),
            bytes_from_bridge=bridge.relayed,
            bytes_from_broker=broker.relayed,
        )

    def closed(self, link: Link) -> None:
        """pump.Listener"""
        self.links.discard(link)
        self.entrance.left(link.host)
        if self._handshakes.stop(link):
            self.counts.handshakes["left"] += 1
        self._hellos.stop(link)
        self._leaving.stop(link)
        if not self.links:
            self._empty.set()

    def failed(self, link: Link, error: Exception) -> None:
        """pump.Listener"""
        self.counts.faults += 1
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = f"{trace.tb_frame.f_code.co_qualname}:{trace.tb_lineno}" if trace is not None else ""
        self.log.error("a fault in the beacon ended a connection", kind=type(error).__name__, where=where)

    # -- rooms

    def _act_on(self, events: Iterable[Event[Link]]) -> None:
        for event in events:
            match event:
                case Parked(link):
                    if link.pending is None:  # else it has not even taken the last one
                        self.pump.say(link, PARKED)
                case Matched(bridge, broker, waited):
                    self._match(bridge, broker, waited)
                case TurnedAway(link, refusal, retry_ms, limit):
                    if limit:
                        self.counts.limit_hits[limit] += 1
                    self._refuse(link, refusal, retry_ms)

    def _match(self, bridge: Link, broker: Link, waited: float) -> None:
        now = time.monotonic()
        self.counts.pairs += 1
        self.counts.waited.observe(waited)
        self._pairs.add(bridge)
        self.log.info(
            "matched",
            room=room8(bridge.room),
            waited=round(waited, 3),
            bridge=blurred(bridge.host),
            broker=blurred(broker.host),
        )
        for link in (bridge, broker):
            link.since = now
            set_dead_after(link.sock, self.config.pair_dead_after)
        self.pump.join(bridge, broker)
        self.pump.relay_early(bridge, MATCHED)
        self.pump.relay_early(broker, MATCHED)

    def _is_live(self, link: Link) -> bool:
        """Whether a parked party is still there, once everything that it has sent is looked at."""
        self._asked = link
        try:
            self.pump.catch_up(link)
        finally:
            self._asked = None
        return link.state is State.TALKING

    def _unpark(self, link: Link) -> None:
        if link is not self._asked:  # what `rooms` asks about it forgets by itself
            self.rooms.leave(link)

    def _bad_hello(self, link: Link, what: str) -> None:
        self.log.info("bad hello", what=what, source=blurred(link.host))
        self._refuse(link, Refusal.BAD_HELLO)

    def _refuse(self, link: Link, refusal: Refusal, retry_ms: int = 0) -> None:
        self._hellos.stop(link)
        self._leaving.start(link, time.monotonic())
        self.counts.refused[refusal.value] += 1
        self.pump.dismiss(link, encode_refusal(refusal, retry_ms))

    # -- time

    def _sweep(self) -> None:
        now = time.monotonic()
        config = self.config
        self._timer = self._loop.call_later(config.sweep_interval, self._sweep)
        self.pump.now = now
        self._door.open()
        self.entrance.overdue(now)
        for link in self._handshakes.overdue(now):
            self.counts.limit_hits["handshake-timeout"] += 1
            self.pump.close(link)
        for link in self._hellos.overdue(now):
            self.counts.limit_hits["hello-timeout"] += 1
            self._refuse(link, Refusal.BAD_HELLO)
        for link in self._leaving.overdue(now):
            self.pump.close(link)
        self._act_on(self.rooms.tick(now))
        if now >= self._next_idle_sweep:
            self._next_idle_sweep = now + min(config.pair_idle, config.half_closed_idle, 40.0) / 4
            self._end_idle_pairs(now)
            self.entrance.prune(now)
        assert self._renewal is not None
        self._renewal.poll(now)

    def _end_idle_pairs(self, now: float) -> None:
        for bridge in list(self._pairs):
            broker = bridge.peer
            if broker is None:
                continue
            half_closed = bridge.ended or broker.ended
            limit = self.config.half_closed_idle if half_closed else self.config.pair_idle
            if now - max(bridge.last, broker.last) >= limit:
                self.counts.limit_hits["half-closed-idle" if half_closed else "pair-idle"] += 1
                self.pump.part(bridge, "idle")

    # -- probes

    def relayed(self) -> dict[str, int]:
        """Bytes relayed so far, by the side they came from."""
        total = dict(self.counts.relayed)
        for bridge in self._pairs:
            total["bridge"] += bridge.relayed
            if bridge.peer is not None:
                total["broker"] += bridge.peer.relayed
        return total

    def _metrics(self) -> Answer:
        return 200, "text/plain; version=0.0.4", metrics_page(self)

    def _healthy(self) -> Answer:
        return 200, "text/plain", "ok\n"

    def _ready(self) -> Answer:
        if self.rooms.draining or not self._door.addresses:
            return 503, "text/plain", "draining\n"
        if not self._door.is_open:
            return 503, "text/plain", "out of descriptors\n"
        return 200, "text/plain", "ok\n"
