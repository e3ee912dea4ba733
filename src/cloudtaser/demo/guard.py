"""Guard: ends what the demo or a test started, should that die without ending it itself.

Used by `process`, which tells it of each process, and by `chain`, which names the directories. After a
kill -9 or with a closed terminal nobody of ours is left to clean up; so a small process of its own holds a
pipe from us, and ends what is left when the pipe ends. (`PR_SET_PDEATHSIG` would not do: it follows the
thread that started a process, and ours end early.) This file is also that process's program, run with nothing
but the standard library.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

_GRACE = 5.0  # seconds between SIGTERM and SIGKILL
_END_TIMEOUT = 10.0
_READ_BYTES = 65_536


class Guard:
    """Our side: starts the guarding process with the first thing to guard, and keeps it informed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pipe = -1
        self._process: subprocess.Popen[bytes] | None = None

    def watch(self, pid: int) -> None:
        """End this process when we are gone."""
        self._tell("watch", str(pid))

    def forget(self, pid: int) -> None:
        """It has ended."""
        self._tell("forget", str(pid))

    def remove(self, directory: Path) -> None:
        """Remove this directory when we are gone."""
        self._tell("remove", str(directory))

    def keep(self, directory: Path) -> None:
        """It is removed already, or somebody else sees to it."""
        self._tell("keep", str(directory))

    def close(self) -> None:
        """End the guarding process; what it still knew of, it ends first."""
        with self._lock:
            process, self._process = self._process, None
            if process is None:
                return
            os.close(self._pipe)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_TIMEOUT)

    def _tell(self, verb: str, what: str) -> None:
        with self._lock:
            if self._process is None:
                self._start()
            with contextlib.suppress(BrokenPipeError):  # somebody ended the guard: we go on without one
                os.write(self._pipe, os.fsencode(f"{verb} {what}\0"))

    def _start(self) -> None:
        reading, self._pipe = os.pipe()  # not inherited by what we start: the pipe ends when we do
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__],
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        finally:
            os.close(reading)
        atexit.register(self.close)


guard = Guard()


class _Charges:
    """The other side: processes, each by a descriptor that no later process can inherit, and directories."""

    def __init__(self) -> None:
        self.processes: dict[int, int] = {}
        self.directories: set[str] = set()

    def hear(self, verb: str, what: str) -> None:
        if verb == "watch":
            with contextlib.suppress(ProcessLookupError):
                self.processes[int(what)] = os.pidfd_open(int(what))
        elif verb == "forget":
            descriptor = self.processes.pop(int(what), None)
            if descriptor is not None:
                os.close(descriptor)
        elif verb == "remove":
            self.directories.add(what)
        else:
            self.directories.discard(what)

    def end(self) -> None:
        self._signal(signal.SIGTERM)
        left = select.poll()
        for descriptor in self.processes.values():
            left.register(descriptor, select.POLLIN)
        count, deadline = len(self.processes), time.monotonic() + _GRACE
        while count and (remaining := deadline - time.monotonic()) > 0:
            for descriptor, _ in left.poll(remaining * 1000):
                left.unregister(descriptor)
                count -= 1
        self._signal(signal.SIGKILL)
        for directory in self.directories:
            shutil.rmtree(directory, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        for descriptor in self.processes.values():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(descriptor, number)


def _main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # ours is to outlive what sends them
    charges, buffered = _Charges(), b""
    while data := os.read(0, _READ_BYTES):
        *lines, buffered = (buffered + data).split(b"\0")
        for line in lines:
            charges.hear(*os.fsdecode(line).split(" ", 1))
    charges.end()


if __name__ == "__main__":
    _main()
