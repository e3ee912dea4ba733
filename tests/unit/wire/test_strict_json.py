"""Strict JSON: one reading or none."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.errors import ProtocolError
from cloudtaser.wire.strict_json import MAX_DEPTH, dump_object, parse_object

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def parse(data: bytes, limit: int = 1000) -> dict[str, object]:
    return parse_object(data, what="a note", limit=limit)


@given(st.dictionaries(TEXT, VALUES, max_size=4))
def test_what_is_written_is_read_back(value: dict[str, object]) -> None:
    assert parse(dump_object(value), limit=100_000) == value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1",
        b"[]",
        b'"x"',
        b"{",
        b"{} {}",
        b'{"a":1,"a":1}',
        b'{"x":{"a":1,"a":2}}',
        b'{"x":[{"a":1,"a":2}]}',
        b'{"a":1,"\\u0061":2}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":"\\ud800"}',
        b'{"\\udc00":1}',
        b'{"a":"\xff"}',
        b'{"a":"\x00"}',
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}",
        b'{"a":' * 100_000,
        b"[" * 100_000,
    ],
)
def test_what_could_be_read_otherwise_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="a note"):
        parse(data, limit=1_000_000)


def test_depth_and_size_are_bounded_and_their_bounds_are_allowed() -> None:
    deepest = b'{"a":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}"
    assert parse(deepest, limit=len(deepest)) == json.loads(deepest)
    with pytest.raises(ProtocolError, match="longer than"):
        parse(deepest, limit=len(deepest) - 1)
    wide = dump_object({"a": [[] for _ in range(50)]})
    assert parse(wide) == json.loads(wide)


def test_a_surrogate_pair_is_one_character() -> None:
    assert parse(b'{"a":"\\ud83d\\ude00"}') == {"a": "\U0001f600"}


@given(st.binary(max_size=100))
def test_any_bytes_are_an_object_or_a_typed_error(data: bytes) -> None:
    try:
        assert isinstance(parse(data), dict)
    except ProtocolError:
        pass
