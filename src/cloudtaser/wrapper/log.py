"""The wrapper's log: one line of JSON on standard error for each event, never a value.

Used by every part that has something to say. A line is at most a pipe's atomic size and is dropped rather
than waited for: PID 1 must not stand still because nobody reads the log.
"""

import posix
import select
import time

LEVELS = {"debug": 10, "info": 20, "warning": 30, "warn": 30, "error": 40}
_MAX_LINE = 4000  # below PIPE_BUF: written whole or not at all
_MAX_TEXT = 1200
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_ESCAPED = frozenset(_ESCAPES)

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
        line = render(level, event, fields, time.time()).encode()
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
        if size > _MAX_LINE:
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
    """A JSON string in ASCII, cut where it becomes too long."""
    if len(text) <= _MAX_TEXT and text.isascii() and text.isprintable() and not _ESCAPED.intersection(text):
        return f'"{text}"'
    parts: list[str] = []
    size = 0
    for letter in text:
        escaped = _escape(letter)
        size += len(escaped)
        if size > _MAX_TEXT:
            parts.append("...")
            break
        parts.append(escaped)
    return '"' + "".join(parts) + '"'


def _escape(letter: str) -> str:
    if letter in _ESCAPES:
        return _ESCAPES[letter]
    point = ord(letter)
    if 32 <= point < 127:
        return letter
    if point < 0x10000:
        return f"\\u{point:04x}"
    return f"\\u{0xD800 + (point - 0x10000 >> 10):04x}\\u{0xDC00 + (point & 0x3FF):04x}"
