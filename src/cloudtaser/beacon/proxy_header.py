"""PROXY protocol, version 2: who a balancer says is behind a connection of its own.

Used by `entrance` for connections from listed balancers only. Pure: `missing` says how many bytes to read
next, so that not one byte of the TLS behind the header is touched; `parse` takes the whole header.
(https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, §2.2.)
"""

from __future__ import annotations

import socket
from typing import Final

from cloudtaser.errors import ProtocolError

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
FIXED: Final = 16
"""Bytes before the addresses."""
MAX_SIZE: Final = FIXED + 2048
"""Bytes of a whole header; balancers send some 50 to 500."""

_VERSION_LOCAL: Final = 0x20
_VERSION_PROXY: Final = 0x21
_TCP4: Final = 0x11
_TCP6: Final = 0x21
_ADDRESSES: Final = {_TCP4: 12, _TCP6: 36, 0x00: 0, 0x31: 216}  # unspecified, and a Unix socket: no address
_CRC32C: Final = 0x03


def missing(data: bytes) -> int:
    """How many bytes to read before asking again; 0 when the header is whole. ProtocolError as soon as what
    is there can be none, or a longer one than MAX_SIZE."""
    if not data.startswith(SIGNATURE[: len(data)]):
        raise ProtocolError("no PROXY header of version 2")
    if len(data) < FIXED:
        return FIXED - len(data)
    size = FIXED + int.from_bytes(data[14:16], "big")
    if size > MAX_SIZE:
        raise ProtocolError("a PROXY header that is too long")
    return size - len(data)


def parse(header: bytes) -> str | None:
    """The address of the party behind the balancer; None when the balancer speaks for itself (LOCAL), or
    tells no address that a network knows. ProtocolError for anything that does not add up."""
    if missing(header) != 0:
        raise ProtocolError("a PROXY header that is cut short")
    command, family = header[12], header[13]
    if command == _VERSION_LOCAL:
        return None
    if command != _VERSION_PROXY:
        raise ProtocolError("a PROXY header of another version or command")
    size = _ADDRESSES.get(family)
    if size is None:
        raise ProtocolError("a PROXY header for something other than TCP")
    if len(header) < FIXED + size:
        raise ProtocolError("a PROXY header without its addresses")
    _check_extensions(header, FIXED + size)
    if family == _TCP4:
        return socket.inet_ntop(socket.AF_INET, header[FIXED : FIXED + 4])
    if family == _TCP6:
        return socket.inet_ntop(socket.AF_INET6, header[FIXED : FIXED + 16])
    return None


def _check_extensions(header: bytes, position: int) -> None:
    """The type-length-values behind the addresses fill the header exactly, and the checksum holds if one
    is there. What they say is not used."""
    while position < len(header):
        value = position + 3
        end = value + int.from_bytes(header[position + 1 : value], "big")
        if value > len(header) or end > len(header):
            raise ProtocolError("a PROXY header whose extensions do not fit into it")
        if header[position] == _CRC32C:
            blank = header[:value] + bytes(4) + header[end:]
            if end - value != 4 or crc32c(blank) != int.from_bytes(header[value:end], "big"):
                raise ProtocolError("a PROXY header with a wrong checksum")
        position = end


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli, RFC 3720 B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _entry(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_TABLE: Final = tuple(_entry(byte) for byte in range(256))
