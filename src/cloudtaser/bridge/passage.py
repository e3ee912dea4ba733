"""Passage: how one request goes on to OpenBao: its head as the gate wrote it, its body as it comes.

Used by `turn`. A request with a body leaves when its body is whole or more than HELD is there of it, so that
whoever sends slowly holds no connection to OpenBao with a few bytes.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from cloudtaser.bridge.exchange import Exchange, Receiver
from cloudtaser.bridge.refusal import too_long
from cloudtaser.bridge.upstream import Upstream
from cloudtaser.bridge.verdict import CORRELATION_HEADER, READS, Allowed
from cloudtaser.wire.http1 import LAST_CHUNK, RequestHead, chunk, encode_request

MAX_BODY: Final = 32 * 1024 * 1024
"""Bytes of a request's body, as OpenBao's own bound."""
HELD: Final = 32 * 1024
"""Bytes of a request kept until its body is whole."""


class Passage:
    """One request on its way. The answer goes to `receiver`."""

    def __init__(
        self, upstream: Upstream, receiver: Receiver, allowed: Allowed, correlation: str, owner: Hashable
    ) -> None:
        self._upstream = upstream
        self._receiver = receiver
        self._allowed = allowed
        self._correlation = correlation
        self._owner = owner
        self._exchange: Exchange | None = None
        self._unsent = bytearray()
        self._chunked = False
        self._length: int | None = None
        self._size = 0
        self._over = False

    def open(self, head: RequestHead) -> None:
        """The request's head; without a body that is all of it."""
        method = self._allowed.method
        self._chunked = head.chunked
        self._length = head.content_length
        if self._length is None and not self._chunked and method not in READS:
            self._length = 0
        data = self._encode(self._length, chunked=self._chunked)
        if self._length or self._chunked:
            self._unsent += data
        else:
            self._start(data, ended=True, repeatable=method in READS)

    def whole(self, body: bytes) -> None:
        """The request at once, with a body that was read and written anew."""
        self._start(self._encode(len(body)) + body, ended=True)

    def body(self, data: bytes) -> None:
        """The next part of the body. RequestRefused when there is too much of it."""
        self._size += len(data)
        if self._size > MAX_BODY:
            raise too_long(MAX_BODY)
        last = not self._chunked and self._size == self._length
        self._send(chunk(data) if self._chunked else data, last=last)

    def end(self) -> None:
        """There is no more of it."""
        if self._chunked:
            self._send(LAST_CHUNK, last=True)

    def pause(self) -> None:
        """Read no more of the answer for now."""
        if self._exchange is not None:
            self._exchange.pause()

    def resume(self) -> None:
        """Read on."""
        if self._exchange is not None:
            self._exchange.resume()

    def answered(self) -> None:
        """The answer is there, to its end."""
        self._over = True
        self._exchange = None

    def cancel(self) -> None:
        """The answer is not wanted any more."""
        self._over = True
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.cancel()

    def _send(self, data: bytes, *, last: bool) -> None:
        if self._exchange is not None:
            self._exchange.send(data, last=last)
        elif not self._over:
            self._unsent += data
            if last or len(self._unsent) > HELD:
                self._start(bytes(self._unsent), ended=last)

    def _start(self, data: bytes, *, ended: bool, repeatable: bool = False) -> None:
        self._unsent.clear()
        self._exchange = self._upstream.send(
            self._allowed.method,
            data,
            self._receiver,
            ended=ended,
            repeatable=repeatable,
            owner=self._owner,
        )

    def _encode(self, length: int | None, *, chunked: bool = False) -> bytes:
        allowed = self._allowed
        headers = (
            (b"host", self._upstream.host_header),
            *allowed.headers,
            (CORRELATION_HEADER, self._correlation.encode()),
        )
        return encode_request(allowed.method, allowed.target, headers, content_length=length, chunked=chunked)
