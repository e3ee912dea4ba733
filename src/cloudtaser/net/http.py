"""One HTTP/1.1 request over any transport: what a program asks through a stream of a tunnel.

Used by the bridge for the cluster's keys (through an `apiserver` stream) and by the operator for its stream
to the bridge. One request a connection, an answer of bounded size, one bound on the whole time. More than
that is a matter for aiohttp.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from cloudtaser.errors import CloudtaserError, ProtocolError, UnavailableError
from cloudtaser.wire.http1 import Body, End, Event, Headers, ResponseHead, ResponseParser, encode_request

MAX_BODY: Final = 1024 * 1024

Open = Callable[[asyncio.Protocol], Awaitable[asyncio.Transport]]
"""Connects the protocol that it is given; its transport takes `write` once this returns."""


async def request(
    connect: Open,
    method: bytes,
    target: bytes,
    headers: Sequence[tuple[bytes, bytes]],
    body: bytes,
    *,
    timeout: float,
    max_body: int = MAX_BODY,
) -> tuple[int, Headers, bytes]:
    """Status, headers and body of the answer. `timeout` in seconds, for everything together.

    UnavailableError when it takes longer or the connection ends early; ProtocolError for an answer that is
    none, or longer than `max_body` bytes.
    """
    exchange = _Exchange(method, max_body)
    where = target.decode("ascii", "replace")
    transport: asyncio.Transport | None = None
    try:
        async with asyncio.timeout(timeout):
            transport = await connect(exchange)
            transport.write(encode_request(method, target, headers, content_length=len(body)) + body)
            return await exchange.answer
    except TimeoutError:
        raise UnavailableError(f"no answer within {timeout:g} s", on=where) from None
    except OSError as error:
        raise UnavailableError(f"no connection: {error}", on=where) from None
    finally:
        exchange.answer.cancel()
        if transport is not None:
            transport.close()


class _Exchange(asyncio.Protocol):
    """Collects one answer."""

    def __init__(self, method: bytes, max_body: int) -> None:
        self.answer: asyncio.Future[tuple[int, Headers, bytes]] = asyncio.get_running_loop().create_future()
        self._parser = ResponseParser()
        self._parser.expect(method)
        self._max_body = max_body
        self._head: ResponseHead | None = None
        self._body = bytearray()

    def data_received(self, data: bytes) -> None:
        try:
            self._take(self._parser.receive(data))
        except ProtocolError as error:
            self._fail(error)

    def eof_received(self) -> None:
        try:
            self._take(self._parser.eof())
        except ProtocolError as error:
            self._fail(error)

    def connection_lost(self, exc: Exception | None) -> None:
        known = isinstance(exc, CloudtaserError)
        self._fail(exc if known and exc else UnavailableError("the connection ended early"))

    def _take(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, ResponseHead):
                self._head = event
            elif isinstance(event, Body):
                if len(self._body) + len(event.data) > self._max_body:
                    raise ProtocolError(f"an answer of more than {self._max_body} bytes")
                self._body += event.data
            elif isinstance(event, End) and self._head is not None and not self.answer.done():
                self.answer.set_result((self._head.status, self._head.headers, bytes(self._body)))

    def _fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()  # nobody may be waiting: that is no fault of the program
