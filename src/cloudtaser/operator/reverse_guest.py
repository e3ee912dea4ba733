"""Guest: a bridge that dialled us, from its hello until it meets one of our seats (reverse mode).

Made by `reverse` for every connection that comes through the door, whatever carried it: a gRPC stream, or TLS
alone. To the bridge it is a beacon of one cluster: the same hello, the same answers (spec/wire.md). What the
rooms decide, `reverse` decides.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol, cast

from cloudtaser.errors import ProtocolError
from cloudtaser.net.ends import NOWHERE
from cloudtaser.wire.rendezvous import HELLO_SIZE, MAGIC, MATCHED, PARKED, Hello, Refusal, encode_refusal

EARLY_BYTES: Final = 4 * 1024
"""What may come behind a hello before there is a match."""
REFUSED_LINGER: Final = 5.0
"""Seconds for a refusal to be taken, then the connection is cut."""


class House(Protocol):
    """What a guest asks of `reverse.Reverse`."""

    hello_seconds: float

    def arrived(self, guest: Guest, hello: Hello) -> None:
        """The hello is whole."""

    def left(self, guest: Guest) -> None:
        """The connection is gone, or the guest was shown out."""

    def unwelcome(self, guest: Guest, reason: str) -> None:
        """It said no hello, or not in time, or too much."""


class Guest(asyncio.Protocol):
    """One connection. Hashable by identity, as a party of `wire.rooms`."""

    def __init__(self, house: House, source: str) -> None:
        self._house = house
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport = NOWHERE
        self._said = b""
        self._greeted = False
        self._timer: asyncio.TimerHandle | None = None
        self.source = source
        self.room = b""

    @property
    def live(self) -> bool:
        """Whether it can still be matched."""
        return not self._transport.is_closing()

    def park(self) -> None:
        """Tell it that it waits; again every 20 s."""
        self._transport.write(PARKED)

    def refuse(self, refusal: Refusal, retry_ms: int = 0) -> None:
        """Tell it why not, and close."""
        self._greeted = True
        self._stop_timer()
        self._transport.write(encode_refusal(refusal, retry_ms))
        self._transport.close()
        self._timer = self._loop.call_later(REFUSED_LINGER, self._transport.abort)

    def meet(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Hand the connection over: from here on it is `protocol`'s."""
        transport, self._transport = self._transport, NOWHERE
        self._stop_timer()
        transport.write(MATCHED)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if self._said:
            early, self._said = self._said, b""
            protocol.data_received(early)
        return transport

    def cut(self) -> None:
        """End it now."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's do not say so by class
        self._timer = self._loop.call_later(self._house.hello_seconds, self._silent)

    def data_received(self, data: bytes) -> None:
        self._said += data
        if self._greeted:
            if len(self._said) > EARLY_BYTES:
                self._said = b""
                self._house.unwelcome(self, "too much was said before the match")
            return
        said = self._said[:HELLO_SIZE]
        if len(said) < HELLO_SIZE and said[: len(MAGIC)] == MAGIC[: len(said)]:
            return
        self._greeted = True
        self._stop_timer()
        try:
            hello = Hello.decode(said)
        except ProtocolError as error:
            self._house.unwelcome(self, error.what)
            return
        self._said = self._said[HELLO_SIZE:]
        self._house.arrived(self, hello)

    def eof_received(self) -> None:
        """A guest that sends no more cannot be met: the transport closes."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._transport = NOWHERE
        self._house.left(self)

    def _silent(self) -> None:
        self._house.unwelcome(self, "no hello in time")

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
