"""Node probe: what one node is, printed as JSON by whoever runs this file there.

`check` sends its text to a short-lived pod of each node (`python3 -c`), so it uses nothing but the standard
library. What cannot be told from inside a container is null.
"""

import ctypes
import json
import os

MEMFD_SECRET = 447  # Linux 5.14, the same number on x86-64 and arm64
_GUESTS = {"/sys/class/misc/sev-guest": "AMD SEV-SNP", "/sys/class/misc/tdx_guest": "Intel TDX"}


def text(path: str) -> str | None:
    """A file's text, None where it cannot be read."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None


def memfd_secret() -> bool | None:
    """Whether the kernel gives secret memory; None where this container may not ask."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.syscall(MEMFD_SECRET, 0)
    if descriptor >= 0:
        os.close(descriptor)
        return True
    return None if ctypes.get_errno() == 1 else False  # EPERM: seccomp


def confidential() -> str | None:
    """Which confidential computing protects this machine; empty: none that is seen."""
    if not os.path.isdir("/sys/class/misc"):
        return None
    return next((name for path, name in _GUESTS.items() if os.path.exists(path)), "")


def probe() -> dict[str, object]:
    """All of it."""
    swaps = text("/proc/swaps")
    return {
        "kernel": os.uname().release,
        "cgroup": 2 if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else 1,
        "swap": None if swaps is None else [line.split()[0] for line in swaps.splitlines()[1:]],
        "btf": os.path.exists("/sys/kernel/btf/vmlinux"),
        "lsm": text("/host/kernel/security/lsm"),
        "memfd_secret": memfd_secret(),
        "confidential": confidential(),
    }


if __name__ == "__main__":
    print(json.dumps(probe()))
