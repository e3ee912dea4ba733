"""Self-test: attacks on a dummy process, before and after it is protected; what `probe` believes, and nothing
else.

An attack is made by a process of its own, which the tier `kill` may kill. One that the kernel refuses even
without us proves nothing. Nothing but the dummy and the attackers is touched.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_REFUSALS: Final = frozenset({errno.EPERM, errno.EACCES})
_SEIZE: Final = 0x4206
_NUMBERS: Final = {
    "x86_64": {
        "ptrace": 101,
        "readv": 310,
        "writev": 311,
        "getfd": 438,
        "kcmp": 312,
        "robust": 274,
        "move": 279,
    },
    "aarch64": {
        "ptrace": 117,
        "readv": 270,
        "writev": 271,
        "getfd": 438,
        "kcmp": 272,
        "robust": 100,
        "move": 239,
    },
}


class Result(StrEnum):
    """What came of an attack."""

    SUCCEEDED = "succeeded"
    REFUSED = "refused"
    KILLED = "killed"


@dataclass(frozen=True, slots=True)
class Dummy:
    """A child that waits to be attacked."""

    pid: int
    pid_fd: int

    @classmethod
    def start(cls) -> Dummy:
        """Fork it; call while this process has one thread."""
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGQUIT, signal.SIG_IGN)
            while True:
                signal.pause()
        return cls(pid, os.pidfd_open(pid))

    def end(self) -> None:
        """And reap it."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.pid_fd)


def _call(name: str, *arguments: int) -> None:
    numbers = _NUMBERS.get(platform.machine(), _NUMBERS["x86_64"])
    library = ctypes.CDLL(None, use_errno=True)
    if library.syscall(ctypes.c_long(numbers[name]), *(ctypes.c_long(each) for each in arguments)) < 0:
        raise OSError(ctypes.get_errno(), name)


def _read_memory(name: str, pid: int) -> None:
    buffer = ctypes.create_string_buffer(8)
    vector = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)  # a fork has the same addresses
    place = ctypes.addressof(vector)
    _call(name, pid, place, 1, place, 1, 0)


def _open(pid: int, name: str) -> None:
    os.close(os.open(f"/proc/{pid}/{name}", os.O_RDONLY))


def _attacks(dummy: Dummy) -> dict[int, Callable[[], None]]:
    pid, me = dummy.pid, os.getpid()
    files = {1: "environ", 2: "mem", 3: "maps", 4: "smaps", 5: "smaps_rollup", 6: "numa_maps", 7: "pagemap",
             8: "auxv", 9: "stack", 10: "syscall", 11: "io", 12: "coredump_filter", 13: f"task/{pid}/environ",
             14: "fd", 15: "fdinfo", 16: "map_files"}  # fmt: skip
    return {
        **{number: (lambda name=name: _open(pid, name)) for number, name in files.items()},  # type: ignore[misc]
        17: lambda: _link(pid),
        19: lambda: _call("ptrace", _SEIZE, pid, 0, 0),
        21: lambda: _read_memory("readv", pid),
        22: lambda: _read_memory("writev", pid),
        24: lambda: _call("getfd", dummy.pid_fd, 0, 0),
        25: lambda: _call("kcmp", pid, me, 1, 0, 0),
        29: lambda: _limit(pid),
        30: lambda: os.kill(pid, signal.SIGQUIT),
    }


def _link(pid: int) -> None:
    os.readlink(f"/proc/{pid}/exe")


def _limit(pid: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_CORE, resource.prlimit(pid, resource.RLIMIT_CORE))


def attack_all(dummy: Dummy) -> dict[int, Result]:
    """Every attack once, by vector."""
    return {number: _carry_out(attack) for number, attack in _attacks(dummy).items()}


def _carry_out(attack: Callable[[], None]) -> Result:
    attacker = os.fork()
    if attacker == 0:
        status = 0
        try:
            attack()
        except OSError as error:
            status = (
                3 if error.errno in _REFUSALS else 0
            )  # another error came after, or instead of, the check
        except BaseException:  # noqa: BLE001  # a child must not come back
            status = 0
        os._exit(status)
    _, status = os.waitpid(attacker, 0)
    if os.WIFSIGNALED(status):
        return Result.KILLED
    return Result.REFUSED if os.WEXITSTATUS(status) == 3 else Result.SUCCEEDED


@dataclass(frozen=True, slots=True)
class Findings:
    """By vector: what the attacks on the dummy showed."""

    stopped: frozenset[int]  # succeeded before, not after
    missed: frozenset[int]  # succeeded after


def compare(before: dict[int, Result], after: dict[int, Result]) -> Findings:
    """What protection changed."""
    missed = frozenset(number for number, result in after.items() if result is Result.SUCCEEDED)
    able = frozenset(number for number, result in before.items() if result is Result.SUCCEEDED)
    return Findings(able - missed, missed)
