"""The log: one line of JSON, always, and never a wait."""

from __future__ import annotations

import json
import os

from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.wrapper.log import Log, render


@given(
    st.text(),
    st.dictionaries(
        st.text(max_size=5),
        st.text() | st.integers() | st.booleans() | st.lists(st.text(), max_size=5),
        max_size=5,
    ),
)
def test_every_event_is_one_line_of_json(event: str, fields: dict[str, str | int | bool | list[str]]) -> None:
    line = render("info", event, dict(fields), 1_790_000_000.123)
    assert line.endswith("}\n")
    assert "\n" not in line[:-1]
    entry = json.loads(line)
    assert entry["time"] == "2026-09-21T14:13:20.123Z" or "time" in fields
    assert len(line.encode()) <= 4096


def test_lines_below_the_level_are_not_written() -> None:
    reading, writing = os.pipe()
    log = Log("warning", writing)
    log.info("quiet")
    log.warning("loud", count=3, paths=["a"])
    os.close(writing)
    line = json.loads(os.read(reading, 65536))
    os.close(reading)
    assert (line["event"], line["level"], line["count"], line["paths"]) == ("loud", "warning", 3, ["a"])


def test_a_reader_that_does_not_read_stops_nobody() -> None:
    reading, writing = os.pipe()
    log = Log("info", writing)
    for _ in range(2000):
        log.info("x" * 500)
    os.close(reading)
    log.info("and nobody there at all")
    os.close(writing)
