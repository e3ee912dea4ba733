"""Events: what people and the platform are told of an access; pure, `agent` brings records, time and names.

The first event of its kind is told at once. What the same process repeats within a second is one more line
with its count, when the second is over; a process that makes more than `LINES` different ones in a second has
the rest counted only.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from cloudtaser.ebpf import vectors
from cloudtaser.ebpf.layout import RawEvent, Verdict

WINDOW: Final = 1_000_000_000  # ns
LINES: Final = 50  # of one source in one window
MAX_WINDOWS: Final = 16384
_WALKS: Final = frozenset({14, 15, 16, 17, 32})  # vectors that one opening below /proc/PID may meet together
_WALK: Final = 100_000_000  # ns

# hints in an event; no decision rests on a name
TOOLS: Final = frozenset(
    {
        "gdb",
        "gcore",
        "strace",
        "ltrace",
        "jmap",
        "jcmd",
        "jstack",
        "py-spy",
        "criu",
        "perf",
        "bpftrace",
        "nsenter",
    }
)

_WORDS: Final = {
    Verdict.DENIED: "denied",
    Verdict.KILLED: "killed",
    Verdict.DETECTED: "detected",
    Verdict.EXEMPT: "exempt",
    Verdict.NOTED: "detected",
}

Line = dict[str, Any]
Describe = Callable[[int, str], Line]
"""A process's line: from its pid and what the kernel called it."""


@dataclass(slots=True)
class _Window:
    ends: int
    first: RawEvent
    repeats: int = 0


@dataclass(slots=True)
class Reporter:
    """Turns records into lines; times are on CLOCK_MONOTONIC in ns, `boot` is what makes them times of
    day.
    """

    node: str
    source: Describe
    target: Describe
    boot: int  # ns since the epoch at which CLOCK_MONOTONIC was 0
    suppressed: int = 0
    same: int = 0  # of an access that was told already
    told: dict[str, int] = field(default_factory=dict)
    _windows: dict[tuple[int, int, int, int], _Window] = field(default_factory=dict)
    _lines: dict[int, int] = field(default_factory=dict)
    _last: dict[int, RawEvent] = field(default_factory=dict)
    _second: int = 0
    _syscalls: dict[int, str] = field(default_factory=vectors.syscall_names)

    def add(self, event: RawEvent) -> list[Line]:
        """The lines that this record makes: none, one, or also those of windows that are over."""
        lines = self.tick(event.time)
        if self._is_same_access(event):
            self.same += 1
            return lines
        word = _WORDS[event.verdict]
        self.told[word] = self.told.get(word, 0) + 1
        key = (event.source_tgid, event.vector, event.target_tgid, event.verdict)
        window = self._windows.get(key)
        if window is not None:
            window.repeats += 1
            return lines
        count = self._lines.get(event.source_tgid, 0)
        if count >= LINES or len(self._windows) >= MAX_WINDOWS:
            self.suppressed += 1
            return lines
        self._lines[event.source_tgid] = count + 1
        self._windows[key] = _Window(event.time + WINDOW, event)
        lines.append(self._line(event, 1))
        return lines

    def _is_same_access(self, event: RawEvent) -> bool:
        """Whether another hook has told of it: a walk through /proc/PID to what is opened there passes
        several."""
        last = self._last.get(event.source_tid)
        if len(self._last) >= MAX_WINDOWS:
            self._last.clear()
        self._last[event.source_tid] = event
        return (
            last is not None
            and {last.vector, event.vector} <= _WALKS
            and last.vector != event.vector
            and (last.syscall, last.verdict) == (event.syscall, event.verdict)
            and event.time - last.time < _WALK
        )

    def tick(self, now: int) -> list[Line]:
        """The lines of windows that are over; called every so often."""
        if now // WINDOW == self._second:
            return []
        self._second = now // WINDOW
        self._lines.clear()
        self._last = {tid: last for tid, last in self._last.items() if now - last.time < _WALK}
        over = [key for key, window in self._windows.items() if window.ends <= now]
        windows = [self._windows.pop(key) for key in over]
        return [self._line(window.first, window.repeats) for window in windows if window.repeats]

    def _line(self, event: RawEvent, count: int) -> Line:
        vector = vectors.BY_NUMBER.get(event.vector)
        source = self.source(event.source_tgid, event.source_comm)
        source["exe"] = source.get("exe") or event.source_exe
        source |= {"pid": event.source_tgid, "comm": event.source_comm, "uid": event.source_uid}
        target: Line = {}
        if event.target_tgid:
            target = self.target(event.target_tgid, event.target_comm)
            target |= {"pid": event.target_tgid, "comm": event.target_comm}
        line: Line = {
            "time": time_of_day(self.boot + event.time),
            "node": self.node,
            "vector": event.vector,
            "name": vector.name if vector else event.name,
            "verdict": _WORDS[event.verdict],
            "source": source,
            "target": target,
            "syscall": self._syscalls.get(event.syscall, str(event.syscall) if event.syscall >= 0 else ""),
            "count": count,
        }
        if event.name and vector:
            line["detail"] = event.name
        if event.source_comm in TOOLS:
            line["tool"] = event.source_comm
        return line


def time_of_day(nanoseconds: int) -> str:
    """RFC 3339, to the microsecond, from ns since the epoch."""
    moment = datetime.fromtimestamp(nanoseconds // 1_000_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds % 1_000_000_000 // 1000:06d}Z"


def encode(line: Line) -> str:
    """One line of JSON, in ASCII: names of processes are what their owners make them."""
    return json.dumps(line, separators=(",", ":"))
