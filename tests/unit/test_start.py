"""Interrupted while it loads, a program ends by the signal, and prints nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULE = """
import os, signal, time
os.kill(os.getpid(), signal.SIGINT)
time.sleep({pause})
def main():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep({pause})
"""


def _started(tmp_path: Path, pause: float, disposition: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "program.py").write_text(MODULE.format(pause=pause))
    script = (
        f"import signal; signal.signal(signal.SIGINT, signal.{disposition}); from cloudtaser import start; "
        "start.run('program')"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )


def test_ctrl_c_while_loading_leaves_no_traceback(tmp_path: Path) -> None:
    done = _started(tmp_path, 60, "default_int_handler")
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_where_ctrl_c_is_ignored_it_stays_so(tmp_path: Path) -> None:
    done = _started(tmp_path, 0, "SIG_IGN")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("program", ["bridge", "operator", "cli"])
def test_the_programs_that_take_a_moment_start_here(program: str) -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts[f"cloudtaser-{program}"] == f"cloudtaser.start:{program}"
