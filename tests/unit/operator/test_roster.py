"""The roster keeps two tunnels, to two bridges where there are two, and does not churn where there is one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.operator.roster import Roster


def test_an_empty_roster_wants_two() -> None:
    assert Roster().to_park(0.0) == 2


def test_two_bridges_are_enough() -> None:
    roster = Roster()
    assert roster.arrived(1, "a", 0.0) is None
    assert roster.arrived(2, "b", 0.0) is None
    assert roster.to_park(0.0) == 0
    assert roster.next_change(0.0) is None


def test_a_second_bridge_replaces_a_duplicate() -> None:
    roster = Roster(settle=5.0)
    roster.arrived(1, "a", 0.0)
    roster.arrived(2, "a", 0.0)
    assert roster.to_park(0.0) == 0
    assert roster.next_change(0.0) == 5.0
    assert roster.to_park(5.0) == 1
    assert roster.arrived(3, "b", 5.0) == 2
    assert roster.live == [1, 3]
    assert roster.to_park(5.0) == 0


def test_a_lone_bridge_is_not_asked_for_ever() -> None:
    roster = Roster(tries=3, every=300.0, settle=5.0)
    roster.arrived(1, "a", 0.0)
    roster.arrived(2, "a", 0.0)
    for key in (3, 4, 5):
        assert roster.to_park(5.0) == 1
        assert roster.arrived(key, "a", 5.0) == key
        roster.gone(key)
    assert roster.to_park(5.0) == 0
    assert roster.next_change(15.0) == 290.0
    assert roster.to_park(305.0) == 1


def test_a_draining_tunnel_is_replaced_while_it_still_stands() -> None:
    roster = Roster()
    roster.arrived(1, "a", 0.0)
    roster.arrived(2, "b", 0.0)
    roster.drains(1)
    assert roster.to_park(0.0) == 1
    assert roster.arrived(3, "a", 0.0) is None
    assert roster.live == [2, 3]


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
            assert surplus is None or surplus not in roster.live
            assert roster.bridges >= before or len(before) == 2
        elif what == "gone":
            roster.gone(int(value))
        else:
            roster.drains(int(value))
        assert len(roster.live) <= 2
        assert (roster.to_park(float(now)) >= 1) == (
            len(roster.live) < 2 or (len(roster.bridges) == 1 and roster.next_change(float(now)) is None)
        )
