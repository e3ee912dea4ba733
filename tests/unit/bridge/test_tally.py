"""What fails again and again is counted in full and mentioned once a minute."""

from __future__ import annotations

from cloudtaser.bridge.tally import EVERY, KEYS_LIMIT, Line, Tally

KEY = ("handshake failed", "0ad50c05", "init")


def test_the_first_failure_is_mentioned_at_once_and_the_rest_within_the_minute_are_counted() -> None:
    tally = Tally()
    assert tally.add(KEY, "wrong code", 100.0) == Line(KEY, 1, "wrong code")
    for step in range(50):
        assert tally.add(KEY, "wrong code", 100.0 + step) is None
    assert tally.due(150.0) == []
    assert tally.due(100.0 + EVERY) == [Line(KEY, 50, "wrong code")]
    assert tally.due(500.0) == []
    assert tally.total == 51


def test_after_a_quiet_minute_it_is_news_again() -> None:
    tally = Tally()
    tally.add(KEY, "a", 0.0)
    assert tally.due(1000.0) == []
    assert tally.add(KEY, "b", 1001.0) == Line(KEY, 1, "b")


def test_clusters_do_not_hide_each_other() -> None:
    tally = Tally()
    assert tally.add(KEY, "a", 0.0) is not None
    assert tally.add(("handshake failed", "ffffffff", "init"), "a", 0.0) is not None


def test_the_number_of_things_counted_is_bounded() -> None:
    tally = Tally()
    for number in range(KEYS_LIMIT + 10):
        tally.add(("handshake failed", str(number), "init"), "a", 0.0)
    assert len(tally.due(EVERY)) <= KEYS_LIMIT + 1
    assert tally.total == KEYS_LIMIT + 10
