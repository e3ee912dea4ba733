"""Builds the agent's programs for the kernel, src/cloudtaser/ebpf/guard.bpf.o, with clang.

tools/prepare calls it, and the wheel's build; it does nothing when neither a source nor the flags changed.
The object fits every kernel, so it does not depend on this machine's.

Usage: python tools/guard.py [--if-possible] --if-possible: where clang or libbpf's headers are missing, say
so and leave the agent without its programs.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "src/cloudtaser/ebpf"
SOURCE = PACKAGE / "bpf/guard.bpf.c"
TARGET = PACKAGE / "guard.bpf.o"
STAMP = PACKAGE / ".guard.stamp"
FLAGS = ["-g", "-O2", "-target", "bpf", "-mcpu=v3", "-Wall", "-Werror"]


def includes() -> list[str]:
    """Where Debian keeps <asm/types.h>."""
    return [f"-I/usr/include/{platform.machine()}-linux-gnu"]


def tool(name: str) -> str:
    """A program of LLVM's; raises OSError without it."""
    found = shutil.which(name)
    if not found:
        raise OSError(f"no {name} (apt-get install clang llvm libbpf-dev)")
    return found


def wanted_stamp(clang: str) -> str:
    """What the object depends on, as one digest."""
    version = subprocess.run([clang, "--version"], check=True, capture_output=True).stdout
    digest = hashlib.sha256(repr((version, FLAGS, includes())).encode())
    for path in sorted(SOURCE.parent.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def build() -> None:
    """Compile, strip, and put in place at once. Raises OSError, CalledProcessError."""
    clang, strip = tool("clang"), tool("llvm-strip")
    if not Path("/usr/include/bpf/bpf_helpers.h").exists():
        raise OSError("no /usr/include/bpf/bpf_helpers.h (apt-get install libbpf-dev)")
    wanted = wanted_stamp(clang)
    if TARGET.exists() and STAMP.exists() and STAMP.read_text() == wanted:
        return
    print(f"guard: building {TARGET.name}", flush=True)
    fresh = TARGET.with_suffix(f".{os.getpid()}.new")
    try:
        subprocess.run([clang, *FLAGS, *includes(), "-c", str(SOURCE), "-o", str(fresh)], check=True)
        subprocess.run([strip, "-g", str(fresh)], check=True)
        STAMP.unlink(missing_ok=True)
        fresh.replace(TARGET)
        STAMP.write_text(wanted)
    finally:
        fresh.unlink(missing_ok=True)


def main() -> int:
    """The program; its exit code."""
    try:
        build()
    except OSError as error:
        print(f"guard: {error}; the node agent goes without its programs", file=sys.stderr)
        return 0 if sys.argv[1:] == ["--if-possible"] else 1
    except subprocess.CalledProcessError as error:
        print(f"guard: {error.cmd[0]} failed with {error.returncode}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
