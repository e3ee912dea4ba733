"""Rendezvous: the 40-byte hello with which a party enters a room at a beacon, and the one-byte answers.

Used by the beacon (decoding hellos, encoding refusals) and by `net.rendezvous` (the `Visitor`). Pure, and it
needs nothing outside the standard library, because the beacon does not. (spec/wire.md, "Rendezvous".)
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from cloudtaser.errors import ProtocolError

FAMILY: Final = b"CTB"
MAGIC: Final = FAMILY + b"1"
"""Every hello of ours begins with the family and one digit, its version."""
HELLO_SIZE: Final = 40
ROOM_SIZE: Final = 32
PARKED: Final = b"W"
MATCHED: Final = b"M"
MAX_RETRY_MS: Final = 0xFFFF

_W: Final = PARKED[0]
_M: Final = MATCHED[0]


class Role(enum.IntEnum):
    """Which side of a pair a visitor is; a bridge is paired with a broker only."""

    BRIDGE = 1
    BROKER = 2


class Refusal(enum.Enum):
    """Why a beacon turned a visitor away: the letter that is sent."""

    BAD_HELLO = "H"
    RATE_LIMITED = "R"
    ROOM_FULL = "F"
    PARKED_TOO_LONG = "T"
    SHUTTING_DOWN = "S"


_REFUSALS: Final = {ord(refusal.value): refusal for refusal in Refusal}


@dataclass(frozen=True, slots=True)
class Hello:
    """What a visitor says first: its role and its room (32 bytes). No flag has a meaning yet."""

    role: Role
    room: bytes
    flags: int = 0

    def encode(self) -> bytes:
        """The 40 bytes."""
        if len(self.room) != ROOM_SIZE:
            raise ProtocolError(f"a room hash has {ROOM_SIZE} bytes, not {len(self.room)}")
        return MAGIC + bytes((self.role, self.flags, 0, 0)) + self.room

    @staticmethod
    def decode(data: bytes) -> Hello:
        """The hello in exactly 40 bytes. ProtocolError on anything else."""
        if data[:4] != MAGIC and data.startswith(FAMILY) and data[3:4].isdigit():
            theirs, ours = data[:4].decode(), MAGIC.decode()
            raise ProtocolError(
                f"a hello of a newer or older release: it speaks {theirs}, we {ours}",
                fix="upgrade the older of the two",
            )
        if len(data) != HELLO_SIZE:
            raise ProtocolError(f"a hello has {HELLO_SIZE} bytes, not {len(data)}")
        if data[:4] != MAGIC:
            raise ProtocolError("a hello with the wrong magic")
        if data[4] not in (Role.BRIDGE, Role.BROKER):
            raise ProtocolError("a hello with an unknown role")
        if data[6] or data[7]:
            raise ProtocolError("a hello with reserved bytes set")
        return Hello(Role(data[4]), bytes(data[8:]), data[5])


def encode_refusal(refusal: Refusal, retry_ms: int = 0) -> bytes:
    """Three bytes: the letter, and after how many milliseconds to come back (0: its own backoff)."""
    return refusal.value.encode() + min(max(retry_ms, 0), MAX_RETRY_MS).to_bytes(2, "big")


@dataclass(frozen=True, slots=True)
class Parked:
    """The beacon holds us; said again every 20 s, so that a dead beacon is noticed."""


@dataclass(frozen=True, slots=True)
class Matched:
    """The other side is there. `early` are its first bytes, of the same read; what follows is its too."""

    early: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """The beacon said no and closes. `retry_ms` of 0 leaves the delay to us."""

    refusal: Refusal
    retry_ms: int


class Visitor:
    """A client's side of the rendezvous: send `hello()`, feed `receive()` until Matched or Refused."""

    __slots__ = ("_hello", "_over", "_refusal")

    def __init__(self, role: Role, room: bytes) -> None:
        self._hello = Hello(role, room).encode()
        self._refusal = b""
        self._over = False

    def hello(self) -> bytes:
        """The bytes to send once connected."""
        return self._hello

    def receive(self, data: bytes) -> list[Parked | Matched | Refused]:
        """What the beacon's bytes say, in order. After Matched the bytes are the peer's: not for here.

        Raises ProtocolError on a byte that is no answer, and on any call after Matched or Refused.
        """
        if self._over:
            raise ProtocolError("bytes for a rendezvous that is over")
        events: list[Parked | Matched | Refused] = []
        data = self._refusal + data
        for position, letter in enumerate(data):
            if letter == _W:
                if not events:  # one read full of them says nothing more than one
                    events.append(Parked())
            elif letter == _M:
                self._over = True
                events.append(Matched(bytes(data[position + 1 :])))
                return events
            elif letter in _REFUSALS:
                self._refusal = bytes(data[position : position + 3])
                if len(self._refusal) == 3:
                    self._over = True
                    retry_ms = int.from_bytes(self._refusal[1:], "big")
                    events.append(Refused(_REFUSALS[letter], retry_ms))
                return events
            else:
                self._over = True
                raise ProtocolError(
                    "an answer that no beacon gives", fix="check that the address is a cloudtaser beacon"
                )
        return events
