"""Looking at a running application from outside, as whoever may read /proc would."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from tests.unit.wrapper.launch import PATIENCE, Wrapped

CANARY = "CANARY-4b1d0c77e2"


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """Until it is so: what a process does on its own tells nobody when it is done."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    """The processes that the process started, and theirs."""
    found: list[int] = []
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (thread / "children").read_text().split()):
                found += [child, *children(child)]
    except (FileNotFoundError, ProcessLookupError):
        return found
    return found


def application(wrapped: Wrapped) -> list[int]:
    """The application and all that it started; never none."""
    found = children(wrapped.process.pid)
    assert found
    return found


def environ(pid: int) -> bytes:
    """The environment that the kernel shows for the process; nothing where it has just ended."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def open_files(pid: int) -> dict[int, str]:
    """Its descriptors and what they are."""
    try:
        return {int(entry.name): os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    except (FileNotFoundError, ProcessLookupError):
        return {}


def secret_files(pid: int) -> list[int]:
    """The descriptors in it that carry secrets."""
    marks = ("secretmem", "memfd:cloudtaser")
    return [number for number, link in open_files(pid).items() if any(mark in link for mark in marks)]
