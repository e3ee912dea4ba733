"""Counts what fails again and again, and says so at once and then at most once a minute.

Used by `station`: a squatter, a scanner or a beacon that is down must not be able to write the log. Pure; the
caller passes `now` and writes the lines.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

EVERY: Final = 60.0
"""Seconds between two lines about the same thing."""
KEYS_LIMIT: Final = 4096
"""Different things counted at a time; beyond it they are counted as one."""

_OTHER: Final = ("others", "", "")

Key = tuple[str, str, str]
"""What failed, for whom (a cluster, a beacon), where (a room); words for the log."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line to write: how often `key` failed since the last one, and why the last time."""

    key: Key
    count: int
    reason: str


@dataclass(slots=True)
class _Entry:
    said_at: float
    count: int = 0
    reason: str = ""


@dataclass(slots=True)
class Tally:
    """Failures by key."""

    total: int = 0
    """Of all failures ever, for the status."""
    _entries: dict[Key, _Entry] = field(default_factory=dict)

    def add(self, key: Key, reason: str, now: float) -> Line | None:
        """Count one failure; the line that is due now, if one is."""
        self.total += 1
        entry = self._entries.get(key)
        if entry is None and len(self._entries) >= KEYS_LIMIT:
            key, entry = _OTHER, self._entries.get(_OTHER)
        if entry is None:
            entry = self._entries[key] = _Entry(now - EVERY)
        entry.count += 1
        entry.reason = reason
        return self._line(key, entry, now)

    def due(self, now: float) -> list[Line]:
        """Lines about what failed since it was last mentioned, a minute or more ago."""
        lines = [self._line(key, entry, now) for key, entry in self._entries.items()]
        over = [k for k, entry in self._entries.items() if not entry.count and now - entry.said_at >= EVERY]
        for key in over:
            del self._entries[key]
        return [line for line in lines if line is not None]

    @staticmethod
    def _line(key: Key, entry: _Entry, now: float) -> Line | None:
        if not entry.count or now - entry.said_at < EVERY:
            return None
        line = Line(key, entry.count, entry.reason)
        entry.said_at, entry.count = now, 0
        return line
