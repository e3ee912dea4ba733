"""Hardening: what the agent gives up once it is set up; called by `agent`, which runs nobody else's code
after that.

Capabilities beyond those it needs leave all its sets, for good; a seccomp filter refuses the system calls by
which a taken over agent would go on (starting programs, ptrace, mounts, modules, kexec, keys). What only a
service manager can do, a read-only root and no devices, is in deploy/.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from typing import Final

_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_DUMPABLE: Final = 4
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_CAPABILITY_VERSION_3: Final = 0x20080522
_SECCOMP_SET_MODE_FILTER: Final = 1
_SECCOMP_FILTER_FLAG_TSYNC: Final = 1
_SECCOMP_RET_ALLOW: Final = 0x7FFF0000
_SECCOMP_RET_ERRNO: Final = 0x00050000
_SECCOMP_RET_KILL_PROCESS: Final = 0x80000000
_EPERM: Final = 1

CAPABILITIES: Final = {
    "CAP_DAC_READ_SEARCH": 2,  # measure an executable that is not for everybody to read
    "CAP_SYS_PTRACE": 19,  # /proc/PID/exe and ns of other users' processes
    "CAP_SYS_ADMIN": 21,  # pods' network namespaces, objects by id, task iterators
    "CAP_SYS_RESOURCE": 24,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}

_ARCHITECTURES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# execve, execveat, ptrace, process_vm_readv, process_vm_writev, mount, umount2, pivot_root, chroot,
# init_module, finit_module, delete_module, kexec_load, kexec_file_load, reboot, swapon, swapoff, add_key,
# request_key, keyctl, userfaultfd, io_uring_setup, unshare, personality, acct, settimeofday, clock_settime,
# open_by_handle_at, move_mount, fsopen, fsmount
_FORBIDDEN: Final = {
    "x86_64": (
        *(59, 322, 101, 310, 311, 165, 166, 155, 161, 175, 313, 176, 246, 320, 169, 167, 168, 248, 249, 250),
        *(323, 425, 272, 135, 163, 164, 227, 304, 429, 430, 432),
    ),
    "aarch64": (
        *(221, 281, 117, 270, 271, 40, 39, 41, 51, 105, 273, 106, 104, 294, 142, 224, 225, 217, 218, 219),
        *(282, 425, 97, 92, 89, 170, 112, 265, 429, 430, 432),
    ),
}


def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def drop_capabilities(keep: frozenset[int] = frozenset(CAPABILITIES.values())) -> None:
    """All but `keep` leave the bounding, permitted, effective, inheritable and ambient sets. Raises
    `OSError`.

    Of this thread, and so of every thread that it makes later.
    """
    library = _library()
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        last = int(file.read())
    for capability in range(last + 1):
        if capability not in keep:
            _check(library.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0), "capability bounding set")
    _check(library.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "ambient capabilities")
    header = ctypes.create_string_buffer(struct.pack("<Ii", _CAPABILITY_VERSION_3, 0))
    current = ctypes.create_string_buffer(24)
    _check(library.capget(header, current), "capget")
    words = struct.unpack("<6I", current.raw)
    permitted = words[1] | words[4] << 32
    mask = sum(1 << capability for capability in keep) & permitted
    low, high = mask & 0xFFFFFFFF, mask >> 32
    wanted = ctypes.create_string_buffer(struct.pack("<6I", low, low, 0, high, high, 0))
    _check(library.capset(header, wanted), "capset")


def _statement(code: int, jump_true: int, jump_false: int, value: int) -> bytes:
    return struct.pack("<HBBI", code, jump_true, jump_false, value)


def filter_program(machine: str) -> bytes:
    """A classic BPF program over `struct seccomp_data`; empty for a machine that we have no numbers of."""
    if machine not in _ARCHITECTURES:
        return b""
    load, equal, above, answer = 0x20, 0x15, 0x35, 0x06
    program = [
        _statement(load, 0, 0, 4),  # arch
        _statement(equal, 1, 0, _ARCHITECTURES[machine]),
        _statement(answer, 0, 0, _SECCOMP_RET_KILL_PROCESS),
        _statement(load, 0, 0, 0),  # nr
    ]
    if machine == "x86_64":  # the x32 ABI has the same calls under other numbers
        program += [_statement(above, 0, 1, 0x40000000), _statement(answer, 0, 0, _SECCOMP_RET_KILL_PROCESS)]
    for number in _FORBIDDEN[machine]:
        program += [
            _statement(equal, 0, 1, number),
            _statement(answer, 0, 0, _SECCOMP_RET_ERRNO | _EPERM),
        ]
    program.append(_statement(answer, 0, 0, _SECCOMP_RET_ALLOW))
    return b"".join(program)


def forbid_calls() -> bool:
    """Install the filter for all threads; whether this machine has one. Raises `OSError`."""
    program = filter_program(platform.machine())
    if not program:
        return False
    library = _library()
    _check(library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    code = ctypes.create_string_buffer(program, len(program))
    described = ctypes.create_string_buffer(
        struct.pack("<HxxxxxxQ", len(program) // 8, ctypes.addressof(code))
    )
    number = {"x86_64": 317, "aarch64": 277}[platform.machine()]
    arguments = (_SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC)
    _check(library.syscall(ctypes.c_long(number), *arguments, described), "seccomp")
    return True


def forbid_dumps() -> None:
    """No core of the agent, and no ptrace by its own user. Raises `OSError`."""
    _check(_library().prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "dumpable")
