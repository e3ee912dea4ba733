"""Records: times people can read, serials as certificates carry them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.errors import ProtocolError
from cloudtaser.openbao.records import Revoked, instant, seconds


@given(st.integers(min_value=0, max_value=4_000_000_000))
def test_an_instant_reads_back_as_the_second_it_was(now: int) -> None:
    assert seconds(instant(now)) == now


@pytest.mark.parametrize("text", ["", "yesterday", "2026-01-01T00:00:00", "2026-13-01T00:00:00Z"])
def test_what_is_no_instant_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError):
        seconds(text)


def test_serials_are_read_with_and_without_colons() -> None:
    assert Revoked(("0a:ff", "0AFF", "1")).numbers(0.0) == frozenset({0x0AFF, 1})


def test_a_serial_that_waits_counts_from_its_moment_on() -> None:
    revoked = Revoked(("1",), pending=("0a:ff",), pending_from="1970-01-01T00:01:00Z")
    assert revoked.numbers(59.0) == frozenset({1})
    assert revoked.numbers(60.0) == frozenset({1, 0x0AFF})
