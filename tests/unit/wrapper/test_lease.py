"""When a lease is renewed and when it is replaced."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.wrapper.backoff import Backoff, about, fraction
from cloudtaser.wrapper.lease import Lease


def test_a_lease_is_due_at_two_thirds() -> None:
    assert Lease("id", 90, True, 1000).due == 1060


def test_what_never_expires_is_never_due() -> None:
    assert Lease("", 0, False, 1000).due is None


def test_a_renewal_starts_the_time_anew() -> None:
    lease = Lease("id", 90, True, 0)
    assert lease.renewed(90, 60)
    assert lease.due == 120
    assert lease.expires_at == 150


def test_near_its_maximum_it_is_to_be_replaced_and_not_renewed() -> None:
    lease = Lease("id", 90, True, 0)
    assert not lease.renewed(29, 60)
    assert not lease.renewable
    assert lease.due is not None
    assert lease.due < lease.expires_at


@given(st.lists(st.floats(0, 4000), max_size=30))
def test_a_lease_is_always_due_before_it_is_over(granted: list[float]) -> None:
    lease = Lease("id", 3600, True, 0)
    for duration in granted:
        assert lease.due is not None
        lease.renewed(duration, lease.due)
        assert lease.due <= lease.expires_at


def test_the_backoff_doubles_its_range_up_to_the_limit() -> None:
    draws = [Backoff(0.2, 4.0) for _ in range(300)]
    for ceiling in (0.2, 0.4, 0.8, 1.6, 3.2, 4.0, 4.0):
        values = [backoff.next() for backoff in draws]
        assert 0 <= min(values) < 0.2 * ceiling
        assert 0.8 * ceiling < max(values) <= ceiling
    draws[0].reset()
    assert draws[0].next() <= 0.2


def test_jitter_stays_within_its_spread() -> None:
    assert all(0 <= fraction() < 1 for _ in range(100))
    assert all(27 <= about(30) <= 33 for _ in range(100))
