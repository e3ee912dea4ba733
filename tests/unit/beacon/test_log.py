"""Log lines: JSON, by level, bounded, and no more of a hash than 8 digits."""

from __future__ import annotations

import io
import json
import time

import pytest

from cloudtaser.beacon.log import Log, room8


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_json_with_time_level_and_event() -> None:
    stream = io.StringIO()
    Log("info", stream).info("matched", room="00000000", waited=0.5)
    (line,) = lines(stream)
    assert line["event"] == "matched"
    assert line["level"] == "info"
    assert line["waited"] == 0.5
    assert str(line["timestamp"]).endswith("Z")


def test_what_is_below_the_level_is_not_written() -> None:
    stream = io.StringIO()
    log = Log("warning", stream)
    log.debug("a")
    log.info("b")
    log.warning("c")
    log.error("d")
    assert [line["event"] for line in lines(stream)] == ["c", "d"]


def test_a_flood_of_one_kind_is_counted_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    stream = io.StringIO()
    log = Log("info", stream)
    for _ in range(500):
        log.info("bad hello")
    log.info("matched")
    now[0] += 1
    log.info("matched")
    events = [line["event"] for line in lines(stream)]
    assert events.count("bad hello") == 20
    assert events.count("matched") == 2
    (told,) = (line for line in lines(stream) if line["event"] == "log lines left out")
    assert (told["of"], told["lines"]) == ("bad hello", 480)


def test_a_reader_that_is_gone_is_no_failure() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    Log("info", Gone()).info("matched")


def test_a_room_is_shown_by_eight_digits() -> None:
    assert room8(bytes(range(32))) == "00010203"
