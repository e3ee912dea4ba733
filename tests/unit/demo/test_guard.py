"""What a process asked its guard to see to is seen to when it dies without a word."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# starts two processes and a directory, lets go of one, and waits to be killed
PARENT = """
import subprocess, sys
from pathlib import Path
from cloudtaser.demo.guard import guard
watched, released = (subprocess.Popen(["sleep", "60"], start_new_session=True) for _ in range(2))
for process in (watched, released):
    guard.watch(process.pid)
guard.remove(Path(sys.argv[1]))
guard.remove(Path(sys.argv[2]))
guard.forget(released.pid)
guard.keep(Path(sys.argv[2]))
print(watched.pid, released.pid, flush=True)
watched.wait()
"""


@pytest.mark.parametrize("how", ["kill", "terminate"])
def test_after_a_kill_what_was_watched_is_gone_and_what_was_released_is_not(how: str, tmp_path: Path) -> None:
    removed, kept = tmp_path / "removed", tmp_path / "kept"
    for path in (removed, kept):
        (path / "below").mkdir(parents=True)
    command = [sys.executable, "-c", PARENT, str(removed), str(kept)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        watched, released = (os.pidfd_open(int(pid)) for pid in parent.stdout.readline().split())
        getattr(parent, how)()
        parent.wait()
    try:
        assert _ended(watched, within=10.0)
        assert not _ended(released, within=0.0)
        deadline = time.monotonic() + 10.0
        while removed.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)  # the guard ends by itself and tells nobody
        assert kept.is_dir()
    finally:
        signal.pidfd_send_signal(released, signal.SIGKILL)
        os.close(watched)
        os.close(released)


def _ended(process: int, *, within: float) -> bool:
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(within * 1000))
