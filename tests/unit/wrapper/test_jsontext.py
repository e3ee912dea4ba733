"""The byte-level JSON reader, held to Python's json module."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.wrapper import jsontext
from cloudtaser.wrapper.buffers import Buffer
from cloudtaser.wrapper.extension import native
from cloudtaser.wrapper.jsontext import JsonError, Node, decode, integer, parse, text


def buffer(data: bytes) -> Buffer:
    filled = Buffer(len(data) or 1)
    filled.append(data)
    return filled


def value(data: Buffer, node: Node) -> object:
    """The tree as Python values, strings decoded in place."""
    if node.kind == jsontext.OBJECT:
        return {name: value(data, member) for name, member in node.members.items()}
    if node.kind == jsontext.ARRAY:
        return [value(data, item) for item in node.items]
    span = decode(data, node)
    if node.kind == jsontext.STRING:
        return bytes(span.view()).decode()
    return json.loads(bytes(span.view()))


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=20,
)


@given(_json, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_it_reads_what_the_json_module_writes(
    document: object, ascii_only: bool, indent: int | str | None
) -> None:
    data = buffer(json.dumps(document, ensure_ascii=ascii_only, indent=indent).encode())
    assert value(data, parse(data, depth=50)) == document


@given(st.text(alphabet='{}[]",:\\u0019aeE+-. \n/truefalsn\ud800é', max_size=24))
def test_it_accepts_nothing_that_the_json_module_refuses(content: str) -> None:
    raw = content.encode("utf-8", "replace")
    data = buffer(raw)
    try:
        found = value(data, parse(data, depth=50))
    except JsonError:
        return
    assert found == json.loads(raw)


_text_with_escapes = st.lists(
    st.sampled_from(
        [b'"', b"\\", b"\\u", b"\\ud83d", b"\\ude00", b"00e9", b"\\n", b'\\"', b"a", b"\x1f", b"\xc3\xa9",
         b"\xe2", b"\x82\xac", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"\xf4\x90\x80\x80", b"\xc0\x80"]
    ),
    max_size=12,
).map(b"".join)  # fmt: skip


def tree(node: Node) -> tuple[object, ...]:
    """A node and all below it, by offsets."""
    members = {name: tree(member) for name, member in node.members.items()}
    return node.kind, node.start, node.end, members, [tree(item) for item in node.items]


def outcome(read: Callable[[Buffer, int], Node], raw: bytes, depth: int) -> object:
    """The tree, or the error without what is said of strings, in which the two differ."""
    try:
        return tree(read(buffer(raw), depth))
    except JsonError as error:
        is_string = any(word in str(error) for word in ("string", "escape", "surrogate", "too early"))
        return "a string is wrong" if is_string else str(error)


def in_c(data: Buffer, depth: int) -> Node:
    return parse(data, depth=depth)


def in_python(data: Buffer, depth: int) -> Node:
    return jsontext.parse_in_python(data, 0, len(data), depth)


_tokens = st.lists(
    st.sampled_from(
        [b"{", b"}", b"[", b"]", b",", b":", b'"a"', b'"b\\n"', b'"\\u0061"', b'"', b"1", b"-0.5e+1",
         b"01", b"1.", b"-", b"2E", b"true", b"fals", b"null", b" ", b"\n", b"\x00", b"\xc3\xa9", b'{"k":',
         b'{"a":1,', b"[1,"]
    ),
    max_size=12,
).map(b"".join)  # fmt: skip


@given(_tokens | _json.map(lambda document: json.dumps(document).encode()), st.integers(0, 4))
def test_the_trees_of_the_reader_in_c_and_of_the_one_in_python_are_the_same(raw: bytes, depth: int) -> None:
    assert outcome(in_c, raw, depth) == outcome(in_python, raw, depth)


@pytest.mark.parametrize("read", [in_c, in_python])
def test_both_readers_have_the_same_bounds(read: Callable[[Buffer, int], Node]) -> None:
    most = jsontext.MAX_VALUES - 1
    for raw, problem in (
        (b"[" * (jsontext.MAX_NESTING + 1), "nested too deeply"),
        (b"[" + b"1," * most + b"1]", f"more than {jsontext.MAX_VALUES} values"),
        (b'{"a":{"b":{"c":1}},"a":2}', "a name occurs twice"),
        (b'[{"a":1,"\\u0061":2}]', "a name occurs twice"),
    ):
        with pytest.raises(JsonError, match=problem):
            read(buffer(raw), 0)
    assert len(read(buffer(b"[" + b"1," * 99 + b"1]"), 1).items) == 64


@given(_text_with_escapes)
def test_the_reader_in_c_and_the_one_in_python_agree(content: bytes) -> None:
    """Both take the same strings, find the same ends, and unescape them to the same bytes."""
    inside = content + b'"'
    data, end = buffer(inside), len(inside)
    reader = jsontext._Reader(data, end)
    close = native.string_end(data.view(), 0, end)
    try:
        expected = reader.string(0)
    except JsonError:
        assert close < 0
        return
    assert close == expected
    other = buffer(inside)
    length = native.unescape(data.view(), 0, close)
    assert length == jsontext._unescape_in_python(other, 0, close)
    assert data.view(0, length) == other.view(0, length)


def test_the_loops_in_c_stay_within_the_buffer() -> None:
    data = bytearray(b"abc")
    for start, end in ((0, 4), (-1, 2), (3, 2)):
        for loop in (native.string_end, native.unescape):
            with pytest.raises(IndexError):
                loop(data, start, end)
        with pytest.raises(IndexError):
            native.parse_json(data, start, end, 4, 100, Node)
    with pytest.raises(TypeError):
        native.unescape(b"abc", 0, 3)
    for odd in (b"\\", b"\\u00", b"\\ud83d", b"\\ud83d\\u00e9", b"\\x"):
        with pytest.raises(ValueError):
            native.unescape(bytearray(odd), 0, len(odd))


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    data = buffer(raw)
    try:
        parse(data)
    except JsonError:
        return
    json.loads(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"{",
        b'{"a":1',
        b'{"a":1}x',
        b'{"a" 1}',
        b'{"a":}',
        b'{"a":1,}',
        b"{,}",
        b"[1,]",
        b"[,1]",
        b"[1 2]",
        b"{1:2}",
        b"nul",
        b"nullx",
        b"True",
        b"NaN",
        b"-",
        b"01",
        b"1.",
        b".5",
        b"1e",
        b"+1",
        b'"',
        b'"\\"',
        b'"\\x"',
        b'"\\u12"',
        b'"\\u12g4"',
        b'"a\nb"',
        b'"\x00"',
        b"'a'",
        b'{"a":1,"a":2}',
        b'{"a":1,"\\u0061":2}',
        b'"\xff"',
        b'"\xc0\xaf"',
        b'"\xed\xa0\x80"',
        b'"\xf4\x90\x80\x80"',
        b'"\xe2\x82"',
        b"\xef\xbb\xbf{}",
    ],
)
def test_what_is_not_strict_json_is_refused(raw: bytes) -> None:
    with pytest.raises(JsonError) as caught:
        parse(buffer(raw))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "raw",
    [
        rb'"\ud800"',
        rb'"\udc00"',
        rb'"\ud800x"',
        rb'"\ud800\n"',
        rb'"\ud800A"',
        rb'"\udc00\ud800"',
        rb'"\ud800\ud800"',
    ],
)
def test_half_a_surrogate_pair_is_refused(raw: bytes) -> None:
    with pytest.raises(JsonError):
        parse(buffer(raw))


def test_every_escape_is_decoded_in_place() -> None:
    units = b"".join(b"\\u" + unit for unit in (b"0041", b"00e9", b"20AC", b"d83d", b"DE00", b"0000"))
    data = buffer(b'"' + rb"\"\\\/\b\f\n\r\tA" + units + b'."')
    node = parse(data)
    assert bytes(decode(data, node).view()) == '"\\/\b\f\n\r\tAAé€😀\0.'.encode()
    assert bytes(decode(data, node).view()).startswith(b'"')  # a second time changes nothing


@pytest.mark.parametrize(
    "raw", [b"1", b"-0.5e+10", b"true", b"null", b'{"a":"\\n"}', b"[1, 2]", b"12345678901234567890123"]
)
def test_what_is_no_string_is_delivered_as_its_json_text(raw: bytes) -> None:
    data = buffer(b'{"k":' + raw + b"}")
    member = parse(data).get("k")
    assert member is not None
    assert bytes(decode(data, member).view()) == raw


def test_nesting_is_bounded() -> None:
    deep = jsontext.MAX_NESTING
    parse(buffer(b"[" * deep + b"]" * deep))
    with pytest.raises(JsonError):
        parse(buffer(b"[" * 100_000))


def test_the_number_of_values_is_bounded_and_few_of_them_are_kept() -> None:
    """A secret that somebody else wrote must not take the memory of PID 1, nor its attention for long."""
    most = jsontext.MAX_VALUES - 1
    array = parse(buffer(b"[" + b"1," * (most - 1) + b"1]"))
    assert len(array.items) <= 64
    assert not array.items[0].members
    with pytest.raises(JsonError, match="values"):
        parse(buffer(b"[" + b"1," * most + b"1]"))


def test_a_string_full_of_escapes_takes_linear_time() -> None:
    content = '"\\' * 30_000 + "é\x07" * 10_000
    data = buffer(json.dumps(content).encode())
    node = parse(data)
    assert bytes(decode(data, node).view()).decode() == content


def test_members_are_found_by_path_and_typed() -> None:
    data = buffer(b'{"data":{"version":12,"id":"a\\u0062","float":1.5,"huge":1234567890123456789}}')
    root = parse(data)
    assert integer(data, root.get("data", "version")) == 12
    assert text(data, root.get("data", "id")) == "ab"
    assert integer(data, root.get("data", "float")) == 0
    assert integer(data, root.get("data", "huge")) == 0
    assert root.get("data", "none", "deeper") is None
    assert text(data, None) == ""


def test_an_error_shows_nothing_of_the_content() -> None:
    with pytest.raises(JsonError) as caught:
        parse(buffer(b'{"password":"CANARY\n"}'))
    assert "CANARY" not in str(caught.value)
