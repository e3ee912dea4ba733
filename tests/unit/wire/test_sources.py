"""Sources: whom a connection is counted as, and the rate of each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.wire.sources import SourceLimiter, blurred, source_of


@pytest.mark.parametrize(
    ("host", "source", "shown"),
    [
        ("192.0.2.7", "192.0.2.7", "192.0.2.0/24"),
        ("::ffff:192.0.2.7", "192.0.2.7", "192.0.2.0/24"),
        ("2001:db8:1:2:3:4:5:6", "2001:0db8:0001:0002::/64", "2001:0db8:0001::/48"),
        ("fe80::1%eth0", "fe80:0000:0000:0000::/64", "fe80:0000:0000::/48"),
    ],
)
def test_a_source_is_an_address_or_a_64(host: str, source: str, shown: str) -> None:
    assert source_of(host) == source_of(source) == source
    assert blurred(host) == blurred(source) == shown


def test_two_addresses_of_one_64_are_one_source() -> None:
    assert source_of("2001:db8::1") == source_of("2001:db8::ffff:1")
    assert source_of("2001:db8::1") != source_of("2001:db8:0:1::1")


def test_a_burst_is_let_in_then_the_rate() -> None:
    limiter = SourceLimiter(rate=50, burst=2000)
    assert [limiter.admit("a", 10.0) for _ in range(2000)] == [0.0] * 2000
    assert limiter.admit("a", 10.0) == pytest.approx(0.02)
    assert limiter.admit("b", 10.0) == 0
    assert sum(limiter.admit("a", 11.0) == 0 for _ in range(100)) == 50


@given(st.lists(st.floats(0, 0.5), max_size=200), st.integers(1, 20), st.floats(1, 100))
def test_no_window_sees_more_than_burst_and_rate(gaps: list[float], burst: int, rate: float) -> None:
    limiter = SourceLimiter(rate, burst)
    now = 0.0
    admitted: list[float] = []
    for gap in gaps:
        now += gap
        if limiter.admit("a", now) == 0:
            admitted.append(now)
    for first in range(len(admitted)):
        for last in range(first, len(admitted)):
            allowed = burst + rate * (admitted[last] - admitted[first]) + 1e-3
            assert last - first + 1 <= allowed + 1


def test_sources_are_forgotten_when_their_bucket_is_empty() -> None:
    limiter = SourceLimiter(rate=10, burst=100)
    for number in range(50):
        limiter.admit(str(number), 0.0)
    limiter.prune(0.05)
    assert len(limiter) == 50
    limiter.prune(0.2)
    assert len(limiter) == 0


def test_the_table_of_sources_is_bounded() -> None:
    limiter = SourceLimiter(rate=10, burst=100)
    for number in range(100_100):
        limiter.admit(str(number), 0.0)
    assert len(limiter) == 100_000
