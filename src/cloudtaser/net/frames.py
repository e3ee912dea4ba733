"""NoiseDialogue: question and answer over a Noise channel, as coroutines.

Used by bridge and operator for the bootstrap in the init and return rooms, and for `renew` streams inside a
tunnel. The cryptography and the framing are `wire.noise`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, cast

from cloudtaser.errors import CloudtaserError, ProtocolError, UnavailableError
from cloudtaser.net.ends import NOWHERE, lost
from cloudtaser.wire.noise import Channel

MAX_WAITING: Final = 4
"""Payloads that may wait to be received: a dialogue has turns, so more is a fault of the peer's."""


class NoiseDialogue(asyncio.Protocol):
    """The protocol to give to `meet` or to a stream. Every failure closes the connection and is raised."""

    def __init__(self, channel: Channel) -> None:
        self._loop = asyncio.get_running_loop()
        self._channel = channel
        self._transport: asyncio.Transport = NOWHERE
        self._payloads: deque[bytes] = deque()
        self._error: CloudtaserError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.closed: asyncio.Future[None] = self._loop.create_future()

    @property
    def handshake_hash(self) -> bytes:
        """h, to which signatures and tokens are bound; final after `establish`."""
        return self._channel.handshake_hash

    async def establish(self, timeout: float) -> None:
        """Wait until both sides have shown that they know the psk; ProtocolError, UnavailableError."""
        await self._until(lambda: self._channel.established, timeout, "no handshake")

    async def receive(self, timeout: float) -> bytes:
        """The next payload. ProtocolError on a tampered one, UnavailableError at the end or too late."""
        await self._until(lambda: bool(self._payloads), timeout, "no message")
        return self._payloads.popleft()

    def send(self, payload: bytes) -> None:
        """Send one payload of at most 65,519 bytes."""
        if self._error is not None:
            raise self._error
        self._channel.send(payload)
        self._transport.write(self._channel.data_to_send())

    def close(self) -> None:
        """Send what was written and close. May be called more than once."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._channel.data_to_send())

    def data_received(self, data: bytes) -> None:
        if self._error is not None:
            return
        try:
            self._payloads += self._channel.receive(data)
            if len(self._payloads) > MAX_WAITING:
                raise ProtocolError("the peer talks out of turn")
        except ProtocolError as error:
            self._end(error.with_traceback(None))
            self._transport.close()
            return
        self._transport.write(self._channel.data_to_send())
        self._wake()

    def eof_received(self) -> bool:
        self._end(UnavailableError("the other side ended the dialogue"))
        return True  # an answer may still be on its way out; whoever talks closes

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(lost(exc) or UnavailableError("the other side ended the dialogue"))
        self._transport = NOWHERE
        if not self.closed.done():
            self.closed.set_result(None)

    async def _until(self, ready: Callable[[], bool], timeout: float, what: str) -> None:
        try:
            async with asyncio.timeout(timeout):
                while not ready():
                    if self._error is not None:
                        raise self._error
                    self._waiter = self._loop.create_future()
                    await self._waiter
        except TimeoutError:
            self._transport.abort()
            raise UnavailableError(f"{what} within {timeout:g} s") from None

    def _end(self, error: CloudtaserError) -> None:
        if self._error is None:
            self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
