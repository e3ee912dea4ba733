"""Calls: HTTP requests to a bridge over a few connections that stay open.

Used by `vault`. A TLS handshake a request, through broker and tunnel, would cost more than all the rest when
two thousand pods start at once. One request at a time on a connection; how many connections is bounded,
whoever comes beyond that waits. A request is never sent twice here: whether that does harm its caller knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, cast

from cloudtaser.errors import CloudtaserError, ProtocolError, UnavailableError
from cloudtaser.net.ends import NOWHERE, lost
from cloudtaser.wire.http1 import Body, End, Event, HttpError, ResponseHead, ResponseParser, encode_request

MAX_ANSWER: Final = 64 * 1024
IDLE_SECONDS: Final = 60.0
"""A connection that was idle for so long is not used again: the bridge closes its end after two minutes."""

Connect = Callable[[asyncio.Protocol], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. Header names are in lower case."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def header(self, name: bytes) -> bytes:
        """The first header of that name, or empty."""
        return next((value for key, value in self.headers if key == name), b"")


class Calls:
    """`connections` at most; `connect` connects a protocol to the other side, TLS included."""

    def __init__(self, connect: Connect, *, connections: int = 4) -> None:
        self._connect = connect
        self._places = asyncio.Semaphore(connections)
        self._idle: list[_Connection] = []

    async def call(
        self,
        method: bytes,
        target: bytes,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes = b"",
        *,
        timeout: float,
    ) -> Answer:
        """One request; `timeout` seconds for all of it, waiting for a connection included. UnavailableError,
        ProtocolError, and whatever `connect` raises."""
        length = len(body) if body or method not in (b"GET", b"HEAD") else None
        message = encode_request(method, target, headers, content_length=length) + body
        try:
            async with asyncio.timeout(timeout), self._places:
                connection = self._reuse()
                try:
                    if connection is None:
                        connection = _Connection()
                        await self._connect(connection)
                    answer = await connection.exchange(method, message)
                except BaseException:
                    if connection is not None:
                        connection.close()
                    raise
                if connection.reusable:
                    connection.idle_since = asyncio.get_running_loop().time()
                    self._idle.append(connection)
                else:
                    connection.close()
                return answer
        except TimeoutError:
            raise UnavailableError(f"the bridge did not answer within {timeout:g} s") from None

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().close()

    def _reuse(self) -> _Connection | None:
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable and now - connection.idle_since < IDLE_SECONDS:
                return connection
            connection.close()
        return None


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._transport: asyncio.Transport = NOWHERE
        self._parser = ResponseParser(max_body=MAX_ANSWER)
        self._head: ResponseHead | None = None
        self._body: list[bytes] = []
        self._size = 0
        self._answer: asyncio.Future[Answer] | None = None
        self.reusable = False
        self.idle_since = 0.0

    async def exchange(self, method: bytes, message: bytes) -> Answer:
        self.reusable = False
        self._head, self._body, self._size = None, [], 0
        self._answer = asyncio.get_running_loop().create_future()
        if self._transport is NOWHERE:
            raise UnavailableError("the connection to the bridge was closed")
        self._parser.expect(method)
        self._transport.write(message)
        return await self._answer

    def close(self) -> None:
        self.reusable = False
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            self._transport.abort()  # something unasked
            return
        try:
            self._act(self._parser.receive(data))
        except HttpError as error:
            self._fail(ProtocolError(f"not an answer of HTTP: {error.what}"))

    def eof_received(self) -> None:
        self.reusable = False
        try:
            self._act(self._parser.eof())
        except HttpError as error:
            self._fail(UnavailableError(f"no whole answer: {error.what}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = NOWHERE
        self.reusable = False
        self._fail(lost(exc) or UnavailableError("the bridge closed the connection before its answer"))

    def _act(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, ResponseHead):
                self._head = event
            elif isinstance(event, Body):
                self._size += len(event.data)
                if self._size > MAX_ANSWER:  # one without a length
                    raise HttpError(502, "longer than an answer may be")
                self._body.append(event.data)
            elif isinstance(event, End) and self._head is not None and self._answer is not None:
                self.reusable = self._head.keep_alive and self._transport is not NOWHERE
                if not self._answer.done():
                    answer = Answer(self._head.status, tuple(self._head.headers), b"".join(self._body))
                    self._answer.set_result(answer)

    def _fail(self, error: CloudtaserError) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
            self._answer.exception()  # whoever asked may have given up
