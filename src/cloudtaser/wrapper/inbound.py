"""HTTP/1.1 requests from strangers: one for each connection, read as strictly as it can be read.

`listener` moves the bytes. Anybody in the pod's network can send here, so nothing is guessed: CRLF only, one
Host, one length or none, no transfer coding, nothing behind the request, everything bounded (RFC 9112).
"""

from cloudtaser.wrapper.buffers import Buffer
from cloudtaser.wrapper.http1 import HttpError, header_line

MAX_HEAD = 8192
MAX_HEADERS = 50
MAX_BODY = 8192
_MAX_METHOD = 16
_MAX_DIGITS = 9

_LOOK_ALIKES = (b"content_length", b"transfer_encoding")
_VISIBLE = frozenset(range(33, 127))


class RequestError(HttpError):
    """What came is no request that this side answers; `status` says so to the sender."""

    def __init__(self, what: str, status: int = 400) -> None:
        super().__init__(what)
        self.status = status


class RequestReader:
    """Bytes in, one request out: `method`, `target`, and the `body` in a buffer that wipes itself."""

    __slots__ = ("_expected", "_head", "body", "method", "target", "wants_continue")

    def __init__(self) -> None:
        self._head = Buffer(1024, MAX_HEAD + 1)
        self._expected: int | None = None  # bytes of the body; None while the head is not complete
        self.method = b""
        self.target = b""
        self.body = Buffer(0, MAX_BODY)
        self.wants_continue = False

    @property
    def begun(self) -> bool:
        """Whether any of the request has come."""
        return bool(self._head)

    @property
    def has_head(self) -> bool:
        """Whether the head is complete."""
        return self._expected is not None

    @property
    def done(self) -> bool:
        """Whether the request is complete."""
        return self._expected is not None and len(self.body) == self._expected

    def receive(self, data: memoryview) -> None:
        """Take all of `data`. Raises RequestError where it is not one request, or more than that."""
        if self._expected is None:
            data = self._take_head(data)
        if self._expected is None:
            return
        if len(self.body) + len(data) > self._expected:
            raise RequestError("more than one request")
        self.body.append(data)

    def _take_head(self, data: memoryview) -> memoryview:
        """Add to the head; what is left of `data` behind it."""
        before = len(self._head)
        self._head.append(data[: MAX_HEAD - before + 1])  # a body may come with it
        end = self._head.find(b"\r\n\r\n", max(0, before - 3), len(self._head))
        if end + 4 > MAX_HEAD or (end < 0 and len(self._head) > MAX_HEAD):
            raise RequestError(f"a head of more than {MAX_HEAD} bytes", 431)
        if end < 0:
            self._refuse_early()
            return data[:0]
        self._head.truncate(end + 4)
        self._parse(bytes(self._head.view(0, end)).split(b"\r\n"))
        return data[end + 4 - before :]

    def _refuse_early(self) -> None:
        """What can be no request is not waited for: another protocol, a line that ends in LF alone."""
        end = self._head.find(b"\n", 0, len(self._head))
        if end == 0 or (end > 0 and self._head[end - 1] != 13):
            raise RequestError("a line that does not end in CRLF")
        if end > 0:
            _request_line(bytes(self._head.view(0, end - 1)))
        elif not all(byte in _VISIBLE or byte in (32, 13) for byte in self._head.view()[:64]):
            raise RequestError("this is no HTTP")

    def _parse(self, lines: list[bytes]) -> None:
        self.method, self.target = _request_line(lines[0])
        if len(lines) - 1 > MAX_HEADERS:
            raise RequestError(f"more than {MAX_HEADERS} header lines", 431)
        headers: dict[bytes, bytes] = {}
        for line in lines[1:]:
            name, value = _header(line)
            if name in _LOOK_ALIKES:
                raise RequestError("a header that could pass for another")
            if name in headers and name in (b"host", b"content-length", b"transfer-encoding", b"expect"):
                raise RequestError(f"two {name.decode()} headers")
            headers[name] = value
        if not headers.get(b"host"):
            raise RequestError("no Host")
        self._expected = self._length(headers)
        expect = headers.get(b"expect")
        if expect is not None and expect.lower() != b"100-continue":
            raise RequestError("an expectation that nobody meets", 417)
        self.wants_continue = expect is not None and self._expected > 0

    def _length(self, headers: dict[bytes, bytes]) -> int:
        if b"transfer-encoding" in headers:
            raise RequestError("a transfer coding, which is not read here", 501)
        length = headers.get(b"content-length")
        if length is None:
            if self.method == b"POST":
                raise RequestError("a body without a length", 411)
            return 0
        if not length.isdigit() or len(length) > _MAX_DIGITS or (length[:1] == b"0" and length != b"0"):
            raise RequestError("a length that is no number")
        if int(length) > MAX_BODY:
            raise RequestError(f"a body of more than {MAX_BODY} bytes", 413)
        if int(length) and self.method != b"POST":
            raise RequestError("a body where none may be")
        return int(length)


def _request_line(line: bytes) -> tuple[bytes, bytes]:
    """Method and target."""
    parts = line.split(b" ")
    if len(parts) != 3 or not parts[0].isalpha() or not parts[0].isupper() or len(parts[0]) > _MAX_METHOD:
        raise RequestError("this is no HTTP")
    if parts[2] != b"HTTP/1.1":
        raise RequestError("another version of HTTP", 505)
    if parts[1][:1] != b"/" or not _VISIBLE.issuperset(parts[1]):
        raise RequestError("a target that is no path")
    return parts[0], parts[1]


def _header(line: bytes) -> tuple[bytes, bytes]:
    try:
        return header_line(line)
    except HttpError as error:
        raise RequestError(error.what) from None


def write_response(status: int, body: bytes) -> bytes:
    """An answer, and the end of the connection."""
    reason = _REASONS.get(status, b"Refused")
    return (
        b"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
        b"Cache-Control: no-store\r\nConnection: close\r\n\r\n%s" % (status, reason, len(body), body)
    )


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_REASONS = {
    200: b"OK",
    400: b"Bad Request",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    409: b"Conflict",
    411: b"Length Required",
    413: b"Content Too Large",
    501: b"Not Implemented",
    503: b"Service Unavailable",
    505: b"HTTP Version Not Supported",
}
