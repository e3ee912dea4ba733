"""The demo as a newcomer meets it: told to the end, and nothing left behind however it ends."""

from __future__ import annotations

import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

END_SECONDS = 60.0
MARK = "CLOUDTASER_DEMO_TEST"
CHAPTERS = (
    "Your EU site",
    "Register the cluster",
    "Put secrets in",
    "Connect",
    "Start an unchanged program",
    "Rotate a secret",
    "What the beacon saw",
    "Kill the beacon",
    "How long each hop takes",
)


class Demo:
    """A demo as a process of its own; everything it starts carries our mark in its environment."""

    def __init__(self, *arguments: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="cloudtaser-demo-test-"))
        self.directory.chmod(0o755)  # PostgreSQL's account enters it
        self.output = ""
        self._mark = f"{MARK}={self.directory.name}"
        environment = os.environ | {MARK: self.directory.name, "TMPDIR": str(self.directory)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cloudtaser.demo", *arguments],
            cwd=self.directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def read_until(self, text: str) -> None:
        """Read what it prints until `text` has come."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + END_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while text not in self.output:
                assert selector.select(deadline - time.monotonic()), f"no {text!r} in: {self.output}"
                data = os.read(self.process.stdout.fileno(), 65_536)
                assert data, f"it ended without {text!r}: {self.output}"
                self.output += data.decode()

    def end(self) -> int:
        """Read the rest; its exit status."""
        rest, _ = self.process.communicate(timeout=END_SECONDS)
        self.output += rest.decode()
        return self.process.returncode

    def environments(self) -> Iterator[list[bytes]]:
        """Of whatever still runs of all that it started."""
        for place in Path("/proc").glob("[0-9]*"):
            try:
                variables = (place / "environ").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            if self._mark.encode() in variables:
                yield variables

    def left(self) -> list[str]:
        """What still runs, and which directories are still there."""
        running = [f"a process of {len(variables)} variables" for variables in self.environments()]
        return running + [str(path) for path in self.directory.glob("cloudtaser-*")]

    def token_directory(self) -> Path:
        """Where on tmpfs the pod's token lies, from the wrapper's own settings."""
        for variables in self.environments():
            for variable in variables:
                if variable.startswith(b"VAULT_JWT_FILE="):
                    return Path(os.fsdecode(variable.partition(b"=")[2])).parents[1]
        raise AssertionError("no wrapper is running")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture
def demo() -> Iterator[Demo]:
    running = Demo()
    try:
        yield running
    finally:
        running.close()


def test_two_demos_side_by_side_tell_the_whole_story_and_leave_nothing(demo: Demo) -> None:
    other = Demo()
    try:
        assert demo.end() == 0, demo.output
        assert other.end() == 0, other.output
    finally:
        other.close()
    assert [line for line in demo.output.splitlines() if line != line.rstrip()] == []
    told = re.findall(r"^\d+\. (.*)$", demo.output, re.MULTILINE)
    assert len(told) == len(CHAPTERS)
    assert all(title.startswith(start) for title, start in zip(told, CHAPTERS, strict=True))
    assert "\x1b" not in demo.output  # plain lines in a pipe
    assert re.search(r"API_KEY=key\*\*\* PGUSER=v-c\*\*\* PGPASSWORD=...\*\*\*$", demo.output, re.MULTILINE)
    assert re.search(r"API_KEY=new\*\*\*", demo.output)
    assert "PostgreSQL says: logged in as v-cloudtas" in demo.output
    assert re.search(r"searched [\d,]{5,} bytes .*: 0 found$", demo.output, re.MULTILINE)
    assert re.search(r"^  read a secret +[\d.]+ ms", demo.output, re.MULTILINE)
    assert demo.left() == []


@pytest.mark.parametrize(
    "moment",
    [
        "1. Your EU site",
        "source register",
        "source bridge-token",
        "4. Connect",
        "API_KEY=key",
        "killed with SIGKILL",
    ],
)
def test_ctrl_c_at_any_moment_leaves_nothing(demo: Demo, moment: str) -> None:
    demo.read_until(moment)
    demo.process.send_signal(signal.SIGINT)
    assert demo.end() == 130
    assert "Traceback" not in demo.output
    assert "everything that was started is gone" in demo.output
    assert demo.left() == []


def test_a_killed_demo_leaves_nothing_either(demo: Demo) -> None:
    demo.read_until("API_KEY=key")
    tokens = demo.token_directory()
    assert list(tokens.glob("*/token")) != []
    demo.process.kill()
    demo.end()
    deadline = time.monotonic() + END_SECONDS
    while demo.left() or tokens.exists():
        assert time.monotonic() < deadline, demo.left()
        time.sleep(0.05)  # nobody is left who could tell us
