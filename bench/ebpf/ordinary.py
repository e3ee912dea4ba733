"""What opening an ordinary file costs a process that is not protected; run inside a VM by `compare`.

Prints JSON: for each program of ours that runs at an open() and close(), how often, its executed instructions
(`interpreter`) and lookups, and the kernel's own measure of its time (BPF_ENABLE_STATS), which an emulated
processor makes noise.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import struct
import sys
from collections.abc import Callable
from pathlib import Path

from bench.ebpf.interpreter import longest
from cloudtaser.ebpf import layout
from cloudtaser.ebpf.guard import Guard
from cloudtaser.ebpf.vectors import Tier

BPF = 321
GET_INFO, ENABLE_STATS = 15, 32
OPENS = 2000


def _bpf(command: int, request: bytes) -> int:
    library = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(request.ljust(128, b"\0"), 128)
    result: int = library.syscall(BPF, command, buffer, 128)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def info(fd: int, text: ctypes.Array[ctypes.c_char] | None = None) -> bytes:
    """`struct bpf_prog_info`; the program as it is executed goes to `text`."""
    answer = ctypes.create_string_buffer(232)
    if text is not None:
        struct.pack_into("<I", answer, 20, len(text))
        struct.pack_into("<Q", answer, 32, ctypes.addressof(text))
    _bpf(GET_INFO, struct.pack("<IIQ", fd, 232, ctypes.addressof(answer)))
    return answer.raw


def executed(fd: int) -> bytes:
    """The instructions that the kernel compiled."""
    (length,) = struct.unpack_from("<I", info(fd), 20)
    text = ctypes.create_string_buffer(length)
    info(fd, text)
    return text.raw


def runs(fd: int) -> tuple[int, int]:
    """How often it ran, and for how many ns."""
    nanoseconds, count = struct.unpack_from("<QQ", info(fd), 192)
    return count, nanoseconds


def names() -> Callable[[int], str]:
    """From a call's immediate value to the kernel function's name."""
    Path("/proc/sys/kernel/kptr_restrict").write_text("0")
    symbols = {}
    for line in Path("/proc/kallsyms").read_text().splitlines():
        address, _, rest = line.split(" ", 2)
        symbols[int(address, 16)] = rest.split()[0]
    base = next(address for address, name in symbols.items() if name == "__bpf_call_base")
    return lambda immediate: symbols.get(base + immediate, f"unknown {immediate}")


def main() -> int:
    """Load, open, count."""
    guard = Guard()
    guard.load(Tier(sys.argv[1]))
    guard.configure(layout.Config(mode=layout.Mode.ENFORCE))
    programs = {name: guard._object.program_fd(name) for name in guard.attached}  # type: ignore[union-attr]
    kept = _bpf(ENABLE_STATS, struct.pack("<I", 0))
    file = Path("/run/ordinary")
    file.write_text("nothing")
    for _ in range(10):
        os.close(os.open(file, os.O_RDONLY))
    before = {name: runs(fd) for name, fd in programs.items()}
    for _ in range(OPENS):
        os.close(os.open(file, os.O_RDONLY))
    after = {name: runs(fd) for name, fd in programs.items()}
    os.close(kept)
    name_of = names()
    found = []
    for name, fd in sorted(programs.items()):
        count = after[name][0] - before[name][0]
        if count < OPENS // 2:  # what other processes did meanwhile
            continue
        run = longest(executed(fd), name_of)
        found.append(
            {
                "program": name,
                "runs": round(count / OPENS, 2),
                "instructions": run.instructions,
                "lookups": run.lookups,
                "calls": run.calls,
                "nanoseconds": (after[name][1] - before[name][1]) / count,
            }
        )
    print(json.dumps({"kernel": platform.release(), "tier": guard.tier.value, "programs": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
