"""Every line of a log is one JSON object that names program and part."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from cloudtaser.errors import ConfigError
from cloudtaser.net import log


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_ours_and_the_standard_librarys_come_out_alike(capsys: pytest.CaptureFixture[str]) -> None:
    early = log.get_logger("bridge.parking")
    log.configure("info", "cloudtaser-bridge")
    early.info("parked", room="1a2b3c4d", line="a\nb")
    logging.getLogger("asyncio").warning("slow %s", "callback")
    early.debug("not shown")
    ours, theirs = lines(capsys)
    assert {k: ours[k] for k in ("event", "room", "line", "level", "program", "logger")} == {
        "event": "parked",
        "room": "1a2b3c4d",
        "line": "a\nb",
        "level": "info",
        "program": "cloudtaser-bridge",
        "logger": "bridge.parking",
    }
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("slow callback", "warning", "asyncio")
    assert str(ours["timestamp"]).endswith("Z")


def test_an_exception_is_a_field_of_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("debug", "p")
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        log.get_logger("x").debug("failed", exc_info=True)
    (line,) = lines(capsys)
    assert "ZeroDivisionError" in str(line["exception"])


def test_another_level_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="'loud' is not a log level"):
        log.configure("loud", "p")
