"""The roster keeps two tunnels, to two bridges where there are two, and does not churn where there is one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.operator.roster import Roster


def test_an_empty_roster_wants_two() -> None:
    assert Roster().to_park(0.0) == 2


def test_two_bridges_are_enough() -> None:
    roster = Roster()
    assert roster.arrived(1, "a", 0.0) == []
    assert roster.arrived(2, "b", 0.0) == []
    assert roster.to_park(0.0) == 0
    assert roster.next_change(0.0) is None


def test_a_second_bridge_replaces_a_duplicate() -> None:
    roster = Roster(settle=5.0)
    roster.arrived(1, "a", 0.0)
    roster.arrived(2, "a", 0.0)
    assert roster.to_park(0.0) == 0
    assert roster.next_change(0.0) == 5.0
    assert roster.to_park(5.0) == 1
    assert roster.arrived(3, "b", 5.0) == [2]
    assert roster.live == [1, 3]
    assert roster.to_park(5.0) == 0


def test_a_lone_bridge_is_not_asked_for_ever() -> None:
    roster = Roster(tries=3, every=300.0, settle=5.0)
    roster.arrived(1, "a", 0.0)
    roster.arrived(2, "a", 0.0)
    for key in (3, 4, 5):
        assert roster.to_park(5.0) == 1
        assert roster.arrived(key, "a", 5.0) == [key]
        roster.gone(key)
    assert roster.to_park(5.0) == 0
    pauses, key, now = [], 6, 5.0
    for _ in range(5):
        pause = roster.next_change(now)
        assert pause is not None
        pauses.append(pause)
        now += pause
        for _ in range(3):
            assert roster.to_park(now) == 1
            roster.arrived(key, "a", now)
            roster.gone(key)
            key += 1
    assert pauses == [20.0, 80.0, 300.0, 300.0, 300.0]


def test_a_bridge_that_left_is_looked_for_soon_however_long_there_was_but_one() -> None:
    roster = Roster(tries=1, every=300.0, settle=5.0)
    roster.arrived(1, "a", 0.0)
    roster.arrived(2, "a", 0.0)
    for number in range(4):
        roster.arrived(3 + number, "a", 1000.0 * number)
    roster.arrived(9, "b", 4000.0)
    assert sorted(roster.bridges) == ["a", "b"]
    roster.gone(9)  # it is restarted, and the other one is quicker
    roster.arrived(10, "a", 4001.0)
    now = 4001.0
    for expected in (5.0, 20.0, 80.0):
        assert roster.next_change(now) == expected
        now += expected
        roster.arrived(11, "a", now)
        roster.gone(11)


def test_a_draining_tunnel_is_replaced_while_it_still_stands() -> None:
    roster = Roster()
    roster.arrived(1, "a", 0.0)
    roster.arrived(2, "b", 0.0)
    roster.drains(1)
    assert roster.to_park(0.0) == 1
    assert roster.arrived(3, "a", 0.0) == []
    assert roster.live == [2, 3]


def generations() -> Roster:
    """Two tunnels, and then a new certificate."""
    roster = Roster()
    roster.arrived(1, "a", 0.0)
    roster.arrived(2, "b", 0.0)
    roster.renewed()
    return roster


def test_a_new_certificate_wants_as_many_new_tunnels_and_the_old_ones_serve_meanwhile() -> None:
    roster = generations()
    assert roster.to_park(0.0) == 2
    assert roster.live == [1, 2]
    assert roster.arrived(3, "a", 0.0) == []
    assert roster.live == [1, 2, 3]
    assert roster.to_park(0.0) == 1
    assert roster.arrived(4, "b", 0.0) == [1, 2]
    assert roster.live == [3, 4]
    assert roster.to_park(0.0) == 0


def test_a_lone_bridge_gets_both_new_tunnels_before_the_old_ones_go() -> None:
    roster = generations()
    assert roster.arrived(3, "a", 0.0) == []
    assert roster.arrived(4, "a", 0.0) == [1, 2]


def test_a_tunnel_that_was_begun_before_the_change_is_taken_only_where_there_is_none() -> None:
    roster = generations()
    assert roster.arrived(3, "c", 0.0, generation=0) == [3]
    roster.gone(1)
    roster.gone(2)
    assert roster.arrived(4, "c", 0.0, generation=0) == []
    assert roster.to_park(0.0) == 2


def test_two_changes_in_a_row_leave_only_the_newest() -> None:
    roster = generations()
    roster.arrived(3, "a", 0.0)
    roster.renewed()
    assert roster.to_park(0.0) == 2
    roster.arrived(4, "a", 0.0)
    assert roster.arrived(5, "b", 0.0) == [1, 2, 3]


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("arrived"), st.sampled_from("abc")),
        st.tuples(st.sampled_from(["gone", "drains"]), st.integers(0, 30)),
        st.tuples(st.sampled_from(["renewed", "late"]), st.sampled_from("abc")),
    ),
    max_size=40,
)


@given(EVENTS)
def test_no_change_of_certificate_ever_takes_the_last_tunnel_away(
    events: list[tuple[str, str | int]],
) -> None:
    roster, key = Roster(), 0
    for now, (what, value) in enumerate(events):
        had, given_up = set(roster.live), list[int]()
        if what == "renewed":
            roster.renewed()
            assert set(roster.live) == had
        elif what in ("arrived", "late"):
            key += 1
            generation = max(0, roster.generation - (what == "late"))
            given_up = roster.arrived(key, str(value), float(now), generation)
            assert roster.live
            assert set(given_up) <= had | {key}
            if had & set(given_up):
                assert len(roster.current) == 2
        elif what == "gone":
            roster.gone(int(value))
        else:
            roster.drains(int(value))
        assert len(roster.current) <= 2
        assert not set(given_up) & set(roster.live)
        if len(roster.current) == 2:
            assert roster.live == roster.current
        else:
            assert roster.to_park(float(now)) == 2 - len(roster.current)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("arrived"), st.sampled_from("abc")),
            st.tuples(st.sampled_from(["gone", "drains"]), st.integers(0, 30)),
        ),
        max_size=40,
    )
)
def test_never_more_than_two_live_and_never_a_duplicate_beside_a_choice(
    events: list[tuple[str, str | int]],
) -> None:
    roster, key = Roster(), 0
    for now, (what, value) in enumerate(events):
        if what == "arrived":
            key += 1
            before = roster.bridges
            surplus = roster.arrived(key, str(value), float(now))
            assert not set(surplus) & set(roster.live)
            assert roster.bridges >= before or len(before) == 2
        elif what == "gone":
            roster.gone(int(value))
        else:
            roster.drains(int(value))
        assert len(roster.live) <= 2
        assert (roster.to_park(float(now)) >= 1) == (
            len(roster.live) < 2 or (len(roster.bridges) == 1 and roster.next_change(float(now)) is None)
        )
