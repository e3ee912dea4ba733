"""The message of a gRPC stream: every well-formed one is read, every other refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.errors import ProtocolError
from cloudtaser.wire.grpc_message import MAX_DATA, decode, encode


@given(st.binary(max_size=300))
def test_what_is_encoded_is_decoded(data: bytes) -> None:
    assert decode(encode(data)) == data


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, MAX_DATA])
def test_every_length_has_its_prefix(size: int) -> None:
    assert decode(encode(b"x" * size)) == b"x" * size


def test_the_encoding_is_that_of_protocol_buffers() -> None:
    assert encode(b"CTB1") == bytes.fromhex("0a0443544231")
    assert encode(b"a" * 300)[:3] == bytes.fromhex("0aac02")


def test_no_field_at_all_is_no_data() -> None:
    assert decode(b"") == b""


def test_the_last_of_several_counts_as_proto3_has_it() -> None:
    assert decode(encode(b"one") + encode(b"two")) == b"two"


def test_fields_of_a_later_version_are_skipped() -> None:
    later = bytes.fromhex("109601") + bytes.fromhex("1a03616263") + bytes.fromhex("2501020304")
    later += bytes.fromhex("290102030405060708")
    assert decode(later + encode(b"data") + later) == b"data"


@pytest.mark.parametrize(
    "message",
    [
        b"\x0a",  # a length is missing
        b"\x0a\x05abcd",  # longer than what is there
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",  # a number without an end
        b"\x08\x01",  # data is not a number
        b"\x02\x00",  # field 0
        b"\x0b",  # a group
        b"\x15\x01",  # cut short
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_malformed_is_refused(message: bytes) -> None:
    with pytest.raises(ProtocolError, match="not one of cloudtaser's"):
        decode(message)


def test_what_is_too_long_is_refused() -> None:
    with pytest.raises(ProtocolError, match="are allowed"):
        decode(b"\x0a\x81\x80\x04" + b"x" * (MAX_DATA + 1))
    with pytest.raises(ProtocolError, match="are allowed"):
        decode(b"x" * 200_000)


@given(st.binary(max_size=60))
def test_no_bytes_make_it_fail_otherwise(message: bytes) -> None:
    try:
        assert len(decode(message)) <= len(message)
    except ProtocolError:
        pass
