"""FrameWatch: what no honest HTTP/2 peer sends, seen in the frames' heads before an HTTP/2 library gets them.

Used by the broker's reverse port in front of gRPC, whose library takes header blocks without end: it drops
what is too much, but its memory grows with every frame of it (RFC 9113, section 10.5). Pure: the caller
passes the time. Frames are not kept; a chunk may end anywhere in one.
"""

from __future__ import annotations

from typing import Final

from cloudtaser.errors import ProtocolError

MAX_HEADERS: Final = 32 * 1024
"""Bytes of one header block, in however many frames."""
CONTROL_RATE: Final = 100.0
"""Frames a second that carry neither data nor a header block nor a window: SETTINGS, PING, RST_STREAM, …"""
CONTROL_BURST: Final = 2000
"""The same, at once: an L7 proxy that loses all of its streams resets them together."""

_HEAD: Final = 9
_DATA, _HEADERS, _WINDOW_UPDATE, _CONTINUATION = 0x0, 0x1, 0x8, 0x9
_END_HEADERS: Final = 0x4


class FrameWatch:
    """Give it every byte of one direction, the connection preface first."""

    def __init__(self, preface: int) -> None:
        """`preface`: how many bytes come before the first frame."""
        self._skip = preface
        self._head = b""
        self._block: int | None = None
        self._allowed = float(CONTROL_BURST)
        self._at: float | None = None

    def receive(self, data: bytes, now: float) -> None:
        """ProtocolError when these bytes are not to be passed on, and the connection is to be cut."""
        at, end = 0, len(data)
        while True:
            step = min(self._skip, end - at)
            self._skip -= step
            at += step
            if at >= end:
                return
            part = data[at : at + _HEAD - len(self._head)]
            at += len(part)
            self._head += part
            if len(self._head) < _HEAD:
                return
            head, self._head = self._head, b""
            self._skip = int.from_bytes(head[:3], "big")
            self._frame(head[3], head[4], now)

    def _frame(self, kind: int, flags: int, now: float) -> None:
        if kind == _HEADERS or (kind == _CONTINUATION and self._block is not None):
            self._block = (self._block or 0) + self._skip + _HEAD
            if self._block > MAX_HEADERS:
                raise ProtocolError(f"HTTP/2 headers of more than {MAX_HEADERS} bytes")
            if flags & _END_HEADERS:
                self._block = None
        elif kind not in (_DATA, _WINDOW_UPDATE):
            since = now - self._at if self._at is not None else 0.0
            self._allowed = min(float(CONTROL_BURST), self._allowed + since * CONTROL_RATE) - 1
            self._at = now
            if self._allowed < 0:
                raise ProtocolError("a flood of HTTP/2 control frames")
