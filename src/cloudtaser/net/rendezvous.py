"""meet(): from a beacon's address to a connection with the other side, the beacon's bytes stripped off.

Used by the bridge (parking) and the operator (tunnels, enrolment). The protocol itself is `wire.rendezvous`;
here are the dial, the outer TLS and the waits, each of them bounded (spec/wire.md, "Rendezvous"). In reverse
mode a broker answers as a beacon does; `enter` does the same over whatever reaches it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections.abc import Awaitable, Callable
from typing import Final, cast

from cloudtaser.errors import CloudtaserError, ProtocolError, RefusedError, UnavailableError
from cloudtaser.net.dial import CONNECT_TIMEOUT, Address, dial_tcp
from cloudtaser.net.ends import hand_over
from cloudtaser.net.layers import TlsLayer
from cloudtaser.net.proxy import DIRECT, Proxies
from cloudtaser.wire.rendezvous import Matched, Parked, Refusal, Refused, Role, Visitor

PARKED_TIMEOUT: Final = 60.0
"""Seconds without a word of the beacon after which it is dead: three of its keepalives."""
ANSWER_TIMEOUT: Final = 10.0
"""Seconds for the beacon's first answer to the hello."""

STAY: Final = 60.0
"""Seconds parked at a fleet after which a party comes anew, at half of it at the earliest: its room may be
at a beacon that joined or came back, and whoever parked elsewhere before would wait there for nobody."""

BEACON: Final = "beacon"
BROKER: Final = "broker"
"""Who answers, in words."""

_WORDS: Final = {
    Refusal.BAD_HELLO: "does not understand our hello",
    Refusal.RATE_LIMITED: "sees too many connections from here",
    Refusal.ROOM_FULL: "has too many of us parked in this room",
    Refusal.PARKED_TOO_LONG: "held us for as long as it may",
    Refusal.SHUTTING_DOWN: "is shutting down",
}


_NO_SUCH_ROOM: Final = "has no such room: it belongs to another cluster, or is not that far"

Reach = Callable[[asyncio.Protocol], Awaitable[asyncio.Transport]]
"""Connects a protocol; the connection's lowest transport, for cutting it. CloudtaserError when it cannot."""


class BeaconRefusedError(RefusedError):
    """A beacon, or a broker in its place, said no. `retry_after` is in seconds; None leaves the delay to the
    caller's backoff."""

    def __init__(self, refusal: Refusal, retry_ms: int, on: str, *, whom: str = BEACON) -> None:
        words, fix = _WORDS[refusal], ""
        if refusal is Refusal.BAD_HELLO and whom == BROKER:
            words = _NO_SUCH_ROOM
        elif refusal is Refusal.BAD_HELLO:
            fix = "it may be of a newer or older release: upgrade the older of the two"
        super().__init__(f"the {whom} {words}", on=on, fix=fix)
        self.refusal = refusal
        self.retry_after = retry_ms / 1000 if retry_ms else None


class StayOverError(UnavailableError):
    """Nothing went wrong: the party is to come anew, so that it is where its room belongs now."""


async def meet(
    address: Address,
    role: Role,
    room: bytes,
    context: ssl.SSLContext,
    protocol: asyncio.Protocol,
    *,
    parked_timeout: float = PARKED_TIMEOUT,
    answer_timeout: float = ANSWER_TIMEOUT,
    stay: float = STAY,
    connect_timeout: float = CONNECT_TIMEOUT,
    on_parked: Callable[[], None] | None = None,
    proxies: Proxies = DIRECT,
    whom: str = BEACON,
) -> asyncio.Transport:
    """Enter `room` at the beacon and wait for the other side, for as long as the beacon shows signs of life.

    Returns once matched: `protocol.connection_made` has been called with the returned transport and the other
    side's first bytes were delivered. `on_parked` is called once, at the first word that we are parked.
    Raises BeaconRefusedError, ProtocolError (no beacon there, or its certificate), UnavailableError; behind a
    wildcard address also StayOverError, after half of `stay` at least.
    Cancelling it leaves the room.
    """

    async def reach(visit: asyncio.Protocol) -> asyncio.Transport:
        layer = TlsLayer(context, visit, server_side=False, server_hostname=address.server_name(room))
        transport, _ = await dial_tcp(address, lambda: layer, connect_timeout, proxies=proxies)
        try:
            await layer.handshake
        except asyncio.CancelledError:
            transport.abort()
            raise
        return transport

    return await enter(
        reach,
        role,
        room,
        protocol,
        where=str(address),
        whom=whom,
        parked_timeout=parked_timeout,
        answer_timeout=answer_timeout,
        stay=stay if address.wildcard or whom == BROKER else None,
        on_parked=on_parked,
    )


