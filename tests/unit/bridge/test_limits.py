"""Rates: bursts, refill, bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.bridge.limits import Limits
from cloudtaser.errors import ConfigError
from cloudtaser.net.rates import Buckets, Rate

ONE = Rate(1, 1)


def test_a_burst_passes_at_once_and_then_the_rate_rules() -> None:
    buckets = Buckets(Rate(2, 3))
    assert [buckets.take("a", 10.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert buckets.take("a", 10.0) == pytest.approx(0.5)
    assert buckets.take("a", 10.25) == pytest.approx(0.25)
    assert buckets.take("a", 10.5) == 0.0
    assert buckets.take("a", 10.5) > 0


def test_a_refused_request_costs_nothing() -> None:
    buckets = Buckets(Rate(1, 1))
    buckets.take("a", 0.0)
    for _ in range(100):
        buckets.take("a", 0.5)
    assert buckets.take("a", 1.0) == 0.0


def test_a_bucket_never_holds_more_than_its_burst() -> None:
    buckets = Buckets(Rate(100, 2))
    buckets.take("a", 0.0)
    assert [buckets.take("a", 1e6) == 0.0 for _ in range(3)] == [True, True, False]


def test_the_table_is_bounded_and_forgets_the_least_seen() -> None:
    buckets = Buckets(ONE, size=2)
    buckets.take("a", 0.0)
    buckets.take("b", 0.0)
    buckets.take("c", 0.0)
    assert len(buckets) == 2
    assert buckets.take("b", 0.0) > 0
    assert buckets.take("a", 0.0) == 0.0


@given(st.lists(st.floats(0, 100), min_size=1, max_size=60))
def test_no_order_of_arrivals_gets_more_than_burst_and_rate_allow(times: list[float]) -> None:
    buckets = Buckets(Rate(2, 5))
    passed = sum(buckets.take("a", now) == 0.0 for now in sorted(times))
    assert passed <= 5 + 2 * (max(times) - min(times)) + 1e-6


def test_strangers_are_counted_by_address_whatever_their_port() -> None:
    limits = Limits(peer=ONE)
    assert limits.take_stranger("f", "10.0.0.7:1", 0.0) == 0.0
    assert limits.take_stranger("f", "10.0.0.7:2", 0.0) > 0
    assert limits.take_stranger("f", "10.0.0.8:1", 0.0) == 0.0
    assert limits.take_stranger("f", "[fd00::1]:7", 0.0) == 0.0
    assert limits.take_stranger("f", "[fd00::1]:8", 0.0) > 0
    assert limits.take_stranger("g", "10.0.0.7:1", 0.0) == 0.0, (
        "the same address in another cluster is another pod"
    )
    assert limits.take_stranger("f", "", 0.0) == 0.0


def test_a_cluster_has_one_bucket_for_all_its_pods() -> None:
    limits = Limits(cluster=Rate(1, 2))
    assert limits.take_stranger("f", "10.0.0.7:1", 0.0) == 0.0
    assert limits.take_holder("f", b"x", 0.0) == 0.0
    assert limits.take_holder("f", b"y", 0.0) > 0
    assert limits.take_holder("g", b"y", 0.0) == 0.0


def test_strangers_at_made_up_addresses_leave_the_clusters_rate_to_known_tokens() -> None:
    """A broker says whose stream it is: one that lies gets no more than the strangers' part."""
    limits = Limits(cluster=Rate(100, 200))
    taken = [limits.take_stranger("f", f"10.0.{n >> 8}.{n & 255}:1", 0.0) == 0.0 for n in range(1000)]
    assert sum(taken) == 100
    assert sum(limits.take_stranger("f", f"10.1.{n}.1:1", 10.0) == 0.0 for n in range(250)) == 100
    assert all(limits.take_holder("f", b"x%d" % n, 10.0) == 0.0 for n in range(100))
    assert limits.take_stranger("g", "10.0.0.1:1", 10.0) == 0.0


def test_a_known_token_is_counted_by_itself() -> None:
    limits = Limits(peer=ONE, token=ONE)
    assert limits.take_holder("f", b"x", 0.0) == 0.0
    assert limits.take_holder("f", b"y", 0.0) == 0.0
    assert limits.take_holder("f", b"x", 0.0) > 0


@pytest.mark.parametrize(("speed", "burst"), [(0, 1), (-1, 1), (1, 0.5)])
def test_a_rate_that_lets_nothing_through_is_a_mistake(speed: float, burst: float) -> None:
    with pytest.raises(ValueError):
        Rate(speed, burst)


def test_a_rate_is_written_as_it_is_read() -> None:
    assert Rate.parse("20/200") == Rate(20, 200)
    assert str(Rate.parse("0.5/3")) == "0.5/3"


@pytest.mark.parametrize("text", ["", "20", "20/", "/200", "a/b", "0/1", "1/0", "nan/2", "1/inf", "1/2/3"])
def test_what_is_no_rate_says_how_one_is_written(text: str) -> None:
    with pytest.raises(ConfigError, match="20/200"):
        Rate.parse(text)
