"""Vectors: the ways to a protected process's memory, as data; one row each of the table in docs/ebpf.md.

Used by `guard` (which names and system calls the programs know), `probe` and `status` (what holds here),
`events` (names). The numbers are ours and never reused.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """How a vector is met."""

    DENIED = "denied"  # on its target, whoever the subject
    SUBJECT = "subject"  # no target exists: refused to subjects by policy
    SEEN = "seen"  # reported, not refused
    NONE = "none"  # no hook of ours


class Tier(StrEnum):
    """How this kernel lets us act, from the strongest to none."""

    LSM = "lsm"
    FMOD_RET = "fmod_ret"
    KPROBE = "kprobe"
    KILL = "kill"
    NONE = "none"


class Standing(StrEnum):
    """What of a vector is true on this kernel."""

    HOLDS = "holds"
    DETECTS = "detects"
    NOT_HERE = "not here"


@dataclass(frozen=True, slots=True)
class Vector:
    """One way. `needs` are hooks, all of them (`a|b`: one of the two).

    `kill` is what the tier `kill` does about it where it may (`REACTIVE_KILL`): the offender ends where the
    way gives out the process's contents, and is told of where it does not, because monitors go that way too.
    """

    number: int
    name: str
    kind: Kind
    needs: tuple[str, ...] = ()
    error: str = "EPERM"
    kill: Standing = Standing.NOT_HERE


def _proc(number: int, name: str) -> Vector:
    needs = ("file_open", "ptrace_access_check")
    kill = Standing.HOLDS if name in _CONTENTS else Standing.DETECTS
    return Vector(number, f"/proc/PID/{name}", Kind.DENIED, needs, kill=kill)


def _access(
    number: int, name: str, *more: str, error: str = "EPERM", kill: Standing = Standing.HOLDS
) -> Vector:
    return Vector(number, name, Kind.DENIED, ("ptrace_access_check", *more), error, kill)


def _subject(number: int, name: str, *needs: str, error: str = "EPERM") -> Vector:
    return Vector(number, name, Kind.SUBJECT, needs, error)


PROC_FILES: Final = (
    "environ",  # contents
    "mem",  # contents
    "maps",  # addresses and names of files; pmap, profilers, crash reporters
    "smaps",  # sizes; memory monitors
    "smaps_rollup",  # sizes; memory monitors (smem, ps_mem)
    "numa_maps",  # sizes; numastat, numad
    "pagemap",  # which pages are there, never what is in them; cAdvisor writes clear_refs
    "auxv",  # addresses, and the kernel's data on the processor
    "stack",  # of the kernel: names of its functions; hang detectors
    "syscall",  # the number, six registers: pointers to memory, not the memory
    "io",  # counters; pidstat, iotop, every exporter
    "coredump_filter",  # a bit mask
)
_TASK_FILES: Final = "task/TID/*, by dirfd, O_PATH, another proc mount"
# What gives out contents below /proc/PID; 13 is true of these two, as there the file's own vector
# decides. Listings (fd, fdinfo, map_files) name files: a kubelet lists fd of every process.
_CONTENTS: Final = frozenset({"environ", "mem", _TASK_FILES})

_DUMP: Final = "dump_vfs_coredump|dump_do_coredump"

VECTORS: Final[tuple[Vector, ...]] = (
    *(_proc(number, name) for number, name in enumerate(PROC_FILES, start=1)),
    _proc(13, _TASK_FILES),
    _proc(14, "fd"),
    _proc(15, "fdinfo"),
    _proc(16, "map_files"),
    _access(17, "/proc/PID/{exe,root,cwd,ns/*,fd/*} links", error="EACCES", kill=Standing.NOT_HERE),
    _access(18, "ptrace attach"),
    _access(19, "ptrace seize"),
    Vector(20, "ptrace traceme by the protected", Kind.DENIED, ("ptrace_traceme",)),
    _access(21, "process_vm_readv"),
    _access(22, "process_vm_writev"),
    _access(23, "CAP_PERFMON after a refusal", "capable"),
    _access(24, "pidfd_getfd"),
    # whether two descriptors are one, and an address
    _access(25, "kcmp, get_robust_list", kill=Standing.DETECTS),
    # where pages are; numad and migratepages of numactl
    _access(26, "move_pages, migrate_pages", "task_movememory", kill=Standing.DETECTS),
    # advice; memory managers
    _access(27, "process_madvise, process_mrelease", "capable", kill=Standing.DETECTS),
    Vector(28, "perf_event_open", Kind.DENIED, ("perf_event_alloc",), "EPERM", Standing.HOLDS),
    Vector(29, "prlimit", Kind.DENIED, ("task_setrlimit",)),
    Vector(30, "signals that make a core or open an inspector", Kind.DENIED, ("task_kill",)),
    Vector(31, "core dumps", Kind.DENIED, ("cred_prepare", _DUMP), "no core"),
    _access(
        32,
        "namespaces: setns, bind-mounted files, mounts inside",
        "file_open",
        "sb_mount",
        "move_mount",
        kill=Standing.NOT_HERE,
    ),
    Vector(33, "/proc/PID/* by io_uring", Kind.DENIED, ("file_open", "ptrace_access_check")),
    # those that trace or read memory end as above; jmap and jcmd send a signal (30)
    _access(
        34,
        "gdb, gcore, strace, ltrace, jmap, jcmd, py-spy, criu",
        "file_open",
        "task_kill",
        kill=Standing.DETECTS,
    ),
    Vector(35, "our maps, programs and links by id", Kind.DENIED, ("bpf_map", "bpf_prog", "bpf_call")),
    Vector(36, "our pins", Kind.DENIED, ("inode_unlink", "inode_rename", "sb_umount")),
    _subject(37, "foreign BPF and uprobes", "bpf_prog_load|bpf_load", "locked_down", "perf_event_alloc"),
    _subject(38, "kernel modules", "kernel_read_file", "kernel_load_data"),
    _subject(39, "kexec, hibernation", "kernel_load_data", "kernel_read_file", "locked_down"),
    _subject(40, "/dev/mem, kcore, kallsyms, sysrq", "file_open", "locked_down"),
    Vector(
        41,
        "userfaultfd, seccomp notification, fanotify permission events",
        Kind.DENIED,
        ("iter_mark", "iter_handles", "path_notify"),
        "refused at registration, EPERM",
        Standing.HOLDS,
    ),
    _subject(42, "user namespaces", "userns_create"),
    Vector(
        43,
        "the agent: kill, stop, freeze, its socket",
        Kind.DENIED,
        ("task_kill", "inode_unlink", "file_open"),
    ),
    Vector(44, "cgroup migration", Kind.SEEN, ("life_cgroup",), "", Standing.DETECTS),
    Vector(45, "exfiltration by the protected process itself", Kind.NONE, (), ""),
    Vector(46, "swap, zram, kdump", Kind.NONE, (), ""),
)

_AT_REGISTRATION: Final = 41  # holds before there is an offender

# a bit for each vector whose offender the tier `kill` ends; `struct config` has room for those below 32
KILLS: Final = sum(
    1 << vector.number
    for vector in VECTORS
    if vector.kill is Standing.HOLDS and vector.number != _AT_REGISTRATION
)

BY_NUMBER: Final = {vector.number: vector for vector in VECTORS}

# names below /proc/PID, each at most 15 bytes, with the vector that their opening is
NAMES: Final[dict[str, int]] = {
    **{name: number for number, name in enumerate(PROC_FILES, start=1)},
    "clear_refs": 7,
    "personality": 10,
    "fd": 14,
    "fdinfo": 15,
    "map_files": 16,
}

COMPAT: Final = 1 << 16  # of a 32-bit program's system call

# name, vector, number on x86-64, arm64 and i386 (None: it has none)
_CALLS: Final[tuple[tuple[str, int, int | None, int | None, int | None], ...]] = (
    ("ptrace", 18, 101, 117, 26),
    ("process_vm_readv", 21, 310, 270, 347),
    ("process_vm_writev", 22, 311, 271, 348),
    ("pidfd_getfd", 24, 438, 438, 438),
    ("kcmp", 25, 312, 272, 349),
    ("get_robust_list", 25, 274, 100, 312),
    ("move_pages", 26, 279, 239, 317),
    ("migrate_pages", 26, 256, 238, 294),
    ("process_madvise", 27, 440, 440, 440),
    ("process_mrelease", 27, 448, 448, 448),
    ("perf_event_open", 28, 298, 241, 336),
    ("prlimit64", 29, 302, 261, 340),
    ("setns", 32, 308, 268, 346),
    ("io_uring_enter", 33, 426, 426, 426),
)

_OPENS: Final[tuple[tuple[int | None, int | None, int | None], ...]] = (
    (2, None, 5),  # open
    (257, 56, 295),  # openat
    (437, 437, 437),  # openat2
    (304, 265, 342),  # open_by_handle_at
    (438, 438, 438),  # pidfd_getfd
)

WATCH_PID_FIRST, WATCH_PID_SECOND, WATCH_PIDFD_FIRST, WATCH_OPENS = 1, 2, 4, 8
WATCHED: Final = 512

# which argument names the target, for the tier `kill`
_TARGETS: Final = {
    "ptrace": WATCH_PID_SECOND,
    "process_vm_readv": WATCH_PID_FIRST,
    "process_vm_writev": WATCH_PID_FIRST,
    "pidfd_getfd": WATCH_PIDFD_FIRST,
    "kcmp": WATCH_PID_FIRST | WATCH_PID_SECOND,
    "get_robust_list": WATCH_PID_FIRST,
    "move_pages": WATCH_PID_FIRST,
    "migrate_pages": WATCH_PID_FIRST,
    "process_madvise": WATCH_PIDFD_FIRST,
    "process_mrelease": WATCH_PIDFD_FIRST,
    "perf_event_open": WATCH_PID_SECOND,
}


# those of vectors that have no target, or whose hook sees only a task: for events
_OTHERS_X86: Final = {
    0: "read",
    17: "pread64",
    21: "access",
    56: "clone",
    62: "kill",
    82: "rename",
    87: "unlink",
    89: "readlink",
    160: "setrlimit",
    165: "mount",
    166: "umount2",
    175: "init_module",
    200: "tkill",
    217: "getdents64",
    234: "tgkill",
    246: "kexec_load",
    263: "unlinkat",
    264: "renameat",
    267: "readlinkat",
    272: "unshare",
    301: "fanotify_mark",
    313: "finit_module",
    316: "renameat2",
    320: "kexec_file_load",
    321: "bpf",
    424: "pidfd_send_signal",
    429: "move_mount",
    435: "clone3",
}


def _column(machine: str) -> int:
    return {"x86_64": 0, "aarch64": 1}.get(machine, 0)


def syscall_numbers(machine: str = "") -> dict[int, int]:
    """System call number to vector, 32-bit programs' with `COMPAT` set."""
    column = _column(machine or platform.machine())
    found: dict[int, int] = {}
    for _, vector, *numbers in _CALLS:
        number, compat = numbers[column], numbers[2]
        if number is not None:
            found[number] = vector
        if compat is not None and column == 0:
            found[compat | COMPAT] = vector
    return found


