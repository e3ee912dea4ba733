"""Machine: what of this machine bears on memory and is no vector of the kernel's programs (46); read for
/status.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Any, Final

_MEMFD_SECRET: Final = 447  # Linux 5.14, the same number on x86-64 and arm64
_GUESTS: Final = {"/sys/class/misc/sev-guest": "AMD SEV-SNP", "/sys/class/misc/tdx_guest": "Intel TDX"}


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def machine() -> dict[str, Any]:
    """Kernel, BTF, LSMs, swap, kdump, cgroups, secret memory, confidential VM; what cannot be told is empty
    or null."""
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
        "cgroup": 2 if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else 1,
        "memfd_secret": _memfd_secret(),
        "confidential": next((name for path, name in _GUESTS.items() if os.path.exists(path)), ""),
    }


def _memfd_secret() -> bool | None:
    """Whether the kernel gives secret memory; None where we may not ask."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.syscall(_MEMFD_SECRET, 0)
    if descriptor >= 0:
        os.close(descriptor)
        return True
    return None if ctypes.get_errno() == errno.EPERM else False
