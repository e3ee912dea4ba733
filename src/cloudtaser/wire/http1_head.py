"""HTTP/1.1 heads: the grammar that leaves no second reading, and what it says of the framing.

Used by `http1`. Header lines are split by llhttp (httptools). Before it sees them each byte is checked, since
llhttp takes more than we do (folded lines, control bytes), and afterwards headers are counted against lines.
The first line is ours to read: llhttp knows a fixed list of methods, without OpenBao's LIST.
(RFC 9112; spec/bridge.md, "What the bridge lets through".)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import httptools

from cloudtaser.errors import ProtocolError

Headers = tuple[tuple[bytes, bytes], ...]

_REQUEST_LINE: Final = re.compile(rb"([A-Z]{1,24}) (\S+) HTTP/1\.([01])")
_ORIGIN_FORM: Final = re.compile(rb"/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/?]++|%[0-9A-Fa-f]{2})*+")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?")
_LENGTH: Final = re.compile(rb"0|[1-9][0-9]{0,14}")
_HOST: Final = re.compile(rb"[A-Za-z0-9.\-_:\[\]%]{0,255}")
_TEXT: Final = bytes(b for b in range(256) if b == 9 or (b >= 32 and b != 127))
_ANY_REQUEST_LINE: Final = b"GET / HTTP/1.1\r\n"


class HttpError(ProtocolError):
    """A message that is refused. A server answers `status`; `events` came before it in the same read."""

    def __init__(self, status: int, what: str) -> None:
        super().__init__(what)
        self.status = status
        self.events: list[Event] = []


@dataclass(slots=True)
class RequestHead:
    """A request, without its body. Names are lower-case; it is `chunked` or has a length, never both."""

    method: bytes
    target: bytes
    headers: Headers
    content_length: int | None
    chunked: bool
    keep_alive: bool
    expect_continue: bool


@dataclass(slots=True)
class ResponseHead:
    """A response, without its body. `content_length` is as declared, even where no body follows (HEAD)."""

    status: int
    headers: Headers
    content_length: int | None
    chunked: bool
    keep_alive: bool


@dataclass(slots=True)
class Body:
    """A piece of the body, never empty."""

    data: bytes


@dataclass(slots=True)
class End:
    """The message is whole."""


Event = RequestHead | ResponseHead | Body | End


def parse_request_head(head: bytes, max_target: int, max_headers: int) -> RequestHead:
    """The request in `head`, which ends with an empty line. HttpError when it is not one we let through."""
    line_end = head.find(b"\r\n")
    _check_bytes(head)
    line = _REQUEST_LINE.fullmatch(head, 0, line_end)
    if line is None:
        raise HttpError(400, "not an HTTP/1.1 request line")
    method, target, minor = line.groups()
    if len(target) > max_target:
        raise HttpError(414, f"a request target longer than {max_target} bytes")
    if not _ORIGIN_FORM.fullmatch(target):
        raise HttpError(400, "a request target that is not a plain path")
    fields = _Fields(head, line_end, max_headers)
    current = minor == b"1"
    if not current and (fields.codings or fields.expect):
        raise HttpError(400, "an HTTP/1.0 request with what only HTTP/1.1 has")
    if len(fields.hosts) > 1 or (current and not fields.hosts):
        raise HttpError(400, "a request without exactly one Host")
    if fields.hosts and not _HOST.fullmatch(fields.hosts[0]):
        raise HttpError(400, "a request with a Host that is none")
    if fields.expect and fields.expect.lower() != b"100-continue":
        raise HttpError(417, "an expectation that we do not meet")
    chunked, length = fields.framing()
    return RequestHead(
        method, target, fields.headers, length, chunked, current and not fields.close, bool(fields.expect)
    )


def parse_response_head(head: bytes, max_headers: int) -> ResponseHead:
    """The response in `head`, which ends with an empty line. HttpError when it is not one we let through."""
    line_end = head.find(b"\r\n")
    _check_bytes(head)
    line = _STATUS_LINE.fullmatch(head, 0, line_end)
    if line is None:
        raise HttpError(502, "not an HTTP/1.1 status line")
    fields = _Fields(head, line_end, max_headers)
    current = line[1] == b"1"
    if not current and fields.codings:
        raise HttpError(502, "an HTTP/1.0 response with what only HTTP/1.1 has")
    chunked, length = fields.framing()
    return ResponseHead(int(line[2]), fields.headers, length, chunked, current and not fields.close)


class _Fields:
    """The header lines of one head, and those of them that bear on framing."""

    __slots__ = ("close", "codings", "expect", "headers", "hosts", "lengths")

    def __init__(self, head: bytes, line_end: int, max_headers: int) -> None:
        collector = _Collector()
        try:
            httptools.HttpRequestParser(collector).feed_data(_ANY_REQUEST_LINE + head[line_end + 2 :])
        except httptools.HttpParserUpgrade as error:
            raise HttpError(501, "a change of protocol, which we do not make") from error
        except httptools.HttpParserError as error:
            raise HttpError(400, "headers that do not parse") from error
        found = collector.found
        if len(found) != head.count(b"\r\n") - 2:
            raise HttpError(400, "header lines that could be read in two ways")
        if len(found) > max_headers:
            raise HttpError(431, f"more than {max_headers} headers")
        self.headers: Headers = tuple(found)
        self.lengths: list[bytes] = []
        self.codings: list[bytes] = []
        self.hosts: list[bytes] = []
        self.expect = b""
        self.close = False
        for name, value in found:
            if name in _SPECIAL:
                self._special(name, value)

    def _special(self, name: bytes, value: bytes) -> None:
        if name == b"content-length":
            self.lengths.append(value)
        elif name == b"transfer-encoding":
            self.codings.append(value)
        elif name == b"host":
            self.hosts.append(value)
        elif name == b"connection":
            tokens = [token.strip(b" \t") for token in value.lower().split(b",")]
            self.close = self.close or b"close" in tokens
        elif name == b"expect":
            self.expect = self.expect + b"," + value if self.expect else value or b"?"
        elif name == b"upgrade":
            raise HttpError(501, "a change of protocol, which we do not make")
        else:
            raise HttpError(400, "a header that could pass for another")

    def framing(self) -> tuple[bool, int | None]:
        """Whether the body is chunked, and its declared length. HttpError where readers could differ."""
        if self.codings:
            if self.lengths or len(self.codings) > 1:
                raise HttpError(400, "a message with two framings")
            if self.codings[0].lower() != b"chunked":
                raise HttpError(501, "a transfer coding other than chunked")
            return True, None
        if not self.lengths:
            return False, None
        if len(self.lengths) > 1 or not _LENGTH.fullmatch(self.lengths[0]):
            raise HttpError(400, "a message with a length that could be read in two ways")
        return False, int(self.lengths[0])


_SPECIAL: Final = frozenset(
    (
        b"content-length",
        b"transfer-encoding",
        b"host",
        b"connection",
        b"expect",
        b"upgrade",
        b"content_length",
        b"transfer_encoding",
    )
)


class _Collector:
    """What llhttp calls."""

    __slots__ = ("found",)

    def __init__(self) -> None:
        self.found: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.found.append((name.lower(), value.rstrip(b" \t")))


def _check_bytes(head: bytes) -> None:
    """Only text and whole line ends; no line that continues the one before (obs-fold)."""
    ends = head.translate(None, _TEXT)
    if ends != b"\r\n" * (len(ends) >> 1):
        raise HttpError(400, "a head with bare line ends or control bytes")
    if b"\r\n " in head or b"\r\n\t" in head:
        raise HttpError(400, "a head with a folded line")
