"""JSON lines on standard error, one an event.

Used by `server` and `app`. No line holds payload or a full hash: `room8` is how a room is shown. A kind of
event that comes too often is counted instead of written, and the count is told once a second.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Final, TextIO

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_PER_SECOND: Final = 20


def room8(room: bytes) -> str:
    """A room as the log shows it: 8 of its 64 digits."""
    return room[:4].hex()


class Log:
    """Writes events at or above a level. At most 20 a second of one kind."""

    def __init__(self, level: str = "info", stream: TextIO | None = None) -> None:
        self._level = LEVELS[level]
        self._stream = stream
        self._second = 0
        self._written: dict[str, int] = {}

    def debug(self, event: str, **fields: object) -> None:
        """For those who look for a fault."""
        if self._level <= 10:
            self._write("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        """The ordinary course of things."""
        if self._level <= 20:
            self._write("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Something that somebody should look at when there is time."""
        if self._level <= 30:
            self._write("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Something that does not work until somebody looks."""
        self._write("error", event, fields)

    def _write(self, level: str, event: str, fields: dict[str, object]) -> None:
        now = time.time()
        if int(now) != self._second:
            self._tell_suppressed(now)
            self._second = int(now)
        written = self._written[event] = self._written.get(event, 0) + 1
        if written <= _PER_SECOND:
            self._line(now, level, event, fields)

    def _tell_suppressed(self, now: float) -> None:
        for event, written in self._written.items():
            if written > _PER_SECOND:
                fields: dict[str, object] = {"of": event, "lines": written - _PER_SECOND}
                self._line(now, "warning", "log lines left out", fields)
        self._written.clear()

    def _line(self, now: float, level: str, event: str, fields: dict[str, object]) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
        line = json.dumps({"timestamp": stamp, "level": level, "event": event, **fields}, default=str)
        stream = self._stream or sys.stderr
        try:
            stream.write(line + "\n")
            stream.flush()
        except OSError:
            pass  # nobody reads the log; the beacon goes on
