"""A pod's second login is seen, or refused; a token that is gone frees the seat."""

from __future__ import annotations

import pytest

from cloudtaser.bridge.refusal import RequestRefused
from cloudtaser.bridge.seats import PODS, TOKENS, UNDER_WAY, UNKNOWN_LIFE, UNUSED, Seats

CLUSTER, OTHER = "0ad50c05", "bbbbbbbb"
FIRST, SECOND = b"1" * 32, b"2" * 32


def log_in(seats: Seats, token: bytes = FIRST, now: float = 0.0, *, cluster: str = CLUSTER) -> bool:
    """A login of the pod to its end; whether it was a second one."""
    seat = seats.ask(cluster, "pod", now)
    seat.take(token, 600.0, now)
    seat.leave()
    return seat.second


def single() -> Seats:
    """One pod is in, and has used its token."""
    seats = Seats(single=True)
    assert not log_in(seats)
    seats.used(FIRST)
    return seats


def test_a_second_login_is_seen_and_let_through_unless_told_otherwise() -> None:
    seats = Seats()
    assert [log_in(seats, FIRST), log_in(seats, SECOND)] == [False, True]


def test_a_second_login_is_refused_with_the_time_after_which_it_may_come() -> None:
    seats = single()
    with pytest.raises(RequestRefused) as refused:
        log_in(seats, SECOND, 100.0)
    assert (refused.value.status, refused.value.reason, refused.value.wait) == (429, "second_login", 500.0)


def test_the_same_pod_uid_in_another_cluster_is_another_pod() -> None:
    assert not log_in(single(), SECOND, cluster=OTHER)


@pytest.mark.parametrize("single_login", [False, True])
def test_a_token_that_expired_frees_the_seat(single_login: bool) -> None:
    seats = Seats(single=single_login)
    log_in(seats)
    seats.used(FIRST)
    assert not log_in(seats, SECOND, 600.0)


def test_a_token_that_was_revoked_frees_the_seat() -> None:
    seats = single()
    seats.free(FIRST)
    assert len(seats) == 0
    assert not log_in(seats, SECOND)


def test_a_renewed_token_holds_the_seat_for_as_long_as_it_lives() -> None:
    seats = single()
    seats.renewed(FIRST, 600.0, 500.0)
    with pytest.raises(RequestRefused) as refused:
        log_in(seats, SECOND, 1000.0)
    assert refused.value.wait == 100.0
    assert not log_in(seats, SECOND, 1100.0)


def test_another_ones_token_frees_and_renews_nothing() -> None:
    seats = single()
    seats.free(SECOND)
    seats.renewed(SECOND, 9999.0, 0.0)
    with pytest.raises(RequestRefused):
        log_in(seats, SECOND)
    assert not log_in(seats, SECOND, 600.0)


def test_of_two_logins_at_the_same_time_one_is_refused() -> None:
    seats = Seats(single=True)
    first = seats.ask(CLUSTER, "pod", 0.0)
    with pytest.raises(RequestRefused):
        seats.ask(CLUSTER, "pod", 0.0)
    first.take(FIRST, 600.0, 0.0)
    with pytest.raises(RequestRefused):
        seats.ask(CLUSTER, "pod", 0.0)


def test_a_login_that_came_to_nothing_leaves_the_seat() -> None:
    seats = Seats(single=True)
    seats.ask(CLUSTER, "pod", 0.0).leave()
    assert len(seats) == 0
    assert not log_in(seats)


def test_a_login_that_never_ended_does_not_hold_the_seat_for_ever() -> None:
    seats = Seats(single=True)
    seats.ask(CLUSTER, "pod", 0.0)
    assert not log_in(seats, now=UNDER_WAY)


def test_a_token_that_was_never_used_is_seen_but_keeps_nobody_out_for_long() -> None:
    """Its answer may have been lost on the way: the pod would be locked out for an hour."""
    seats = Seats(single=True)
    log_in(seats)
    with pytest.raises(RequestRefused) as refused:
        log_in(seats, SECOND, 10.0)
    assert refused.value.wait == UNUSED - 10.0
    assert log_in(seats, SECOND, UNUSED)


def test_a_login_whose_token_the_bridge_cannot_see_counts_too() -> None:
    seats = Seats()
    seats.ask(CLUSTER, "pod", 0.0).take(b"", 0.0, 0.0)
    assert log_in(seats, SECOND, UNKNOWN_LIFE - 1)
    assert not log_in(Seats(), SECOND, UNKNOWN_LIFE)


def test_what_is_kept_is_bounded() -> None:
    seats = Seats(pods=3)
    for number in range(10):
        seats.ask(CLUSTER, f"pod-{number}", 0.0).take(b"%32d" % number, 600.0, 0.0)
    for number in range(TOKENS + 5):
        log_in(seats, b"%31dx" % number, float(number), cluster=OTHER)
    assert len(seats) == 3 + 1
    assert len(seats._held) == 3 + TOKENS
    assert PODS <= 16384


def test_a_crowd_in_one_cluster_makes_room_in_no_other() -> None:
    seats = Seats(single=True, pods=2)
    log_in(seats)
    seats.used(FIRST)
    for number in range(10):
        seats.ask(OTHER, f"pod-{number}", 0.0).take(b"%32d" % number, 600.0, 0.0)
    with pytest.raises(RequestRefused):
        log_in(seats, SECOND)


def test_a_cluster_that_is_gone_leaves_nothing_behind() -> None:
    seats = single()
    seats.forget_cluster(CLUSTER)
    seats.forget_cluster("never seen")
    assert (len(seats), len(seats._held)) == (0, 0)
