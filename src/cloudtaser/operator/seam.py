"""The seam between the operator's two containers: frames on a Unix socket, whose peer is known by its uid.

Used by `manager_door`, `remote_manager` and `remote_exchanges` (the broker asks the manager) and by
`operator_door` and `remote_routes` (the manager asks the broker for streams to bridges). A frame is a 4-byte
big-endian length and one JSON object. Both sides hold the other for hostile: whoever has another uid is cut
off unheard, a frame has a bound, and so has the time it may take.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from pathlib import Path
from typing import Any, Final

from cloudtaser.errors import CloudtaserError, ConfigError, ProtocolError, RefusedError, UnavailableError
from cloudtaser.net.tls import reason
from cloudtaser.operator.exchange import BridgeRefusedError
from cloudtaser.operator.trust import TrustDiffersError
from cloudtaser.wire.bootstrap import Refusal
from cloudtaser.wire.strict_json import dump_object, parse_object

MAX_FRAME: Final = 512 * 1024
"""Bytes of one frame: a JWKS, a bundle of CAs and a lineage of 32 steps fit."""
FRAME_SECONDS: Final = 10.0
"""How long a frame may take to arrive where one is due at once."""
ANSWER_SECONDS: Final = 30.0
"""How long an answer may take: the manager asks the API server, several times at most."""
MANAGER_SOCKET: Final = "manager/manager.sock"
BROKER_SOCKET: Final = "broker/broker.sock"
"""Each in a directory of its own, which only the container that listens there can write: a name that somebody
else had made there (a directory, say) would keep it from starting."""

_LENGTH: Final = struct.Struct(">I")
_PEERCRED: Final = struct.Struct("3i")
_ERRORS: Final[dict[str, type[CloudtaserError]]] = {
    "trust_differs": TrustDiffersError,
    "unavailable": UnavailableError,
    "config": ConfigError,
    "protocol": ProtocolError,
    "refused": RefusedError,
}


class Frames:
    """Collects frames from bytes as they come."""

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self._limit = limit
        self._data = bytearray()

    def receive(self, data: bytes) -> list[dict[str, Any]]:
        """The frames that are whole now. ProtocolError for one that is too long or no JSON object."""
        self._data += data
        frames = []
        while (frame := self.next()) is not None:
            frames.append(frame)
        return frames

    def feed(self, data: bytes) -> None:
        """Take bytes without looking at them; `next` does."""
        self._data += data

    def next(self) -> dict[str, Any] | None:
        """The next whole frame, or None."""
        if len(self._data) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._data)
        if length > self._limit:
            raise ProtocolError(f"a frame of {length} bytes, {self._limit} may be")
        if len(self._data) < _LENGTH.size + length:
            return None
        body = bytes(self._data[_LENGTH.size : _LENGTH.size + length])
        del self._data[: _LENGTH.size + length]
        return parse_object(body, what="a frame between manager and broker", limit=self._limit)

    @property
    def rest(self) -> bytes:
        """What came behind the last frame."""
        return bytes(self._data)


def frame(fields: dict[str, Any]) -> bytes:
    """One frame. ProtocolError when it is longer than the other side takes."""
    body = dump_object(fields)
    if len(body) > MAX_FRAME:
        raise ProtocolError(f"a frame of {len(body)} bytes, {MAX_FRAME} may be")
    return _LENGTH.pack(len(body)) + body


async def read_frame(reader: asyncio.StreamReader, seconds: float) -> dict[str, Any]:
    """The next frame of a stream. UnavailableError when it ends or takes too long, ProtocolError when bad."""
    try:
        async with asyncio.timeout(seconds):
            (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
            if length > MAX_FRAME:
                raise ProtocolError(f"a frame of {length} bytes, {MAX_FRAME} may be")
            body = await reader.readexactly(length)
    except TimeoutError:
        raise UnavailableError(f"no frame within {seconds:g} s") from None
    except (asyncio.IncompleteReadError, OSError):
        raise UnavailableError("the other container closed the connection") from None
    return parse_object(body, what="a frame between manager and broker", limit=MAX_FRAME)


def failure(error: CloudtaserError) -> dict[str, Any]:
    """An error as the frame that the other side raises again."""
    if isinstance(error, BridgeRefusedError):
        return {"error": "bridge_refused", "code": error.code, "what": error.message}
    code = next((code for code, kind in _ERRORS.items() if isinstance(error, kind)), "refused")
    return {"error": code, "what": error.what, "on": error.on, "fix": error.fix}


def raise_failure(fields: dict[str, Any]) -> None:
    """Raise the error that a frame holds, if it holds one."""
    if fields.get("error") == "bridge_refused":
        raise BridgeRefusedError(Refusal(error=text(fields, "code"), message=text(fields, "what")))
    if "error" in fields:
        kind = _ERRORS.get(str(fields["error"]), RefusedError)
        raise kind(
            str(fields.get("what", "refused")), on=str(fields.get("on", "")), fix=str(fields.get("fix", ""))
        )


def text(fields: dict[str, Any], name: str) -> str:
    """A field that must be there and be text; ProtocolError otherwise."""
    value = fields.get(name)
    if not isinstance(value, str):
        raise ProtocolError(f"a frame between manager and broker has no text {name!r}")
    return value


def peer_uid(transport: asyncio.BaseTransport) -> int:
    """The uid of the process at the other end, as the kernel recorded it when it connected (unix(7))."""
    sock = transport.get_extra_info("socket")
    _, uid, _ = _PEERCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
    return int(uid)


def bind(path: str) -> socket.socket:
    """A listening Unix socket for us and our group. ConfigError when it cannot be made.

    What a predecessor left is removed: the container was restarted, the directory was not. It is made where
    none is mounted.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        Path(path).parent.mkdir(mode=0o770, exist_ok=True)
        Path(path).unlink(missing_ok=True)
        listener.bind(path)
        os.chmod(path, 0o660)  # the group is the pod's; the uid is checked besides
        listener.listen(64)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen for the other container: {reason(error)}",
            on=path,
            fix="mount a directory there, writable by the pod's fsGroup, read-only in the other container",
        ) from None
    return listener
