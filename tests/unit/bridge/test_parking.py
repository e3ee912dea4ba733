"""The spares of one room: always two per beacon, at once after a match, politely after a failure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.bridge.parking import BACKOFF_LIMIT, PARTIES_LIMIT, SPARES, Parking, Party, Stage


def longest(least: float, most: float) -> float:
    """Jitter that always draws the longest pause."""
    return most


def test_two_spares_are_dialled_at_every_beacon() -> None:
    parking = Parking(3)
    begun = parking.begin(0.0)
    assert sorted(party.lane for party in begun) == [0, 0, 1, 1, 2, 2]
    assert parking.begin(0.0) == []
    assert parking.next_due(0.0) is None


def test_a_match_is_followed_by_a_new_spare_in_the_same_moment() -> None:
    parking = Parking(1)
    first, second = parking.begin(0.0)
    parking.took_in(first, 0.1)
    parking.took_in(second, 0.1)
    parking.matched(first, 5.0)
    assert len(parking.begin(5.0)) == 1
    assert parking.parked == 1
    assert parking.handshakes == 1


def test_a_match_clears_the_backoff_that_failures_built_up() -> None:
    parking = Parking(1, jitter=longest)
    first, second = parking.begin(0.0)
    parking.took_in(first, 0.0)
    parking.failed(second, 0.0)
    assert parking.begin(0.0) == []
    parking.matched(first, 0.05)
    assert len(parking.begin(0.05)) == SPARES


def test_failures_back_off_to_the_limit_and_one_party_goes_first() -> None:
    parking = Parking(1, jitter=longest)
    now, pauses = 0.0, []
    for party in parking.begin(now):
        parking.failed(party, now)
    for _ in range(7):
        due = parking.next_due(now)
        assert due is not None
        pauses.append(round(due - now, 3))
        assert parking.begin(due - 0.001) == []
        (party,) = parking.begin(due)
        now = due
        parking.failed(party, now)
    assert pauses == [0.2, 0.4, 0.8, 1.6, 3.2, 4.0, 4.0]


def test_once_the_first_is_parked_the_second_follows() -> None:
    parking = Parking(1, jitter=longest)
    for party in parking.begin(0.0):
        parking.failed(party, 0.0)
    (first,) = parking.begin(1.0)
    assert parking.begin(1.0) == []
    parking.took_in(first, 1.1)
    assert len(parking.begin(1.1)) == 1


def test_a_beacon_that_parks_and_hangs_up_is_not_hammered() -> None:
    parking = Parking(1, jitter=longest)
    now = 0.0
    for _ in range(6):
        for party in parking.begin(now):
            parking.took_in(party, now)
            parking.failed(party, now)
        now = parking.next_due(now) or now
    due = parking.next_due(now - 0.001)
    assert due == pytest.approx(now)
    for party in parking.begin(now):
        parking.failed(party, now)
    assert (parking.next_due(now) or 0) - now == pytest.approx(BACKOFF_LIMIT)


def test_a_party_that_was_parked_for_long_starts_the_backoff_anew() -> None:
    parking = Parking(1, jitter=longest)
    for party in parking.begin(0.0):
        parking.failed(party, 0.0)
    (party,) = parking.begin(1.0)
    parking.took_in(party, 1.0)
    parking.failed(party, 1.0 + 3600)
    assert (parking.next_due(3601.0) or 0) - 3601.0 == pytest.approx(0.2)


def test_the_beacons_own_wish_is_honoured() -> None:
    parking = Parking(2, jitter=longest)
    parties = parking.begin(0.0)
    parking.failed(parties[0], 0.0, retry_after=30.0)
    assert [party.lane for party in parking.begin(29.9)] == []
    assert [party.lane for party in parking.begin(30.0)] == []  # the lane's other party is still dialling
    parking.failed(parties[1], 30.0, retry_after=2.0)
    assert parking.begin(31.9) == []
    assert [party.lane for party in parking.begin(32.0)] == [0]


def test_one_beacon_down_leaves_the_other_full() -> None:
    parking = Parking(2, jitter=longest)
    for party in parking.begin(0.0):
        if party.lane == 0:
            parking.failed(party, 0.0)
        else:
            parking.took_in(party, 0.0)
    assert parking.parked == SPARES


def test_a_squatter_holds_no_more_than_the_limit_and_the_room_recovers() -> None:
    parking = Parking(1)
    held: list[Party] = []
    while begun := parking.begin(0.0):
        for party in begun:
            parking.matched(party, 0.0)
            held.append(party)
    assert parking.handshakes == PARTIES_LIMIT
    assert parking.next_due(0.0) is None
    parking.done(held[0])
    assert len(parking.begin(5.0)) == 1


def test_who_met_somebody_a_moment_ago_is_not_alone_whatever_else_waits() -> None:
    parking = Parking(2, spares=1, jitter=lambda low, high: high)
    one, other = parking.begin(0.0)
    parking.took_in(one, 0.0)
    parking.took_in(other, 0.0)
    assert parking.lonely_since(100.0) == 0.0
    parking.matched(one, 101.0)
    assert parking.lonely_since(160.0) is None
    assert parking.lonely_since(161.0) == 101.0


def test_a_party_that_came_anew_is_replaced_at_once_and_has_been_alone_all_the_while() -> None:
    parking = Parking(1, spares=1, jitter=lambda low, high: high)
    (party,) = parking.begin(0.0)
    parking.took_in(party, 0.0)
    parking.came_anew(party)
    (successor,) = parking.begin(40.0)
    assert parking.lonely_since(59.0) is None
    parking.took_in(successor, 40.1)
    assert parking.lonely_since(59.0) is None
    assert parking.lonely_since(61.0) == 0.0
    parking.matched(successor, 62.0)
    (third,) = parking.begin(62.0)
    parking.took_in(third, 62.0)
    assert parking.lonely_since(100.0) is None


def test_a_party_that_comes_anew_and_finds_no_beacon_starts_to_wait_anew() -> None:
    parking = Parking(1, spares=1, jitter=lambda low, high: 0.0)
    (party,) = parking.begin(0.0)
    parking.took_in(party, 0.0)
    parking.came_anew(party)
    (successor,) = parking.begin(40.0)
    parking.failed(successor, 41.0)
    (third,) = parking.begin(42.0)
    parking.took_in(third, 42.0)
    assert parking.lonely_since(61.0) is None


def test_done_is_counted_once() -> None:
    parking = Parking(1)
    party, _ = parking.begin(0.0)
    parking.matched(party, 0.0)
    parking.done(party)
    parking.done(party)
    assert parking.handshakes == 0


def test_a_minute_alone_is_noticed() -> None:
    parking = Parking(1)
    party, _ = parking.begin(0.0)
    parking.took_in(party, 10.0)
    assert parking.lonely_since(69.9) is None
    parking.took_in(party, 30.0)  # a repeated sign of life does not restart the count
    assert parking.lonely_since(70.0) == 10.0


@given(st.lists(st.tuples(st.sampled_from(["park", "match", "done", "fail", "wait"]), st.integers(0, 40))))
def test_never_more_than_two_waiting_per_beacon_nor_the_limit_in_all(steps: list[tuple[str, int]]) -> None:
    parking, now, parties = Parking(2, limit=8), 0.0, list[Party]()
    for verb, number in steps:
        parties = [party for party in parties if party.stage is not Stage.GONE]
        parties += parking.begin(now)
        waiting = [p for p in parties if p.stage in (Stage.DIALLING, Stage.PARKED)]
        assert all(sum(p.lane == lane for p in waiting) <= SPARES for lane in (0, 1))
        assert len(parties) <= 8
        matched = [p for p in parties if p.stage is Stage.MATCHED]
        assert parking.handshakes == len(matched)
        if verb == "wait":
            now += number / 4
        elif verb == "done" and matched:
            parking.done(matched[number % len(matched)])
        elif waiting and verb == "park":
            parking.took_in(waiting[number % len(waiting)], now)
        elif waiting and verb == "match":
            parking.matched(waiting[number % len(waiting)], now)
        elif waiting and verb == "fail":
            parking.failed(waiting[number % len(waiting)], now, number / 10)
