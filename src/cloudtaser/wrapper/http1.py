"""HTTP/1.1 as OpenBao and the bridge speak it: one request written, one response read, nothing guessed.

`connection` moves the bytes. As strict as `wire.http1`, with which it shares test vectors: CRLF only, one
body length and no second opinion about it, no folding, no unknown transfer coding, everything bounded. The
body goes straight into a `Buffer`.
"""

from cloudtaser.wrapper.buffers import Buffer
from cloudtaser.wrapper.errors import ProtocolError

MAX_HEAD = 16384
MAX_BODY = 8 << 20
MAX_INTERIM = 8
_MAX_CHUNK_LINE = 64
_MAX_DIGITS = 12

_HEAD, _LENGTH, _CHUNK_LINE, _CHUNK, _CHUNK_END, _TRAILER, _DONE = range(7)
_TOKEN = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_TEXT = b"\t" + bytes(byte for byte in range(256) if byte >= 32 and byte != 127)
_USUAL_HEAD = 1024
_VERSION = b"HTTP/1.1 "
_HEX = frozenset(b"0123456789abcdefABCDEF")


class HttpError(ProtocolError):
    """The peer does not speak HTTP/1.1 as it should; the connection must be closed."""


class Response:
    """One response: `status`, headers by lower-case name, the body. `keep_alive` says if another may
    follow.
    """

    __slots__ = ("body", "headers", "keep_alive", "status")

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = Buffer(0, MAX_BODY)
        self.keep_alive = False

    def retry_after(self) -> float:
        """Seconds the server asks to wait; 0 where it does not say so in plain seconds."""
        value = self.headers.get(b"retry-after", b"")
        return float(int(value)) if value.isdigit() and len(value) < 7 else 0.0


