"""Who leads: by one's own clock only, from when one saw the Lease change; a leader gives up in time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.operator.election import Election, LeaseRecord, Wait, Write, micro_time

WALL = datetime(2030, 1, 1, tzinfo=UTC)


def lease(holder: str, renewed: int = 0, seconds: int = 15, transitions: int = 3) -> LeaseRecord:
    spec = {
        "holderIdentity": holder,
        "leaseDurationSeconds": seconds,
        "acquireTime": micro_time(WALL),
        "renewTime": micro_time(WALL + timedelta(seconds=renewed)),
        "leaseTransitions": transitions,
    }
    return LeaseRecord.of({"spec": spec, "metadata": {"resourceVersion": str(renewed)}})


def spec(step: Wait | Write) -> dict[str, Any]:
    assert isinstance(step, Write)
    return dict(step.spec)


def test_without_a_lease_one_is_written() -> None:
    election = Election("a", 15)
    assert spec(election.look(None, 0.0, WALL))["holderIdentity"] == "a"
    assert not election.held(0.0)
    election.wrote(0.0)
    assert election.held(0.0)
    assert election.leader == "a"


def test_another_leader_is_waited_for_the_whole_of_its_lease_from_when_it_was_seen_to_change() -> None:
    election = Election("a", 15)
    assert election.look(lease("b"), 100.0, WALL) == Wait("b")
    assert election.look(lease("b"), 114.9, WALL) == Wait("b")
    assert isinstance(election.look(lease("b"), 115.1, WALL), Write)


def test_a_leader_that_renews_is_never_overtaken() -> None:
    election = Election("a", 15)
    for second in range(0, 600, 10):
        assert election.look(lease("b", renewed=second), float(second), WALL) == Wait("b")


@given(st.integers(-(10**8), 10**8))
def test_what_the_clocks_of_others_say_does_not_matter(skew: int) -> None:
    election = Election("a", 15)
    there = lease("b", renewed=skew)
    assert election.look(there, 0.0, WALL) == Wait("b")
    assert election.look(there, 14.9, WALL) == Wait("b")
    assert isinstance(election.look(there, 15.1, WALL), Write)


def test_a_released_lease_is_taken_at_once() -> None:
    election = Election("a", 15)
    taken = spec(election.look(lease("", seconds=1), 0.0, WALL))
    assert taken["leaseTransitions"] == 4


def test_who_leads_keeps_the_time_at_which_it_began() -> None:
    election = Election("a", 15)
    later = WALL + timedelta(seconds=30)
    renewed = spec(election.look(lease("a"), 0.0, later))
    assert renewed["acquireTime"] == micro_time(WALL)
    assert renewed["renewTime"] == micro_time(later)
    assert renewed["leaseTransitions"] == 3


def test_a_leader_gives_up_before_another_can_take_over() -> None:
    election = Election("a", 15)
    election.wrote(100.0)
    assert election.held(109.9)
    assert not election.held(110.1)


def test_the_time_that_a_write_took_is_not_counted_in_our_favour() -> None:
    election = Election("a", 15)
    election.look(None, 0.0, WALL)
    election.wrote(0.0)  # the answer came eight seconds later
    assert election.held(8.0)
    assert not election.held(10.1)


def test_stepping_down_leaves_a_lease_that_nobody_holds() -> None:
    election = Election("a", 15)
    election.wrote(0.0)
    left = election.released(lease("a"), WALL)
    assert left["holderIdentity"] == ""
    assert left["leaseDurationSeconds"] == 1
    assert not election.held(0.0)


def test_a_lease_without_sense_is_an_empty_one() -> None:
    found = LeaseRecord.of({"spec": {"leaseDurationSeconds": "x", "holderIdentity": None}})
    assert (found.holder, found.seconds, found.transitions) == ("", 0, 0)
    assert isinstance(Election("a", 15).look(found, 0.0, WALL), Write)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 20)), max_size=60))
def test_two_never_lead_at_the_same_time(steps: list[tuple[str, float]]) -> None:
    candidates = {name: Election(name, 15) for name in "abc"}
    there: LeaseRecord | None = None
    now, version = 0.0, 0
    for name, pause in steps:
        now += pause
        step = candidates[name].look(there, now, WALL)
        if isinstance(step, Write):
            version += 1
            fields = dict(step.spec) | {"renewTime": str(version)}
            there = LeaseRecord.of({"spec": fields, "metadata": {}})
            candidates[name].wrote(now)
        assert sum(one.held(now) for one in candidates.values()) <= 1
