"""One HTTP request over any connection.

Used by the bridge to read an API server's keys through an `apiserver` stream, and by the operator to hand
over its reviewer token: a request now and then, each on a connection of its own. (The bridge's hot path has
its own session and pool.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, cast

from cloudtaser.errors import CloudtaserError, ProtocolError, UnavailableError
from cloudtaser.net.ends import NOWHERE, lost
from cloudtaser.wire.http1 import Body, End, HttpError, ResponseHead, ResponseParser, encode_request

MAX_BODY: Final = 1024 * 1024
"""Bytes of a response's body, unless the caller says otherwise."""

Response = tuple[int, tuple[tuple[bytes, bytes], ...], bytes]


async def request(
    open: Callable[[asyncio.Protocol], Awaitable[object]],
    method: bytes,
    target: bytes,
    headers: Iterable[tuple[bytes, bytes]],
    body: bytes = b"",
    *,
    timeout: float,
    max_body: int = MAX_BODY,
) -> Response:
    """Send one request and return status, headers (names in lower case) and body; the connection is closed.

    `open` connects the protocol it is given; `headers` must hold the host. All of it, `open` included, has
    `timeout` seconds. Raises UnavailableError, ProtocolError, and whatever `open` raises.
    """
    length = len(body) if body or method not in (b"GET", b"HEAD") else None
    fields = (*headers, (b"connection", b"close"))
    exchange = _Exchange(
        method, encode_request(method, target, fields, content_length=length) + body, max_body
    )
    try:
        async with asyncio.timeout(timeout):
            await open(exchange)
            return await exchange.response
    except TimeoutError:
        raise UnavailableError(f"no answer within {timeout:g} s") from None
    finally:
        exchange.close()


class _Exchange(asyncio.Protocol):
    def __init__(self, method: bytes, message: bytes, max_body: int) -> None:
        self._message = message
        self._transport: asyncio.Transport = NOWHERE
        self._parser = ResponseParser(max_body=max_body)
        self._parser.expect(method)
        self._head: ResponseHead | None = None
        self._body: list[bytes] = []
        self._left = max_body
        self.response: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._message)

    def data_received(self, data: bytes) -> None:
        if self.response.done():
            return
        try:
            self._act(self._parser.receive(data))
        except HttpError as error:
            self._fail(ProtocolError(f"not an answer of HTTP: {error.what}"))

    def eof_received(self) -> None:
        try:
            self._act(self._parser.eof())
        except HttpError as error:
            self._fail(UnavailableError(f"no whole answer: {error.what}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = NOWHERE
        self._fail(lost(exc) or UnavailableError("the connection was closed before the answer was whole"))

    def close(self) -> None:
        """The exchange is over, with or without an answer."""
        if self.response.done():
            self._transport.close()
        else:
            self.response.cancel()
            self._transport.abort()

    def _act(self, events: list[ResponseHead | Body | End]) -> None:
        for event in events:
            if isinstance(event, ResponseHead):
                self._head = event
            elif isinstance(event, Body):
                self._left -= len(event.data)
                if self._left < 0:
                    self._fail(ProtocolError("the answer is larger than it may be"))
                    return
                self._body.append(event.data)
            elif self._head is not None and not self.response.done():
                headers = tuple(self._head.headers)
                self.response.set_result((self._head.status, headers, b"".join(self._body)))

    def _fail(self, error: CloudtaserError) -> None:
        if not self.response.done():
            self.response.set_exception(error)
            self.response.exception()  # `open` may have raised first, then nobody asks