class ResponseReader:
    """Bytes in, one response out. `receive` takes what belongs to it and leaves the rest to the next
    reader.
    """

    __slots__ = ("_interim", "_line", "_remaining", "_scanned", "_state", "_trailer", "response")

    def __init__(self) -> None:
        self.response = Response()
        self._line = Buffer(1024, MAX_HEAD)
        self._state = _HEAD
        self._scanned = 0
        self._remaining = 0
        self._trailer = 0
        self._interim = 0

    @property
    def done(self) -> bool:
        """Whether the response is complete."""
        return self._state == _DONE

    @property
    def begun(self) -> bool:
        """Whether any of the response has come."""
        return self._state != _HEAD or len(self._line) > 0

    def receive(self, data: memoryview) -> int:
        """Take from `data` what belongs to this response; how many bytes. Raises HttpError."""
        taken = 0
        while taken < len(data) and self._state != _DONE:
            if self._state in (_LENGTH, _CHUNK):
                taken += self._content(data[taken:])
            elif self._state == _HEAD:
                taken += self._head(data[taken:])
            else:
                taken += self._chunk_lines(data[taken:])
        return taken

    def _content(self, data: memoryview) -> int:
        count = min(len(data), self._remaining)
        try:
            self.response.body.append(data[:count])
        except OverflowError:
            raise HttpError(f"a body of more than {MAX_BODY} bytes") from None
        self._remaining -= count
        if not self._remaining:
            self._state = _DONE if self._state == _LENGTH else _CHUNK_END
        return count

    def _take_line(self, data: memoryview, limit: int) -> tuple[int, int]:
        """Add to the line buffer up to the next LF; (bytes taken, offset of the LF or -1). CR must precede
        LF.
        """
        before = len(self._line)
        count = min(len(data), limit - before)
        self._line.append(data[:count])
        at = self._line.find(b"\n", before, len(self._line))
        if at < 0:
            if len(self._line) >= limit:
                raise HttpError(f"a head or line of more than {limit} bytes")
            return count, -1
        self._line.truncate(at + 1)
        if at == 0 or self._line[at - 1] != 13:
            raise HttpError("a line that does not end in CRLF")
        return at + 1 - before, at

    def _head(self, data: memoryview) -> int:
        return (self._whole_head(data) if not len(self._line) else 0) or self._head_line(data)

    def _whole_head(self, data: memoryview) -> int:
        """How long the head is that `data` begins with, read at once; 0 where it comes in pieces."""
        line = self._line
        line.append(data[:_USUAL_HEAD])
        end = line.find(b"\r\n\r\n", 0, len(line))
        if end > 0:
            self._finish_head(end)
            return end + 4
        line.truncate(0)
        return 0

    def _head_line(self, data: memoryview) -> int:
        taken, at = self._take_line(data, MAX_HEAD)
        if at < 0:
            return taken
        line_start, self._scanned = self._scanned, at + 1
        if at - 1 != line_start:
            return taken
        if not line_start:
            raise HttpError("an empty line before the status")
        self._finish_head(line_start - 2)
        return taken

    def _finish_head(self, end: int) -> None:
        """The line buffer holds the lines of a head up to `end`."""
        if self._line.view(0, len(_VERSION)) != _VERSION:  # it may be the rest of a body: no copy of it
            raise HttpError("a status line that is not HTTP/1.1")
        head = bytes(self._line.view(0, end))
        self._line.truncate(0)
        self._scanned = 0
        self._parse_head(head.split(b"\r\n"))

    def _parse_head(self, lines: list[bytes]) -> None:
        response = self.response
        status = _status(lines[0])
        headers: dict[bytes, bytes] = {}
        for line in lines[1:]:
            name, value = header_line(line)
            if name in headers and name in (b"content-length", b"transfer-encoding"):
                raise HttpError("two lengths")
            if name in (b"content_length", b"transfer_encoding"):
                raise HttpError("a header that could pass for another")
            headers[name] = value if name not in headers else headers[name] + b", " + value
        if 100 <= status < 200:
            if status == 101:
                raise HttpError("a change of protocol nobody asked for")
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise HttpError("interim answers without end")
            return
        response.status = status
        response.headers = headers
        options = [option.strip().lower() for option in headers.get(b"connection", b"").split(b",")]
        response.keep_alive = b"close" not in options
        self._frame(status, headers)

    def _frame(self, status: int, headers: dict[bytes, bytes]) -> None:
        length, coding = headers.get(b"content-length"), headers.get(b"transfer-encoding")
        if length is not None and coding is not None:
            raise HttpError("both a length and a transfer coding")
        if coding is not None:
            if coding.lower() != b"chunked" or status in (204, 304):
                raise HttpError("a transfer coding other than chunked")
            self._state = _CHUNK_LINE
            return
        if length is not None:
            if not length.isdigit() or len(length) > _MAX_DIGITS or (length[:1] == b"0" and length != b"0"):
                raise HttpError("a length that is no number")
            self._remaining = int(length)
        elif status not in (204, 304):
            raise HttpError("a body without a length")
        if self._remaining > MAX_BODY:
            raise HttpError(f"a body of more than {MAX_BODY} bytes")
        if status in (204, 304):
            if self._remaining and status == 204:
                raise HttpError("a body where none may be")
            self._remaining = 0
        self._state = _LENGTH if self._remaining else _DONE
        if self._remaining:
            self.response.body.reserve(self._remaining)

    def _chunk_lines(self, data: memoryview) -> int:
        """Between chunks. A line that is wrong may be a part of a secret, and is not copied."""
        taken, at = self._take_line(data, MAX_HEAD if self._state == _TRAILER else _MAX_CHUNK_LINE)
        if at < 0:
            return taken
        if self._state == _CHUNK_END:
            if at > 1:
                raise HttpError("a chunk longer than it says")
            self._state = _CHUNK_LINE
        elif self._state == _CHUNK_LINE:
            self._chunk_size(at - 1)
        else:
            self._take_trailer(at)
        self._line.truncate(0)
        return taken

    def _take_trailer(self, at: int) -> None:
        self._trailer += at + 1
        if self._trailer > MAX_HEAD:
            raise HttpError(f"trailers of more than {MAX_HEAD} bytes")
        if at > 1:
            header_line(bytes(self._line.view(0, at - 1)))
        else:
            self._state = _DONE

    def _chunk_size(self, length: int) -> None:
        """The first `length` bytes of the line are the size of the chunk to come."""
        with self._line.view(0, length) as line:
            if not 0 < length <= 8 or not _HEX.issuperset(line):
                raise HttpError("a chunk size that is no number")
            self._remaining = int(bytes(line), 16)
        if self._remaining + len(self.response.body) > MAX_BODY:
            raise HttpError(f"a body of more than {MAX_BODY} bytes")
        self._state = _CHUNK if self._remaining else _TRAILER


def _status(line: bytes) -> int:
    if (
        line[:9] != _VERSION
        or not line[9:12].isdigit()
        or line[12:13] not in (b" ", b"")
        or line[9:10] < b"1"
    ):
        raise HttpError("a status line that is not HTTP/1.1")
    if not _is_text(line[12:]):
        raise HttpError("a control character in the status line")
    return int(line[9:12])


def header_line(line: bytes) -> tuple[bytes, bytes]:
    """One header: its lower-case name and its value. Raises HttpError."""
    name, colon, value = line.partition(b":")
    if not colon or not name or name.translate(None, _TOKEN):
        raise HttpError("a header line without a proper name")
    value = value.strip(b" \t")
    if not _is_text(value):
        raise HttpError("a control character in a header")
    return name.lower(), value


def _is_text(value: bytes) -> bool:
    return not value.translate(None, _TEXT)


def write_request(
    method: bytes, target: bytes, headers: list[tuple[bytes, bytes | memoryview]], body: Buffer | None
) -> Buffer:
    """One request in a buffer of its own. Header values must be checked by the caller (no CR, no LF)."""
    request = Buffer(1024, MAX_BODY)
    plain = [method, b" ", target, b" HTTP/1.1\r\n"]
    for name, value in headers:
        plain += (name, b": ")
        if isinstance(value, memoryview):  # a secret, which never becomes bytes
            request.append(b"".join(plain))
            request.append(value)
            plain = []
        else:
            plain.append(value)
        plain.append(b"\r\n")
    if body is not None:
        plain.append(b"Content-Length: %d\r\n" % len(body))
    plain.append(b"\r\n")
    request.append(b"".join(plain))
    if body is not None:
        request.append(body.view())
    return request
