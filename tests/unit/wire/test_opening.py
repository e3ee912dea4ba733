"""Openings: read however they arrive, bounded, and strict."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.errors import ProtocolError
from cloudtaser.wire.opening import MAX_LINE, Kind, Opening, OpeningReader

TEXTS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=64)
OPENINGS = st.builds(Opening, st.sampled_from(Kind), TEXTS, TEXTS)


def read(*pieces: bytes) -> tuple[Opening, bytes] | None:
    reader = OpeningReader()
    for position, piece in enumerate(pieces):
        found = reader.receive(piece)
        if found is not None:
            return found[0], found[1] + b"".join(pieces[position + 1 :])
    return None


@given(OPENINGS, st.binary(max_size=16), st.data())
def test_what_is_written_is_read_back_with_the_bytes_behind_it(
    opening: Opening, rest: bytes, data: st.DataObject
) -> None:
    line = opening.encode()
    assert len(line) <= MAX_LINE
    stream = line + rest
    cut = data.draw(st.integers(0, len(stream)))
    assert read(stream) == read(stream[:cut], stream[cut:]) == (opening, rest)
    assert read(*[stream[i : i + 1] for i in range(len(stream))]) == (opening, rest)


def test_unknown_fields_are_ignored_and_absent_ones_are_empty() -> None:
    assert read(b'{"kind":"pod","later":{"a":[1]}}\n') == (Opening(Kind.POD), b"")


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"{}\n",
        b"[]\n",
        b"nonsense\n",
        b'{"kind":"sidecar"}\n',
        b'{"kind":["pod"]}\n',
        b'{"kind":"pod","kind":"admin"}\n',
        b'{"kind":"pod","peer":1}\n',
        b'{"kind":"pod","peer":"a b"}\n',
        b'{"kind":"pod","peer":"a\\nb"}\n',
        b'{"kind":"pod","id":"\xc3\xa4"}\n',
        b'{"kind":"pod","id":NaN}\n',
        b'{"kind":"pod","x":' + b"[" * 40 + b"]" * 40 + b"}\n",
        b'{"kind":"pod","x":"\\ud800"}\n',
        b'\xff\xfe{"kind":"pod"}\n',
        b'{"kind":"pod","id":"' + b"x" * 257 + b'"}\n',
        b" " * (MAX_LINE - 1) + b"\n",
        b'{"kind":"pod"}' + b" " * MAX_LINE + b"\n",
    ],
)
def test_a_bad_opening_is_refused(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        read(line)


def test_a_line_that_never_ends_is_cut_off_at_its_bound() -> None:
    reader = OpeningReader()
    assert reader.receive(b"{" * (MAX_LINE - 1)) is None
    with pytest.raises(ProtocolError):
        reader.receive(b"{")


def test_a_line_of_exactly_the_bound_is_read() -> None:
    line = b'{"kind":"pod"' + b" " * (MAX_LINE - 15) + b"}\n"
    assert len(line) == MAX_LINE
    assert read(line) == (Opening(Kind.POD), b"")


def test_an_opening_that_would_break_the_line_is_not_written() -> None:
    with pytest.raises(ProtocolError):
        Opening(Kind.POD, peer="a\nb").encode()


@given(st.binary(max_size=2048), st.integers(1, 100))
def test_any_bytes_in_any_chunks_give_an_opening_or_a_typed_error(data: bytes, size: int) -> None:
    def outcome(*pieces: bytes) -> object:
        try:
            return read(*pieces)
        except ProtocolError as error:
            return str(error)

    assert outcome(data) == outcome(*[data[i : i + size] for i in range(0, len(data), size)])
