"""HTTP/1.1, framed so that nothing a second parser could read otherwise gets through.

Used by the bridge for pods and for OpenBao, and by `net.http`. Parsers take bytes in any pieces and give
heads, pieces of bodies and ends; writers give bytes. Bodies stream: at most one head or chunk line is kept.
A parser that has raised is done: answer with `error.status` (on a server) and close.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from http import HTTPStatus
from typing import Final, cast

from cloudtaser.errors import ProtocolError
from cloudtaser.wire.http1_chunks import ChunkedBody
from cloudtaser.wire.http1_head import Body as Body
from cloudtaser.wire.http1_head import End as End
from cloudtaser.wire.http1_head import Event as Event
from cloudtaser.wire.http1_head import Headers as Headers
from cloudtaser.wire.http1_head import HttpError as HttpError
from cloudtaser.wire.http1_head import RequestHead as RequestHead
from cloudtaser.wire.http1_head import ResponseHead as ResponseHead
from cloudtaser.wire.http1_head import parse_request_head, parse_response_head

MAX_HEAD: Final = 16384
MAX_TARGET: Final = 8192
MAX_HEADERS: Final = 100
MAX_INTERIM: Final = 8

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"

_REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus}
_STATUS_LINES: Final = {value: b"HTTP/1.1 %d %s\r\n" % (value, reason) for value, reason in _REASONS.items()}
_FRAMING: Final = frozenset((b"content-length", b"transfer-encoding"))
_BODILESS: Final = frozenset((204, 304))

_HEAD, _LENGTH, _CHUNKED, _CLOSE, _FAILED = range(5)


class _Parser(ABC):
    """What both directions share: finding heads, and bodies by their framing."""

    def __init__(self, max_head: int, max_headers: int, max_body: int | None) -> None:
        self._max_head = max_head
        self._max_headers = max_headers
        self._max_body = max_body
        self._state = _HEAD
        self._kept = b""  # of a head that is not whole
        self._left = 0
        self._chunks = ChunkedBody(self._max_body)

    @property
    def idle(self) -> bool:
        """Whether the parser is between messages, without a byte of the next one."""
        return self._state == _HEAD and not self._kept

    def _receive(self, data: bytes | memoryview) -> list[Event]:
        if self._state == _FAILED:
            raise HttpError(400, "bytes behind a message that was refused")
        if type(data) is not bytes:
            data = bytes(data)
        if self._kept:
            data = self._kept + data
            self._kept = b""
        events: list[Event] = []
        try:
            self._read(data, events)
        except HttpError as error:
            self._state = _FAILED
            error.events = events
            raise
        return events

    def _read(self, data: bytes, events: list[Event]) -> None:
        position, size = 0, len(data)
        while position < size:
            if self._state == _HEAD:
                end = data.find(b"\r\n\r\n", position, position + self._max_head)
                if end < 0:
                    self._keep(data[position:])
                    return
                end += 4
                self._on_head(data[position:end], events)
                position = end
            elif self._state == _LENGTH:
                end = min(position + self._left, size)
                events.append(Body(data[position:end]))
                self._left -= end - position
                position = end
                if not self._left:
                    self._end(events)
            elif self._state == _CHUNKED:
                position = self._read_chunks(data, position, events)
            else:
                events.append(Body(data[position:]))
                return

    def _read_chunks(self, data: bytes, position: int, events: list[Event]) -> int:
        position = self._chunks.feed(data, position, events)
        if self._chunks.done:
            self._end(events)
        return position

    def _keep(self, part: bytes) -> None:
        """Hold a part of a head, unless it can already be seen that nothing good will come of it."""
        part = part[: self._max_head]
        if part.count(b"\n") != part.count(b"\r\n"):
            raise HttpError(400, "a head with bare line ends")
        if len(part) >= self._max_head:
            raise HttpError(431, f"a head longer than {self._max_head} bytes")
        self._kept = part

    @abstractmethod
    def _on_head(self, head: bytes, events: list[Event]) -> None:
        """A whole head: parse it, add its event, and choose how its body is framed."""

    def _check_length(self, length: int | None) -> None:
        if length is not None and self._max_body is not None and length > self._max_body:
            raise HttpError(413, f"a body longer than {self._max_body} bytes")

    def _begin_body(self, length: int | None, chunked: bool, events: list[Event]) -> None:
        if chunked:
            self._chunks = ChunkedBody(self._max_body)
            self._state = _CHUNKED
        elif length:
            self._left = length
            self._state = _LENGTH
        else:
            self._end(events)

    def _end(self, events: list[Event]) -> None:
        self._state = _HEAD
        events.append(End())


class RequestParser(_Parser):
    """A server's side: pipelined requests simply follow each other."""

    def __init__(
        self,
        max_head: int = MAX_HEAD,
        *,
        max_target: int = MAX_TARGET,
        max_headers: int = MAX_HEADERS,
        max_body: int | None = None,
    ) -> None:
        super().__init__(max_head, max_headers, max_body)
        self._max_target = max_target

    def receive(self, data: bytes | memoryview) -> list[RequestHead | Body | End]:
        """What `data` says. HttpError when it is refused; its `events` are what came before."""
        return cast("list[RequestHead | Body | End]", self._receive(data))

    def _on_head(self, head: bytes, events: list[Event]) -> None:
        request = parse_request_head(head, self._max_target, self._max_headers)
        self._check_length(request.content_length)
        events.append(request)
        self._begin_body(request.content_length, request.chunked, events)


