"""Limits: deadlines, descriptors."""

from __future__ import annotations

from cloudtaser.beacon.limits import Deadlines, default_max_pairs


def test_only_what_was_not_stopped_in_time_is_overdue() -> None:
    deadlines: Deadlines[str] = Deadlines(5.0)
    for name, now in (("a", 0.0), ("b", 1.0), ("c", 2.0)):
        deadlines.start(name, now)
    assert deadlines.stop("a")
    assert not deadlines.stop("a")
    assert deadlines.overdue(5.9) == []
    assert deadlines.overdue(6.0) == ["b"]
    assert deadlines.overdue(100.0) == ["c"]
    assert len(deadlines) == 0


def test_starting_again_gives_the_whole_time_again() -> None:
    deadlines: Deadlines[str] = Deadlines(5.0)
    deadlines.start("a", 0.0)
    deadlines.start("b", 1.0)
    deadlines.start("a", 4.0)
    assert deadlines.overdue(6.0) == ["b"]
    assert deadlines.overdue(9.0) == ["a"]


def test_pairs_are_half_the_descriptors_less_a_hundred() -> None:
    assert default_max_pairs(20_000) == 9_900
    assert default_max_pairs(64) == 1
