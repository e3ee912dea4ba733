"""The wrapper's log: one line of JSON on standard error for each event, never a value.

Used by every part that has something to say. A line is at most a pipe's atomic size and is dropped rather
than waited for: PID 1 must not stand still because nobody reads the log.
"""

import posix
import select
import time

LEVELS = {"debug": 10, "info": 20, "warning": 30, "warn": 30, "error": 40}
_MAX_LINE = 4000
_MAX_TEXT = 600
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}

Field = str | int | float | bool | list[str]


class Log:
    """Writes events of `level` and above to the descriptor `fd`."""

    __slots__ = ("_fd", "_level", "_poll")

    def __init__(self, level: str = "info", fd: int = 2) -> None:
        self._level = LEVELS[level]
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def debug(self, event: str, **fields: Field) -> None:
        """What only a developer wants to see."""
        self._write("debug", event, fields)

    def info(self, event: str, **fields: Field) -> None:
        """What happens once in a while in a healthy life."""
        self._write("info", event, fields)

    def warning(self, event: str, **fields: Field) -> None:
        """What the application survives, but somebody should look at."""
        self._write("warning", event, fields)

    def error(self, event: str, **fields: Field) -> None:
        """What stops the wrapper, or leaves the application with old values."""
        self._write("error", event, fields)

    def _write(self, level: str, event: str, fields: dict[str, Field]) -> None:
        if LEVELS[level] < self._level:
            return
        line = render(level, event, fields, time.time()).encode("utf-8", "replace")
        try:
            if self._poll.poll(0):
                posix.write(self._fd, line)
        except OSError:
            return


def render(level: str, event: str, fields: dict[str, Field], now: float) -> str:
    """One line, at most a pipe's atomic size, with the time in UTC to the millisecond."""
    stamp = time.gmtime(now)
    when = (
        f"{stamp.tm_year:04}-{stamp.tm_mon:02}-{stamp.tm_mday:02}T"
        f"{stamp.tm_hour:02}:{stamp.tm_min:02}:{stamp.tm_sec:02}.{int(now * 1000) % 1000:03}Z"
    )
    parts = [
        f'"time":"{when}"',
        f'"level":"{level}"',
        '"program":"cloudtaser-wrapper"',
        f'"event":{_quote(event)}',
    ]
    size = sum(map(len, parts))
    for name, value in fields.items():
        part = f"{_quote(name)}:{_value(value)}"
        size += len(part) + 1
        if size > _MAX_LINE // 2:
            break
        parts.append(part)
    return "{" + ",".join(parts) + "}\n"


def _value(value: Field) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, list):
        return "[" + ",".join(_quote(item) for item in value[:50]) + "]"
    return _quote(value)


def _quote(text: str) -> str:
    cut = text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "…"
    return '"' + "".join(_escape(letter) for letter in cut) + '"'


def _escape(letter: str) -> str:
    if letter in _ESCAPES:
        return _ESCAPES[letter]
    return letter if letter.isprintable() else f"\\u{min(ord(letter), 0xFFFF):04x}"
