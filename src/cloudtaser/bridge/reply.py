"""Reply: how one answer goes back to a pod: framing, header allow-list, and when it is held to add a line.

Used by `turn`. Takes OpenBao's answer event by event and gives the bytes to write; an answer that is held is
given out whole by `release`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cloudtaser.bridge.verdict import CORRELATION_HEADER
from cloudtaser.wire.http1 import LAST_CHUNK, ResponseHead, chunk, encode_response_head

MAX_HELD: Final = 65536
"""Bytes of an answer that is held; a longer one passes as it is."""

_CLOSE: Final = (b"connection", b"close")
_JSON: Final = (b"content-type", b"application/json")
_NO_STORE: Final = (b"cache-control", b"no-store")
_PASSED: Final = frozenset(
    {b"content-type", b"cache-control", b"content-encoding", b"retry-after", b"etag", b"last-modified"}
)
_BODILESS: Final = frozenset({204, 304})


class Reply:
    """One answer. `begun` once its head has been given out; it cannot be another one then."""

    __slots__ = ("_chunked", "_head", "_held", "_size", "begun", "correlation", "last", "status")

    def __init__(self) -> None:
        self.correlation = ""
        self.last = False
        """The stream ends after it."""
        self.status = 0
        self.begun = False
        self._chunked = False
        self._head: ResponseHead | None = None
        self._held: list[bytes] | None = None
        self._size = 0

    def whole(self, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
        """The bridge's own answer, in JSON."""
        self._held = None
        length = None if status in _BODILESS else len(body)
        return self._begin(status, [_JSON, _NO_STORE, *headers], length) + body

    def open(self, head: ResponseHead) -> bytes:
        """OpenBao's answer begins, and passes."""
        length = head.content_length
        self._chunked = length is None and head.status not in _BODILESS
        return self._begin(head.status, _passed(head), length)

    def hold(self, head: ResponseHead) -> None:
        """OpenBao's answer begins, and is held until it is whole."""
        self._head = head
        self._held = []
        self.status = head.status

    def data(self, data: bytes) -> bytes:
        """The next part of it; what is to be written now."""
        if self._held is None:
            return chunk(data) if self._chunked else data
        self._held.append(data)
        self._size += len(data)
        if self._size <= MAX_HELD:
            return b""
        assert self._head is not None
        held, self._held = self._held, None
        return self.open(self._head) + b"".join(self.data(part) for part in held)

    def end(self) -> bytes:
        """It is whole, and was not held."""
        return LAST_CHUNK if self._chunked else b""

    def held(self) -> tuple[int, bytes] | None:
        """Status and body of an answer that was held to its end."""
        if self._held is None:
            return None
        return self.status, b"".join(self._held)

    def release(self, body: bytes) -> bytes:
        """A held answer, with another body."""
        assert self._head is not None
        self._held = None
        length = None if self._head.status in _BODILESS else len(body)
        return self._begin(self._head.status, _passed(self._head), length) + body

    def _begin(self, status: int, headers: list[tuple[bytes, bytes]], length: int | None) -> bytes:
        self.status = status
        self.begun = True
        headers.append((CORRELATION_HEADER, self.correlation.encode()))
        if self.last:
            headers.append(_CLOSE)
        return encode_response_head(status, headers, content_length=length, chunked=self._chunked)


def _passed(head: ResponseHead) -> list[tuple[bytes, bytes]]:
    return [pair for pair in head.headers if pair[0] in _PASSED]
