"""The wrapper as a real process: from its source with `python -I -S` and its C extension alone; or, where
`CLOUDTASER_TEST_WRAPPER` names one, the payload's program, so that both are held to the same promises.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import _cloudtaser

SOURCE = Path(__file__).resolve().parents[3] / "src"
EXTENSION = str(Path(_cloudtaser.__file__).parent)
START = "from cloudtaser.wrapper.app import main; main()"
IN_ITS_PLACE = f"import sys; sys.path[:0] = [{str(SOURCE)!r}, {EXTENSION!r}]; "
_PROGRAM = os.environ.get("CLOUDTASER_TEST_WRAPPER")
PREFIX = [_PROGRAM] if _PROGRAM else [sys.executable, "-I", "-S", "-c", IN_ITS_PLACE + START]
WITHOUT_EXTENSION = f"import sys; sys.path.insert(0, {str(SOURCE)!r}); "
PREFIX_WITHOUT_EXTENSION = [sys.executable, "-I", "-S", "-c", WITHOUT_EXTENSION + START]
PATIENCE = 30.0
APPLICATION = ("sleep", "1000")  # it never looks at its environment


class Wrapped:
    """A running wrapper; its standard output is read line by line, its log is collected."""

    def __init__(
        self, *command: str, settings: dict[str, str] | None = None, prefix: list[str] | None = None
    ) -> None:
        environment = {"PATH": os.environ["PATH"], **(settings or {})}
        self.process = subprocess.Popen(
            [*(prefix or PREFIX), "--", *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._lines = b""
        self._log = b""

    def __enter__(self) -> Wrapped:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()  # so that the application ends as well
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    def line(self) -> str:
        """The next line the application writes."""
        while b"\n" not in self._lines:
            self._lines += self._more(self.process.stdout, "output")
        line, _, self._lines = self._lines.partition(b"\n")
        return line.decode()

    def event(self, text: str) -> dict[str, object]:
        """The next log line whose event contains `text`; those before it are dropped."""
        while True:
            while b"\n" not in self._log:
                self._log += self._more(self.process.stderr, f"event {text!r}")
            line, _, self._log = self._log.partition(b"\n")
            if not line.startswith(b"{"):
                continue
            entry: dict[str, object] = json.loads(line)
            if text in str(entry["event"]):
                return entry

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        return self.process.wait(PATIENCE)

    def log(self) -> str:
        """What was logged and not yet looked at; after the end."""
        assert self.process.stderr is not None
        return (self._log + self.process.stderr.read()).decode()

    @staticmethod
    def _more(stream: object, what: str) -> bytes:
        fd = stream.fileno()  # type: ignore[attr-defined]  # a pipe's file object
        ready, _, _ = select.select([fd], [], [], PATIENCE)
        assert ready, f"waited {PATIENCE} s for {what}"
        data = os.read(fd, 65536)
        assert data, f"ended before {what}"
        return data


def run(
    *command: str, settings: dict[str, str] | None = None, check_code: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the wrapper to its end."""
    environment = {"PATH": os.environ["PATH"], **(settings or {})}
    done = subprocess.run(
        [*PREFIX, *command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
    )
    if check_code is not None:
        assert done.returncode == check_code, done.stderr
    return done


def python(code: str) -> list[str]:
    """A command that runs Python code as the application."""
    return [sys.executable, "-I", "-S", "-u", "-c", code]


def state_of(pid: int) -> str:
    """The kernel's letter for a process: S sleeping, T stopped, Z zombie; "" when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def wait_for_state(pid: int, letters: str) -> str:
    """Until the process is in one of the states ("" for gone)."""
    deadline = time.monotonic() + PATIENCE
    while (state := state_of(pid)) not in letters or (not letters and state):
        assert time.monotonic() < deadline, f"process {pid} is {state!r}, not one of {letters!r}"
        time.sleep(0.01)
    return state


ALL_SIGNALS = [int(number) for number in signal.valid_signals()]


def application_of(wrapped: Wrapped, *, other_than: int = 0) -> int:
    """The process of `APPLICATION` under the wrapper, once it is executed."""
    deadline = time.monotonic() + PATIENCE
    children = Path(f"/proc/{wrapped.process.pid}/task/{wrapped.process.pid}/children")
    while True:
        for pid in map(int, children.read_text().split()):
            if pid != other_than and _name_of(pid) == APPLICATION[0]:
                return pid
        assert time.monotonic() < deadline, "no application"
        time.sleep(0.01)


def _name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""
