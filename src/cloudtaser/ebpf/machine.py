"""Machine: what of this machine bears on memory and is no vector of the kernel's programs (46); read for
/status.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def machine() -> dict[str, Any]:
    """Kernel, BTF, LSMs, swap, kdump; what cannot be told is empty or null."""
    swaps = _text("/proc/swaps").splitlines()[1:]
    crash = _text("/sys/kernel/kexec_crash_loaded")
    return {
        "kernel": os.uname().release,
        "btf": os.path.exists("/sys/kernel/btf/vmlinux"),
        "lsm": _text("/sys/kernel/security/lsm"),
        "swap": [line.split()[0] for line in swaps],
        "zram": any("zram" in line for line in swaps),
        "kdump": crash == "1" if crash else None,
        "core_pattern": _text("/proc/sys/kernel/core_pattern"),
    }
