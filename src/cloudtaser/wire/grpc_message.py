"""The one message of `tunnel.proto`, encoded and decoded: bytes in a gRPC stream (reverse mode).

Used by `net.grpc_stream`. Pure. One field of type bytes needs no code generator; the decoder takes every
well-formed message, skips fields that it does not know and refuses what is too long. (spec/wire.md, "Tunnel";
Protocol Buffers encoding, proto3.)
"""

from __future__ import annotations

from typing import Final

from cloudtaser.errors import ProtocolError

METHOD: Final = "/cloudtaser.tunnel.v1.Tunnel/Connect"
MAX_DATA: Final = 64 * 1024
"""Bytes of data in one message."""
MAX_MESSAGE: Final = MAX_DATA + 1024
"""A whole message: there may be fields that a later version adds."""

_DATA: Final = 1
_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5
_MAX_VARINT: Final = 10


def encode(data: bytes) -> bytes:
    """The message that carries `data`, which has at most MAX_DATA bytes."""
    assert len(data) <= MAX_DATA
    length, prefix = len(data), bytearray(b"\x0a")
    while length > 0x7F:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix) + data


def decode(message: bytes) -> bytes:
    """The data of a message, b"" when it has none. ProtocolError when it is malformed or too long."""
    if len(message) > MAX_MESSAGE:
        raise ProtocolError(f"a gRPC message of {len(message)} bytes; {MAX_MESSAGE} are allowed")
    data, at = b"", 0
    while at < len(message):
        tag, at = _varint(message, at)
        field, kind = tag >> 3, tag & 7
        if not field:
            raise _malformed()
        if kind == _LEN:
            length, at = _varint(message, at)
            if length > len(message) - at:
                raise _malformed()
            if field == _DATA:
                data = message[at : at + length]
            at += length
        elif field == _DATA:
            raise _malformed()
        elif kind == _VARINT:
            _, at = _varint(message, at)
        elif kind in (_I64, _I32):
            at += 8 if kind == _I64 else 4
            if at > len(message):
                raise _malformed()
        else:
            raise _malformed()
    if len(data) > MAX_DATA:
        raise ProtocolError(f"a gRPC message with {len(data)} bytes of data; {MAX_DATA} are allowed")
    return data


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for position in range(_MAX_VARINT):
        if at + position >= len(message):
            raise _malformed()
        byte = message[at + position]
        value |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            return value, at + position + 1
    raise _malformed()


def _malformed() -> ProtocolError:
    return ProtocolError("a gRPC message that is not one of cloudtaser's")
