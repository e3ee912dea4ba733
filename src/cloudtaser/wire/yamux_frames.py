"""yamux's frames and events: the 12-byte header, what can happen on a session, and what is known of a stream.

Used by `yamux`, which holds the rules; the events are what its callers act on.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

INITIAL_WINDOW: Final = 262144
HEADER_SIZE: Final = 12

GO_AWAY_NORMAL: Final = 0
GO_AWAY_PROTOCOL_ERROR: Final = 1
GO_AWAY_INTERNAL_ERROR: Final = 2

DATA: Final = 0
WINDOW_UPDATE: Final = 1
PING: Final = 2
GO_AWAY: Final = 3

SYN: Final = 1
ACK: Final = 2
FIN: Final = 4
RST: Final = 8

MAX_UINT32: Final = 0xFFFFFFFF

_HEADER: Final = struct.Struct(">BBHII")  # version, type, flags, stream id, length
pack: Final = _HEADER.pack
unpack_from: Final = _HEADER.unpack_from


# Events are made tens of thousands of times a second: slotted, and not frozen, which would triple their cost.


@dataclass(slots=True)
class StreamOpened:
    """The peer opened a stream; it is accepted unless it is reset."""

    id: int


@dataclass(slots=True)
class Data:
    """Bytes of a stream, in order. Say `consumed()` once they have gone on."""

    id: int
    data: bytes


@dataclass(slots=True)
class HalfClosed:
    """The peer sends no more on this stream; we still may."""

    id: int


@dataclass(slots=True)
class Reset:
    """The stream is gone, both ways."""

    id: int


@dataclass(slots=True)
class WindowGrew:
    """A stream that could not take all its bytes can take more."""

    id: int


@dataclass(slots=True)
class Pong:
    """The peer answered a `ping()`."""

    nonce: int


@dataclass(slots=True)
class GoAway:
    """The peer opens and accepts no more streams; with a code other than 0 it ends the session."""

    code: int


Event = StreamOpened | Data | HalfClosed | Reset | WindowGrew | Pong | GoAway


class Stream:
    """One stream, as its side of the session knows it."""

    __slots__ = (
        "blocked",
        "credit",
        "flags",
        "held",
        "id",
        "local_closed",
        "receive_window",
        "remote_closed",
        "send_window",
        "unacknowledged",
    )

    def __init__(self, stream_id: int, flags: int, window: int) -> None:
        self.id = stream_id
        self.flags = flags  # SYN or ACK, until a frame has carried it
        self.send_window = INITIAL_WINDOW
        self.receive_window = window
        self.credit = 0  # consumed, and not yet given back to the peer
        self.blocked = False
        self.held: list[bytes] | None = (
            None  # our frames, while the peer's backlog has no place for the stream
        )
        self.unacknowledged = False
        self.local_closed = False
        self.remote_closed = False
