"""A room's pairs are ended one at a time, spread over the grace period, the last one not at all."""

from __future__ import annotations

from cloudtaser.beacon.farewell import partings


def test_a_rooms_pairs_go_one_by_one_and_the_last_has_all_the_time() -> None:
    pairs = [("a1", b"a"), ("b1", b"b"), ("a2", b"a"), ("a3", b"a"), ("b2", b"b")]
    assert partings(pairs, 30.0) == [(10.0, "a1"), (15.0, "b1"), (20.0, "a2")]


def test_a_rooms_only_pair_is_left_alone() -> None:
    assert partings([("a", b"a"), ("b", b"b")], 30.0) == []
    assert partings([], 30.0) == []
