"""A link: one connection of a beacon, as `pump` moves its bytes and `server` decides about it."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from enum import IntEnum
from typing import Protocol

from cloudtaser.wire.rendezvous import Role

# Told of each relayed batch: the side it came from ("bridge" or "broker"), the room, the bytes.
Tap = Callable[[str, bytes, memoryview], None]


class State(IntEnum):
    """Where a connection is in its life."""

    HANDSHAKING = 0
    TALKING = 1  # with the beacon: hello, then parked
    RELAYING = 2
    LEAVING = 3  # the last bytes go out, what comes in is dropped
    CLOSED = 4


class Link:
    """One connection: a socket, its TLS, and what is on its way out."""

    __slots__ = (
        "__weakref__",
        "early",
        "ended",
        "fd",
        "finished",
        "host",
        "last",
        "peer",
        "pending",
        "reading",
        "relayed",
        "role",
        "room",
        "since",
        "sock",
        "state",
        "tls",
        "verdict",
    )

    def __init__(self, sock: socket.socket, tls: ssl.SSLObject, host: str, now: float) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.tls = tls
        self.host = host
        self.since = now  # of accept, then of the match
        self.last = now  # when bytes were last relayed from here
        self.state = State.HANDSHAKING
        self.peer: Link | None = None
        self.pending: memoryview | None = None  # what the kernel has not taken yet
        self.reading = True
        self.ended = False  # no more will come from here
        self.finished = False  # no more will be sent here
        self.relayed = 0  # bytes from here to the peer
        self.role: Role | None = None
        self.room = b""
        self.early = b""
        self.verdict: int | None = None  # milliseconds to stay away: refused before a word was said


class Listener(Protocol):
    """What the pump reports. A link that is reported lost is already closed."""

    def established(self, link: Link) -> None:
        """The TLS handshake is done."""

    def handshake_failed(self, link: Link, reason: str) -> None:
        """There will be no TLS with this one."""

    def heard(self, link: Link, data: bytes) -> None:
        """Bytes from a party that is not matched."""

    def gone(self, link: Link) -> None:
        """A party that is not matched has left or broken off."""

    def pair_over(self, link: Link, peer: Link, reason: str) -> None:
        """A pair is no more: `finished` when both sides were done, else what `link` did."""

    def closed(self, link: Link) -> None:
        """The socket is closed; the very last thing heard of a link."""

    def failed(self, link: Link, error: Exception) -> None:
        """A fault in the beacon itself ended this link."""


def side(link: Link) -> str:
    """The role of a link that has said its hello, in a word."""
    return "bridge" if link.role is Role.BRIDGE else "broker"
