"""Protocol: what a wrapper and the agent say to each other on the agent's socket, as a state machine over
bytes.

Each frame is a 4-byte big-endian length and a JSON object of at most 4096 bytes. The wrapper asks to be
registered, gets one answer, and then reports its protection score, as often as that changes. Knows no
socket and no process: `socket` moves the bytes, `agent` decides. Identity is never taken from a
message.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from cloudtaser.errors import ProtocolError
from cloudtaser.wire.strict_json import dump_object, parse_object

VERSION: Final = 1
MAX_FRAME: Final = 4096
_MAX_NAME: Final = 253
_LENGTH: Final = struct.Struct(">I")


class Refusal(StrEnum):
    """Why a process is not registered."""

    TRACED = "traced"
    HELD = "held"
    LIMIT = "limit"
    NOT_ALLOWED = "not_allowed"
    BUSY = "busy"
    BAD_REQUEST = "bad_request"
    VERSION = "version"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Register:
    """The peer asks to be protected; `container` is what it calls itself, for people only."""

    container: str


@dataclass(frozen=True, slots=True)
class Score:
    """The peer, which is registered, reports its protection score as it measured it."""

    score: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Malformed:
    """The peer said what the protocol does not have; after the answer the connection ends."""

    refusal: Refusal
    message: str


Event = Register | Score | Malformed


class Conversation:
    """One connection, the agent's side."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._registered = self._asked = self._over = False

    def receive(self, data: bytes) -> list[Event]:
        """What these bytes complete; nothing more after a `Malformed`."""
        if self._over:
            return []
        self._buffer += data
        events: list[Event] = []
        while not self._over and (frame := self._next()) is not None:
            events.append(self._read(frame))
        return events

    def _next(self) -> bytes | Malformed | None:
        if len(self._buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer)
        if not 0 < length <= MAX_FRAME:
            return Malformed(Refusal.BAD_REQUEST, f"a frame has 1 to {MAX_FRAME} bytes")
        end = _LENGTH.size + length
        if len(self._buffer) < end:
            return None
        frame = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        return frame

    def _read(self, frame: bytes | Malformed) -> Event:
        event = frame if isinstance(frame, Malformed) else self._parse(frame)
        if isinstance(event, Malformed):
            self._over = True
            self._buffer.clear()
        elif isinstance(event, Register):
            self._asked = True
        return event

    def _parse(self, frame: bytes) -> Event:
        try:
            message = parse_object(frame, what="the message", limit=MAX_FRAME)
        except ProtocolError as error:
            return Malformed(Refusal.BAD_REQUEST, error.what)
        version = message.get("v")
        if version != VERSION or isinstance(version, bool):
            return Malformed(Refusal.VERSION, f"this agent speaks version {VERSION}")
        if "register" in message:
            return self._parse_register(message["register"])
        if "score" in message:
            return self._parse_score(message["score"])
        return Malformed(Refusal.BAD_REQUEST, "neither register nor score")

    def _parse_register(self, wish: object) -> Event:
        if self._asked:
            return Malformed(Refusal.BAD_REQUEST, "one registration a connection")
        container = wish.get("container", "") if isinstance(wish, dict) else None
        if (
            not isinstance(container, str)
            or len(container) > _MAX_NAME
            or not (container + "x").isprintable()
        ):
            return Malformed(Refusal.BAD_REQUEST, "register has a container's name, or an empty one")
        return Register(container)

    def _parse_score(self, score: object) -> Event:
        if not self._registered:
            return Malformed(Refusal.BAD_REQUEST, "a score comes after a registration")
        if not isinstance(score, dict):
            return Malformed(Refusal.BAD_REQUEST, "score is an object")
        return Score(score)

    def accept(self, *, mode: str, tier: str, known: int, hold: int) -> bytes:
        """The answer to `Register` once the kernel knows the process."""
        self._registered = True
        return encode(
            {"v": VERSION, "ok": True, "mode": mode, "tier": tier, "vectors": {"known": known, "hold": hold}}
        )

    def refuse(self, refusal: Refusal, message: str) -> bytes:
        """The other answer; the connection ends with it."""
        self._over = True
        return encode(
            {"v": VERSION, "ok": False, "error": refusal.value, "message": " ".join(message.split())[:512]}
        )

    def thank(self) -> bytes:
        """The answer to `Score`."""
        return encode({"v": VERSION, "ok": True})


def encode(message: dict[str, Any]) -> bytes:
    """One frame."""
    body = dump_object(message)
    assert len(body) <= MAX_FRAME
    return _LENGTH.pack(len(body)) + body
