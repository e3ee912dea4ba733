"""Chunked bodies: the one reading of RFC 9112 §7.1 that leaves no other.

Used by `http1`. Extensions and trailers are checked, bounded and dropped: nobody behind us sees them.
"""

from __future__ import annotations

import re
from typing import Final

from cloudtaser.wire.http1_head import Body, Event, HttpError

MAX_SIZE_LINE: Final = 256
MAX_TRAILERS: Final = 4096

_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})(?:[ \t]*;[\t\x20-\x7e]*)?")
_TRAILER_LINE: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+")

_SIZE, _DATA, _DATA_END, _TRAILERS, _DONE = range(5)


class ChunkedBody:
    """Takes a chunked body apart, in any pieces."""

    __slots__ = ("_left", "_max_body", "_partial", "_state", "_total", "_trailers")

    def __init__(self, max_body: int | None) -> None:
        self._max_body = max_body
        self._state = _SIZE
        self._left = 0
        self._partial = b""
        self._trailers = 0
        self._total = 0

    @property
    def done(self) -> bool:
        """Whether the last chunk and the trailers are behind us."""
        return self._state == _DONE

    def feed(self, data: bytes, position: int, events: list[Event]) -> int:
        """Read from `position`, adding to `events`; where reading stopped: the end of data or of the body."""
        size = len(data)
        while self._state != _DONE and position < size:
            if self._state == _DATA:
                end = min(position + self._left, size)
                events.append(Body(data[position:end]))
                self._left -= end - position
                position = end
                if not self._left:
                    self._state = _DATA_END
                continue
            line, position = self._line(data, position)
            if line is not None:
                self._on_line(line)
        return position

    def _on_line(self, line: bytes) -> None:
        if self._state == _SIZE:
            found = _SIZE_LINE.fullmatch(line)
            if found is None:
                raise HttpError(400, "a chunk whose size could be read in two ways")
            self._left = int(found[1], 16)
            self._total += self._left
            if self._max_body is not None and self._total > self._max_body:
                raise HttpError(413, f"a body longer than {self._max_body} bytes")
            self._state = _DATA if self._left else _TRAILERS
        elif self._state == _DATA_END:
            self._state = _SIZE
        elif not line:
            self._state = _DONE
        else:
            self._trailers += len(line) + 2
            if self._trailers > MAX_TRAILERS:
                raise HttpError(431, "trailers too long")
            if not _TRAILER_LINE.fullmatch(line):
                raise HttpError(400, "trailers that could be read in two ways")

    def _line(self, data: bytes, position: int) -> tuple[bytes | None, int]:
        """The next line without its CRLF, or None while it is not whole; and where it ends."""
        limit = 2 if self._state == _DATA_END else MAX_TRAILERS if self._state == _TRAILERS else MAX_SIZE_LINE
        kept = len(self._partial)
        window = self._partial + data[position : position + limit - kept]
        feed = window.find(b"\n")
        if feed < 0:
            if len(window) >= limit:
                raise HttpError(400, "a chunk, or a line of one, longer than it may be")
            self._partial = window
            return None, len(data)
        if feed == 0 or window[feed - 1] != 13:
            raise HttpError(400, "a chunk line with a bare line end")
        self._partial = b""
        return window[: feed - 1], position + feed + 1 - kept
