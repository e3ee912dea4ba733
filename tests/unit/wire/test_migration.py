"""A migration has one reading: what a bridge takes, how both sides digest it, what no bridge takes."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cloudtaser.errors import ProtocolError
from cloudtaser.wire import migration as module
from cloudtaser.wire.migration import Migration, Outcome, canonical, parse_migration, parse_outcome

CANARY = "canary-7d1e"
fields = st.dictionaries(
    st.from_regex(r"[A-Za-z0-9._-]{1,20}", fullmatch=True),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=50),
    min_size=1,
    max_size=8,
)


def body(**changes: Any) -> bytes:
    return json.dumps({"path": "secret/data/shop/db", "data": {"password": CANARY}} | changes).encode()


@given(fields)
def test_what_a_client_encodes_a_bridge_reads_and_both_digest_alike(data: dict[str, str]) -> None:
    sent = Migration("secret/data/shop/db", data)
    read = parse_migration(sent.encode())
    assert read == sent
    assert read.sha256 == sent.sha256


@given(st.binary(max_size=200))
@example(b"")
@example(b"[]")
@example(b'{"path":"a/b","data":{"x":"1","x":"2"}}')
@example(b'{"path":"a/b","path":"c/d","data":{"x":"1"}}')
@example(b'{"path":"a/b","data":{"x":"\\ud800"}}')
@example(b'\xef\xbb\xbf{"path":"a/b","data":{"x":"1"}}')
@example(b'{"path":"a/b","data":{"x":"1"}} trailing')
@example(b'{"path":"a/b","data":{"x":NaN}}')
@example(b'{"path":' + b"[" * 500 + b"]" * 500 + b',"data":{}}')
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    try:
        read = parse_migration(data)
    except ProtocolError:
        return
    assert parse_migration(read.encode()) == read


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@given(json_values, json_values, st.dictionaries(st.text(max_size=6), json_values, max_size=2))
def test_any_json_is_read_as_texts_at_a_plain_path_or_refused(
    path: Any, data: Any, more: dict[str, Any]
) -> None:
    document = {"path": path, "data": data} | more
    try:
        read = parse_migration(json.dumps(document).encode())
    except ProtocolError:
        return
    assert set(document) == {"path", "data"}
    assert isinstance(read.path, str)
    assert not {"", ".", ".."} & set(read.path.split("/"))
    assert all(isinstance(value, str) for value in read.data.values())


@pytest.mark.parametrize(
    "changes",
    [
        {"path": "secret"},
        {"path": "/secret/data/shop/db"},
        {"path": "secret/data/shop/db/"},
        {"path": "secret/data//db"},
        {"path": "secret/data/../../sys/raw"},
        {"path": "secret/data/./db"},
        {"path": "secret/data/shop/*"},
        {"path": "secret/data/{{identity.entity.id}}/x"},
        {"path": "secret/data/shop/d%62"},
        {"path": "secret/data/shop/ü"},
        {"path": "a/" + "x" * 600},
        {"path": 7},
        {"path": None},
        {"data": {}},
        {"data": []},
        {"data": None},
        {"data": {"x": 1}},
        {"data": {"x": None}},
        {"data": {"x": {"y": "z"}}},
        {"data": {"": "x"}},
        {"data": {"a b": "x"}},
        {"data": {"a/b": "x"}},
        {"data": {"x" * 254: "x"}},
        {"data": {f"f{number}": "" for number in range(1025)}},
        {"options": {"cas": 1}},
        {"namespace": "root"},
    ],
)
def test_what_is_no_migration_is_refused_in_one_line_without_its_values(changes: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_migration(body(**changes))
    assert CANARY not in caught.value.diagnostic()
    assert "\n" not in caught.value.diagnostic()


def test_size_is_bounded_as_kubernetes_bounds_a_secret() -> None:
    fits = Migration("secret/data/shop/db", {"x": "y" * (module.MAX_DATA - 1)})
    assert parse_migration(fits.encode()) == fits
    for size in (module.MAX_DATA, module.MAX_BODY):
        with pytest.raises(ProtocolError, match="longer than"):
            Migration("secret/data/shop/db", {"x": "y" * size}).encode()
        with pytest.raises(ProtocolError, match="longer than"):
            parse_migration(body(data={"x": "y" * size}))
    with pytest.raises(ProtocolError, match="as JSON"):
        Migration("secret/data/shop/db", {"x": "\x01" * (module.MAX_DATA // 3)}).encode()


def test_the_canonical_form_is_that_of_rfc_8785() -> None:
    data = {"b": '\u20ac$\u000f\nA\'B"\\\\"/', "\u20ac": "Euro Sign", "a": "", "1": "\x7f\u2028"}
    written = '{"1":"\x7f\u2028","a":"","b":"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/","\u20ac":"Euro Sign"}'
    assert canonical(data) == written.encode()
    # members are sorted by UTF-16 code units: U+1F600 (d83d de00) before U+FB33
    assert canonical({"\ufb33": "x", "\U0001f600": "y"}) == '{"\U0001f600":"y","\ufb33":"x"}'.encode()
    assert Migration("a/b", {"x": "1"}).sha256 == hashlib.sha256(b'{"x":"1"}').hexdigest()


def test_a_migration_shows_no_value() -> None:
    assert CANARY not in repr(parse_migration(body()))
    assert CANARY not in str(parse_migration(body()))


def test_an_answer_is_read_as_it_was_written() -> None:
    digest = "0a" * 32
    for outcome in (Outcome(True, 1, digest), Outcome(False, 3, ""), Outcome(False, 1, digest)):
        assert parse_outcome(200 if outcome.created else 409, outcome.encode()) == outcome
    assert json.loads(Outcome(False, 3, "").encode())["errors"] == [
        "something is stored there already, as version 3"
    ]


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (200, b"{}"),
        (200, b'{"version":1}'),
        (200, b'{"version":true,"sha256":"' + b"0" * 64 + b'"}'),
        (200, b'{"version":"1","sha256":"' + b"0" * 64 + b'"}'),
        (409, b'{"version":-1}'),
        (409, b'{"version":1,"sha256":"XYZ"}'),
        (409, b"<html>"),
    ],
)
def test_an_answer_that_proves_nothing_is_refused(status: int, answer: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_outcome(status, answer)