async def enter(
    reach: Reach,
    role: Role,
    room: bytes,
    protocol: asyncio.Protocol,
    *,
    where: str,
    whom: str,
    parked_timeout: float = PARKED_TIMEOUT,
    answer_timeout: float = ANSWER_TIMEOUT,
    stay: float | None = STAY,
    on_parked: Callable[[], None] | None = None,
) -> asyncio.Transport:
    """`meet` over whatever `reach` makes. `whom` answers `where`; `stay` None: for as long as it may."""
    if stay is not None:
        stay *= random.uniform(0.5, 1.0)  # noqa: S311  # spreads load; those that parked together part
    visit = _Visit(
        Visitor(role, room), protocol, where, whom, parked_timeout, answer_timeout, stay, on_parked
    )
    transport: asyncio.Transport | None = None
    try:
        transport = await reach(visit)
        return await visit.outcome
    except CloudtaserError as error:
        error.on = error.on or where
        raise
    except asyncio.CancelledError:
        if transport is not None:
            transport.abort()
        raise
    finally:
        visit.forget()


class _Visit(asyncio.Protocol):
    """The layer's protocol until the match, then `protocol` takes its place."""

    def __init__(
        self,
        visitor: Visitor,
        protocol: asyncio.Protocol,
        where: str,
        whom: str,
        parked_timeout: float,
        answer_timeout: float,
        stay: float | None,
        on_parked: Callable[[], None] | None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._visitor = visitor
        self._protocol = protocol
        self._where = where
        self._whom = whom
        self._parked_timeout = parked_timeout
        self._answer_timeout = answer_timeout
        self._stay = stay
        self._stay_timer: asyncio.TimerHandle | None = None
        self._on_parked = on_parked
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.outcome: asyncio.Future[asyncio.Transport] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._visitor.hello())
        self._wait(self._answer_timeout)

    def data_received(self, data: bytes) -> None:
        try:
            events = self._visitor.receive(data)
        except ProtocolError as error:
            self._fail(error)
            return
        for event in events:
            match event:
                case Parked():
                    self._parked()
                case Matched(early):
                    self._matched(early)
                case Refused(refusal, retry_ms):
                    self._fail(BeaconRefusedError(refusal, retry_ms, self._where, whom=self._whom))

    def eof_received(self) -> None:
        self._fail(UnavailableError(f"the {self._whom} closed the connection", on=self._where))

    def connection_lost(self, exc: Exception | None) -> None:
        error = (
            exc
            if isinstance(exc, CloudtaserError)
            else UnavailableError(f"the {self._whom} is gone", on=self._where)
        )
        self._fail(error)

    def forget(self) -> None:
        """The visit is over, one way or the other."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._stay_timer is not None:
            self._stay_timer.cancel()
            self._stay_timer = None

    def _parked(self) -> None:
        self._wait(self._parked_timeout)
        if self._stay is not None and self._stay_timer is None:
            self._stay_timer = self._loop.call_later(self._stay, self._stay_over)
        if self._on_parked is not None:
            on_parked, self._on_parked = self._on_parked, None
            on_parked()

    def _matched(self, early: bytes) -> None:
        assert self._transport is not None
        self.forget()
        hand_over(self._transport, self._protocol, self.outcome, early)

    def _wait(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._silent, seconds)

    def _silent(self, seconds: float) -> None:
        self._fail(UnavailableError(f"the {self._whom} has been silent for {seconds:g} s", on=self._where))
        assert self._transport is not None
        self._transport.abort()

    def _stay_over(self) -> None:
        self._fail(StayOverError("parked long enough at one beacon of a fleet", on=self._where))

    def _fail(self, error: CloudtaserError) -> None:
        self.forget()
        if not self.outcome.done():
            self.outcome.set_exception(error)
            with contextlib.suppress(asyncio.CancelledError):
                self.outcome.exception()
        if self._transport is not None:
            self._transport.close()