def syscall_names(machine: str = "") -> dict[int, str]:
    """System call number to name, for events; only those of vectors and of opening."""
    column = _column(machine or platform.machine())
    found: dict[int, str] = {}
    for name, _, *numbers in _CALLS:
        if (number := numbers[column]) is not None:
            found[number] = name
        if column == 0 and (compat := numbers[2]) is not None:
            found[compat | COMPAT] = name
    opens = ("open", "openat", "openat2", "open_by_handle_at")
    for name, row in zip(opens, _OPENS, strict=False):
        if (number := row[column]) is not None:
            found[number] = name
    return found | (_OTHERS_X86 if column == 0 else {})


def watched(machine: str = "") -> tuple[bytes, bytes]:
    """What the tier `kill` does at each system call: of this machine, and of 32-bit programs on it."""
    column = _column(machine or platform.machine())
    native, compat = bytearray(WATCHED), bytearray(WATCHED)
    for name, _, *numbers in _CALLS:
        _mark(native, numbers[column], _TARGETS.get(name, 0))
        _mark(compat, numbers[2], _TARGETS.get(name, 0))
    for row in _OPENS:
        _mark(native, row[column], WATCH_OPENS)
        _mark(compat, row[2], WATCH_OPENS)
    return bytes(native), bytes(compat)


def _mark(table: bytearray, number: int | None, bits: int) -> None:
    if number is not None:
        table[number] |= bits


def standings(tier: Tier, attached: frozenset[str], *, enforces: bool) -> dict[int, Standing]:
    """What is true of each vector where these programs are attached.

    `attached` are names without their tier's prefix. In `detect` mode nothing holds.
    """
    return {vector.number: _standing(vector, tier, attached, enforces) for vector in VECTORS}


def _standing(vector: Vector, tier: Tier, attached: frozenset[str], enforces: bool) -> Standing:
    if tier is Tier.NONE:
        return Standing.NOT_HERE
    if tier is Tier.KILL:
        found = vector.kill
    elif not vector.needs or not all(
        any(one in attached for one in need.split("|")) for need in vector.needs
    ):
        found = Standing.NOT_HERE
    else:
        found = Standing.DETECTS if vector.kind is Kind.SEEN else Standing.HOLDS
    if found is Standing.HOLDS and not enforces:
        return Standing.DETECTS
    return found
