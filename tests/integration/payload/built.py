"""How tests come by the payload: by images/wrapper/build, which keeps it in the user's cache."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
BUILD = ROOT / "images" / "wrapper" / "build"
PATIENCE = 1500.0  # from nothing, on a busy machine with two cores


def build(directory: Path, *options: str) -> Path:
    """The payload, in `directory`."""
    done = subprocess.run(
        [str(BUILD), *options, str(directory)], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    return directory
