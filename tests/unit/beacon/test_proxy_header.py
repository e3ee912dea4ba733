"""A PROXY header adds up to the last bit or is refused, and not one byte behind it is read."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.beacon.proxy_header import FIXED, MAX_SIZE, SIGNATURE, crc32c, missing, parse
from cloudtaser.errors import ProtocolError

V4 = socket.inet_aton("203.0.113.9") + socket.inet_aton("10.0.0.1") + struct.pack("!HH", 40000, 443)
V6 = (
    socket.inet_pton(socket.AF_INET6, "2001:db8::9")
    + socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    + struct.pack("!HH", 40000, 443)
)


def header(body: bytes = V4, family: int = 0x11, command: int = 0x21) -> bytes:
    return SIGNATURE + bytes((command, family)) + struct.pack("!H", len(body)) + body


def extension(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def with_checksum(body: bytes, wrong: int = 0) -> bytes:
    blank = header(body + extension(3, bytes(4)))
    return blank[:-4] + struct.pack("!I", crc32c(blank) ^ wrong)


def test_crc32c_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43


def test_a_source_is_told_for_both_families() -> None:
    assert parse(header()) == "203.0.113.9"
    assert parse(header(V6, 0x21)) == "2001:db8::9"
    assert parse(header(V4 + extension(2, b"beacon.example") + extension(4, b""))) == "203.0.113.9"


def test_a_balancer_may_speak_for_itself() -> None:
    assert parse(header(b"", 0x00, 0x20)) is None
    assert parse(header(V4, 0x11, 0x20)) is None
    assert parse(header(b"\xff" * 100, 0xEE, 0x20)) is None  # whatever stands there is to be skipped
    assert parse(header(b"", 0x00)) is None
    assert parse(header(bytes(216), 0x31)) is None


def test_a_checksum_is_verified_where_there_is_one() -> None:
    assert parse(with_checksum(V4)) == "203.0.113.9"
    assert parse(with_checksum(V4 + extension(2, b"a.example"))) == "203.0.113.9"
    for wrong in (1, 1 << 31):
        with pytest.raises(ProtocolError, match="checksum"):
            parse(with_checksum(V4, wrong))
    good = with_checksum(V4)
    forged = good.replace(socket.inet_aton("203.0.113.9"), socket.inet_aton("203.0.113.8"))
    with pytest.raises(ProtocolError, match="checksum"):
        parse(forged)
    twice = header(V4 + good[-7:] + good[-7:])
    with pytest.raises(ProtocolError, match="checksum"):
        parse(twice)
    with pytest.raises(ProtocolError, match="checksum"):
        parse(header(V4 + extension(3, b"abc")))


@pytest.mark.parametrize(
    "said",
    [
        header(command=0x22),
        header(command=0x11),
        header(command=0x31),
        header(family=0x12),
        header(family=0x22),
        header(family=0x41),
        header(V4[:-1]),
        header(V6[:-1], 0x21),
        header(b""),
        header(V4 + b"\x04"),
        header(V4 + b"\x04\x00"),
        header(V4 + b"\x04\x00\x01"),
        header(V4 + b"\x04\xff\xff" + bytes(100)),
        header() + b"x",
        header()[:-1],
    ],
)
def test_what_does_not_add_up_is_refused(said: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse(said)


@pytest.mark.parametrize(
    "said",
    [b"PROXY TCP4 203.0.113.9 10.0.0.1 40000 443\r\n", b"\x16\x03\x01\x02\x00", b"G", SIGNATURE[:-1] + b"x"],
)
def test_what_is_no_header_is_refused_at_its_first_wrong_byte(said: bytes) -> None:
    with pytest.raises(ProtocolError):
        missing(said)


def test_a_header_is_bounded_before_it_is_read() -> None:
    at_most = MAX_SIZE - FIXED
    assert missing(header(bytes(at_most))[:FIXED]) == at_most
    with pytest.raises(ProtocolError, match="too long"):
        missing(header(bytes(at_most + 1))[:FIXED])


@given(rest=st.binary(max_size=64), step=st.integers(1, 40))
def test_reading_stops_exactly_where_the_tls_begins(rest: bytes, step: int) -> None:
    whole = with_checksum(V4 + extension(2, b"beacon.example"))
    stream, read = whole + rest, b""
    while wanted := missing(read):
        piece = stream[len(read) : len(read) + min(wanted, step)]
        read += piece
    assert read == whole
    assert parse(read) == "203.0.113.9"


@given(st.binary(max_size=300))
def test_no_bytes_bring_anything_but_an_answer_or_a_typed_error(data: bytes) -> None:
    for said in (data, header(data), header(data, 0x21), SIGNATURE + data):
        try:
            if missing(said) == 0:
                parse(said)
        except ProtocolError:
            pass
