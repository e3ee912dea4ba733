"""The programs in C that run inside the VM, compiled on the host once per change.

`stage`'s callers use `attack` and `victim`. The attackers' is static, so that it is there in milliseconds on
an emulated processor.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

SOURCES = Path(__file__).parent / "attacks"
BUILT = Path(".cache/vm").absolute()
FLAGS = ("-std=gnu17", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread")
PARTS = {
    "attack": ("-static", "main.c", "proc.c", "trace.c", "reach.c", "node.c", "tamper.c"),
    "victim": ("victim.c",),  # dynamic, as applications are: ltrace needs it
    "application": ("-static", "victim.c"),  # the same in a container that has no library
}


JAVA = """
public class Idle {
    public static void main(String[] given) throws Exception {
        String secret = System.getenv("CANARY");
        System.out.println("up");
        while (System.in.read() >= 0);
        System.out.println(secret);
    }
}
"""


def java_class() -> Path:
    """A folder with the class `Idle`, which has the canary in its heap. Raises `CalledProcessError`."""
    target = BUILT / f"java-{hashlib.sha256(JAVA.encode()).hexdigest()[:16]}"
    if not target.exists():
        scratch = BUILT / f".java-{os.getpid()}"
        scratch.mkdir(parents=True)
        (scratch / "Idle.java").write_text(JAVA)
        subprocess.run(["javac", "-d", scratch, scratch / "Idle.java"], check=True, stdin=subprocess.DEVNULL)
        scratch.rename(target)
    return target


def program(name: str) -> Path:
    """The program of that name in `PARTS`, compiled if its sources changed. Raises `CalledProcessError`."""
    flags = [*FLAGS, *(part for part in PARTS[name] if part.startswith("-"))]
    sources = [SOURCES / part for part in PARTS[name] if not part.startswith("-")]
    content = b"\0".join(file.read_bytes() for file in (*sources, SOURCES / "attack.h"))
    digest = hashlib.sha256(content + " ".join(flags).encode()).hexdigest()[:16]
    target = BUILT / f"{name}-{digest}"
    if not target.exists():
        BUILT.mkdir(parents=True, exist_ok=True)
        scratch = BUILT / f".{name}-{os.getpid()}"
        subprocess.run(["gcc", *flags, "-o", scratch, *sources], check=True, stdin=subprocess.DEVNULL)
        scratch.rename(target)
    return target