class ResponseParser(_Parser):
    """A client's side. Say `expect()` for each request sent: a response's framing depends on its method."""

    def __init__(
        self, max_head: int = MAX_HEAD, *, max_headers: int = MAX_HEADERS, max_body: int | None = None
    ) -> None:
        super().__init__(max_head, max_headers, max_body)
        self._expected: deque[bytes] = deque()
        self._interim = 0

    @property
    def idle(self) -> bool:
        """Whether every response that was asked for has come, whole."""
        return super().idle and not self._expected

    def expect(self, method: bytes) -> None:
        """A request with `method` has been sent."""
        self._expected.append(method)

    def receive(self, data: bytes | memoryview) -> list[ResponseHead | Body | End]:
        """What `data` says; interim responses (1xx) say nothing. HttpError (502) when it is refused."""
        try:
            return cast("list[ResponseHead | Body | End]", self._receive(data))
        except HttpError as error:
            error.status = 502
            raise

    def eof(self) -> list[ResponseHead | Body | End]:
        """The server sends no more, which ends a body without declared length. HttpError when cut short."""
        if self._state == _CLOSE:
            self._state = _HEAD
            self._expected.clear()
            return [End()]
        if not self.idle:
            self._state = _FAILED
            raise HttpError(502, "a response that breaks off")
        return []

    def _on_head(self, head: bytes, events: list[Event]) -> None:
        if not self._expected:
            raise HttpError(502, "a response that nobody asked for")
        response = parse_response_head(head, self._max_headers)
        if response.status < 200:
            self._on_interim(response)
            return
        self._interim = 0
        method = self._expected.popleft()
        if method == b"HEAD" or response.status in _BODILESS:
            events.append(response)
            self._end(events)
        elif response.chunked or response.content_length is not None:
            self._check_length(response.content_length)
            events.append(response)
            self._begin_body(response.content_length, response.chunked, events)
        else:
            response.keep_alive = False
            events.append(response)
            self._state = _CLOSE

    def _on_interim(self, response: ResponseHead) -> None:
        self._interim += 1
        if response.status == 101:
            raise HttpError(502, "a change of protocol that nobody asked for")
        if response.chunked or response.content_length:
            raise HttpError(502, "an interim response with a body")
        if self._interim > MAX_INTERIM:
            raise HttpError(502, "interim responses without end")


def encode_request(
    method: bytes,
    target: bytes,
    headers: Iterable[tuple[bytes, bytes]],
    *,
    content_length: int | None,
    chunked: bool = False,
) -> bytes:
    """A request's head. Framing headers among `headers` are left out: the arguments say what the body is.

    ProtocolError when a field would break out of its line.
    """
    line = b"%b %b HTTP/1.1\r\n" % (method, target)
    if line.count(b" ") != 2:
        raise ProtocolError("a method or target that would break out of its place")
    return _encode(line, headers, content_length, chunked)


def encode_response_head(
    status: int,
    headers: Iterable[tuple[bytes, bytes]],
    *,
    content_length: int | None = None,
    chunked: bool = False,
) -> bytes:
    """A response's head, as `encode_request`. Without framing the body lasts until the connection closes."""
    line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
    return _encode(line, headers, content_length, chunked)


def chunk(data: bytes) -> bytes:
    """`data` as one chunk; nothing when it is empty, since an empty chunk ends the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def simple_response(status: int, json_body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """A whole response with a JSON body, which stays out at a status that has none."""
    if status in _BODILESS:
        return encode_response_head(status, headers)
    fields = ((b"content-type", b"application/json"), *headers)
    return encode_response_head(status, fields, content_length=len(json_body)) + json_body


def _encode(
    line: bytes, headers: Iterable[tuple[bytes, bytes]], content_length: int | None, chunked: bool
) -> bytes:
    lines = [b"%b: %b\r\n" % field for field in headers if field[0].lower() not in _FRAMING]
    if chunked:
        lines.append(b"transfer-encoding: chunked\r\n")
    elif content_length is not None:
        lines.append(b"content-length: %d\r\n" % content_length)
    head = b"%b%b\r\n" % (line, b"".join(lines))
    ends = len(lines) + 2
    if head.count(b"\n") != ends or head.count(b"\r") != ends or b"\0" in head:
        raise ProtocolError("a header that would break out of its line")
    return head
