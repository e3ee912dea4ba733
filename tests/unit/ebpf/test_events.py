"""What is told of an access, and how often."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.ebpf.events import LINES, WINDOW, Reporter, encode
from cloudtaser.ebpf.layout import RawEvent, Verdict


def raw(
    time: int = 0, source: int = 10, vector: int = 1, comm: str = "head", verdict: Verdict = Verdict.DENIED
) -> RawEvent:
    return RawEvent(
        time, 0, vector, verdict, 257, source, source, 0, 20, 3, 0, comm, "app", "head", "environ"
    )


def reporter() -> Reporter:
    return Reporter(
        "n1", lambda pid, comm: {"exe": ""}, lambda pid, comm: {"pod": "p"}, 1_700_000_000_000_000_000
    )


def test_an_event_names_both_sides_the_vector_and_the_verdict() -> None:
    (line,) = reporter().add(raw(1_500_000))
    assert line == {
        "time": "2023-11-14T22:13:20.001500Z",
        "node": "n1",
        "vector": 1,
        "name": "/proc/PID/environ",
        "verdict": "denied",
        "source": {"exe": "head", "pid": 10, "comm": "head", "uid": 0},
        "target": {"pod": "p", "pid": 20, "comm": "app"},
        "syscall": "openat",
        "count": 1,
        "detail": "environ",
    }


def test_repeats_are_one_line_with_their_count_when_the_window_is_over() -> None:
    told = reporter()
    assert len(told.add(raw(1))) == 1
    assert [told.add(raw(n)) for n in range(2, 102)] == [[]] * 100
    (line,) = told.tick(WINDOW + 2)
    assert line["count"] == 100
    assert told.tick(3 * WINDOW) == []
    assert told.told == {"denied": 101}


def test_one_opening_that_several_hooks_meet_is_one_event() -> None:
    told = reporter()
    assert len(told.add(raw(1, vector=17))) == 1
    assert told.add(raw(2, vector=15)) == []
    assert told.told == {"denied": 1}
    assert len(told.add(raw(3, vector=1))) == 1
    assert len(told.add(raw(WINDOW, vector=15))) == 1


def test_an_offenders_lines_are_bounded_and_the_rest_is_counted() -> None:
    told = reporter()
    lines = [line for n in range(LINES + 20) for line in told.add(raw(n, vector=100 + n))]
    assert len(lines) == LINES
    assert told.suppressed == 20
    assert len(told.add(raw(5, source=11))) == 1


def test_a_known_tool_is_a_hint_in_the_event() -> None:
    (line,) = reporter().add(raw(comm="gdb"))
    assert line["tool"] == "gdb"


@given(st.text(max_size=16))
def test_a_name_cannot_break_the_line(comm: str) -> None:
    (line,) = reporter().add(raw(comm=comm))
    text = encode(line)
    assert text.isascii()
    assert "\n" not in text
    assert json.loads(text)["source"]["comm"] == comm


@given(st.lists(st.tuples(st.integers(0, 3 * WINDOW), st.integers(1, 3), st.integers(1, 40)), max_size=300))
def test_every_event_is_told_counted_in_a_line_or_suppressed(steps: list[tuple[int, int, int]]) -> None:
    told = reporter()
    lines = []
    for time, source, vector in sorted(steps):
        lines += told.add(raw(time, source, vector))
    lines += told.tick(10 * WINDOW)
    assert sum(line["count"] for line in lines) + told.suppressed + told.same == len(steps)
