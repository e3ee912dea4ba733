"""How secrets lie in the memory that the interposer maps."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.wrapper.buffers import span_of
from cloudtaser.wrapper.segment import GENERATION_AT, Segment

SECRETS = st.dictionaries(
    st.from_regex(rb"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True),
    st.binary(max_size=40).filter(lambda value: b"\0" not in value),
    min_size=1,
    max_size=6,
)


def number(content: bytes, at: int, size: int = 8) -> int:
    return int.from_bytes(content[at : at + size], "little")


def strings(content: bytes) -> list[bytes]:
    """What stands up to the empty string."""
    found = []
    while content[0]:
        text, _, content = content.partition(b"\0")
        found.append(text)
    return found


@given(SECRETS, st.booleans(), st.booleans())
def test_a_segment_holds_names_and_values_at_the_offsets_it_tells(
    secrets: dict[bytes, bytes], rotates: bool, strict: bool
) -> None:
    spans = {name: span_of(value) for name, value in secrets.items()}
    segment = Segment(spans, rotates=rotates, strict=strict)
    content = b"".join(bytes(piece) for piece in segment.pieces(spans))
    assert len(content) == segment.size
    assert content[:8] == b"ctkrseg1"
    assert number(content, 8, 4) == rotates + 2 * strict
    blocks, names, values, size = (number(content, 12, 4), *(number(content, at) for at in (16, 24, 32)))
    assert number(content, GENERATION_AT) == 0
    assert strings(content[names:]) == [name + b"=" for name in secrets]
    assert strings(content[values:]) == [name + b"=" + value for name, value in secrets.items()]
    assert values + blocks * size == len(content)


def test_newer_values_go_into_the_blocks_in_turn_and_leave_the_others() -> None:
    segment = Segment({b"A": span_of(b"0")}, rotates=True, strict=False)
    offsets = []
    for turn in range(1, 9):
        secrets = {b"A": span_of(b"%d" % turn)}
        block = segment.next_block(secrets)
        assert block is not None
        offset, pieces, generation = block
        assert generation == turn
        assert b"".join(bytes(piece) for piece in pieces) == b"A=%d\0\0" % turn
        offsets.append(offset)
    assert len(set(offsets[:4])) == 4
    assert offsets[4:] == offsets[:4]


def test_what_does_not_fit_or_has_other_names_is_no_newer_block() -> None:
    segment = Segment({b"A": span_of(b"x" * 2000)}, rotates=True, strict=False)
    assert segment.next_block({b"A": span_of(b"x" * 7000)}) is not None
    assert segment.next_block({b"A": span_of(b"x" * 9000)}) is None
    assert segment.next_block({b"B": span_of(b"x")}) is None
    assert segment.next_block({b"A": span_of(b"x"), b"B": span_of(b"x")}) is None
