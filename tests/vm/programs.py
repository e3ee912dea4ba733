"""The programs in C that run inside the VM, compiled on the host once per change.

`stage`'s callers use `attack` and `victim`. Both are static, so that they start in milliseconds on an
emulated processor.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

SOURCES = Path(__file__).parent / "attacks"
BUILT = Path(".cache/vm").absolute()
FLAGS = ("-std=gnu17", "-O1", "-Wall", "-Wextra", "-Werror", "-static", "-pthread")
PARTS = {
    "attack": ("main.c", "proc.c", "trace.c", "reach.c", "node.c", "tamper.c"),
    "victim": ("victim.c",),
}


def program(name: str) -> Path:
    """The program of that name in `PARTS`, compiled if its sources changed. Raises `CalledProcessError`."""
    sources = [SOURCES / part for part in PARTS[name]]
    content = b"\0".join(file.read_bytes() for file in (*sources, SOURCES / "attack.h"))
    digest = hashlib.sha256(content + " ".join(FLAGS).encode()).hexdigest()[:16]
    target = BUILT / f"{name}-{digest}"
    if not target.exists():
        BUILT.mkdir(parents=True, exist_ok=True)
        scratch = BUILT / f".{name}-{os.getpid()}"
        subprocess.run(["gcc", *FLAGS, "-o", scratch, *sources], check=True, stdin=subprocess.DEVNULL)
        scratch.rename(target)
    return target
