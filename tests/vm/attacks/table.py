"""Every attack, the vector it tries, who can carry it out without protection, and the error that protection
gives.

`stage` carries them out in a VM, `test_table` holds that no vector of `cloudtaser.ebpf.vectors` is without
one. Knows nothing of either: plain data.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Subject(StrEnum):
    """Who attacks."""

    HOST = "root on the host"
    POD = "root in the pod's pid namespace"
    SAME = "the victim's user, in its pid namespace"


class Evidence(StrEnum):
    """What a successful attack shows."""

    CANARY = "the secret itself"
    ACCESS = "that it was let in"


ROOT = frozenset({Subject.HOST, Subject.POD})
HOST = frozenset({Subject.HOST})
POD = frozenset({Subject.POD})
ALL = frozenset(Subject)
EPERM = ("EPERM",)
EACCES = ("EACCES",)
CANARY = Evidence.CANARY
NEVER = (99, 0)  # of a kernel version
ENVIRON = frozenset({1})
MEM = frozenset({2})
LINKS = frozenset({14, 15, 16, 17, 32})


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack on the victim.

    `errors` are the ones that a denial may give: one, but where kernels differ. `fatal`: the victim does not
    outlive success, so each try gets a victim of its own, as it does when its program needs a name. `extra`
    names what `stage` passes besides. `kernels` are the first with this way in, and the first without.
    """

    vector: int
    name: str
    errors: tuple[str, ...]
    by: frozenset[Subject] = ALL
    evidence: Evidence = Evidence.ACCESS
    fatal: bool = False
    extra: str = ""
    named: str = ""  # the victim's program has this name
    kernels: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), NEVER)
    node: bool = False  # has no target: bound by policy
    bpf: bool = False  # a BPF program, which a kernel with broken type information takes from nobody
    told: frozenset[int] = (
        frozenset()
    )  # vectors that the event may name instead: several say the same of one access


ATTACKS = (
    Attack(1, "environ", EPERM, evidence=CANARY),
    Attack(2, "mem", EPERM, evidence=CANARY),
    Attack(2, "mem-write", EPERM),
    Attack(3, "maps", EPERM),
    Attack(4, "smaps", EPERM),
    Attack(5, "smaps_rollup", EPERM),
    Attack(6, "numa_maps", EPERM),
    Attack(7, "pagemap", EPERM),
    Attack(8, "auxv", EPERM),
    Attack(9, "stack", EPERM, by=ROOT),
    Attack(10, "syscall", EPERM),
    Attack(11, "io", EPERM),
    Attack(12, "coredump_filter", EPERM),
    Attack(13, "task-environ", EPERM, evidence=CANARY, told=ENVIRON),
    Attack(13, "task-mem", EPERM, evidence=CANARY, told=MEM),
    Attack(13, "thread-environ", EPERM, evidence=CANARY, told=ENVIRON),
    Attack(13, "dirfd", EPERM, evidence=CANARY, told=ENVIRON),
    Attack(13, "o_path", EPERM, evidence=CANARY, told=ENVIRON),
    Attack(13, "other-mount", EPERM, by=ROOT, evidence=CANARY, told=ENVIRON),
    Attack(14, "fd-list", EPERM),
    Attack(17, "fd-open", EACCES, evidence=CANARY, told=LINKS),
    Attack(15, "fdinfo-list", (*EPERM, *EACCES), told=LINKS),
    Attack(17, "fdinfo-open", (*EPERM, *EACCES), told=LINKS),
    Attack(16, "map_files-list", (*EPERM, *EACCES), told=LINKS),
    Attack(17, "map_files-open", (*EPERM, *EACCES), by=ROOT, extra="mapping", told=LINKS),
    Attack(17, "exe-link", EACCES, told=LINKS),
    Attack(17, "exe-open", EACCES, told=LINKS),
    Attack(17, "cwd-link", EACCES, told=LINKS),
    Attack(17, "root-link", EACCES, told=LINKS),
    Attack(17, "root-walk", EACCES, told=LINKS),
    Attack(17, "ns-link", EACCES, told=LINKS),
    Attack(17, "ns-open", EACCES, told=LINKS),
    Attack(18, "attach", EPERM, evidence=CANARY),
    Attack(19, "seize", EPERM, evidence=CANARY),
    Attack(21, "process_vm_readv", EPERM, evidence=CANARY),
    Attack(22, "process_vm_writev", EPERM, extra="canary"),
    Attack(
        23, "perfmon", (*EPERM, *EACCES), by=ROOT, evidence=CANARY, kernels=((6, 15), NEVER), told=ENVIRON
    ),
    Attack(24, "pidfd_getfd", EPERM, evidence=CANARY),
    Attack(25, "kcmp", EPERM),
    Attack(25, "get_robust_list", EPERM),
    Attack(26, "move_pages", EPERM),
    Attack(26, "migrate_pages", EPERM),
    Attack(27, "process_madvise", (*EPERM, *EACCES), by=ROOT),
    Attack(28, "perf-process", (*EPERM, *EACCES), by=ROOT),
    Attack(28, "perf-stack", (*EPERM, *EACCES), by=ROOT, node=True),
    Attack(29, "prlimit", EPERM),
    Attack(30, "sigquit", EPERM, fatal=True),
    Attack(30, "sigquit-pidfd", EPERM, fatal=True),
    Attack(30, "sigquit-thread", EPERM, fatal=True),
    Attack(30, "sigusr1", EPERM, fatal=True, named="node"),
    Attack(31, "core_pattern", EPERM, by=ROOT, extra="pattern", node=True),
    Attack(32, "setns-file", EACCES, by=ROOT, told=LINKS),
    Attack(32, "setns-pidfd", EPERM, by=ROOT, told=LINKS),
    Attack(32, "setns-bound", EPERM, by=HOST, extra="namespace", told=LINKS),
    Attack(32, "bind-root", (*EPERM, *EACCES), by=POD, told=LINKS),
    Attack(32, "open_tree-root", (*EPERM, *EACCES), by=POD, told=LINKS),
    Attack(33, "uring", EPERM, evidence=CANARY, told=ENVIRON),
    Attack(33, "uring-worker", EPERM, evidence=CANARY, told=ENVIRON),
    Attack(37, "bpf-raw_tracepoint", EPERM, by=ROOT, node=True, bpf=True),
    Attack(37, "bpf-kprobe", EPERM, by=ROOT, node=True, bpf=True),
    Attack(37, "bpf-perf_event", EPERM, by=ROOT, node=True, bpf=True),
    Attack(37, "uprobe-perf", EPERM, by=ROOT, extra="program", node=True),
    Attack(37, "uprobe-tracefs", EPERM, by=ROOT, extra="program", node=True),
    Attack(38, "module-file", EPERM, by=ROOT, extra="module", node=True),
    Attack(38, "module-bytes", EPERM, by=ROOT, extra="module", node=True),
    Attack(39, "kexec", EPERM, by=ROOT, node=True),
    Attack(39, "kexec-file", EPERM, by=ROOT, extra="module", node=True),
    Attack(39, "hibernation", EPERM, node=True),
    Attack(40, "dev-mem", EPERM, by=ROOT, node=True),
    Attack(40, "kcore", EPERM, by=ROOT, node=True),
    Attack(40, "kallsyms", EPERM, node=True),
    Attack(40, "sysrq", EPERM, by=ROOT, node=True),
    Attack(40, "renamed-mem", EPERM, by=ROOT, extra="memory device", node=True),
    Attack(41, "fanotify", EPERM, by=ROOT, extra="program", node=True),
    Attack(42, "userns", EPERM, node=True),
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """An attack of several steps, by root on the host or the victim itself; `scenarios` has the steps.

    `destroys`: success ends what is attacked, so it is not tried where it would succeed against the agent.
    `many`: a whole program that comes upon several refusals. `seen`: nothing refuses it, one event tells of
    it.
    """

    vector: int
    name: str
    errors: tuple[str, ...] = EPERM
    evidence: Evidence = Evidence.ACCESS
    destroys: bool = False
    many: bool = False
    seen: bool = False
    told: frozenset[int] = frozenset()


SCENARIOS = (
    Scenario(20, "traceme"),
    Scenario(31, "core-file", ("none",), CANARY),
    Scenario(31, "core-pipe", ("none",), CANARY),
    Scenario(34, "gdb", evidence=CANARY, many=True),
    Scenario(34, "gcore", evidence=CANARY, many=True),
    Scenario(34, "strace", many=True),
    Scenario(34, "ltrace", many=True),
    # criu is not among them: it asks for nf_tables and more, which the machine's kernel has as modules only
    Scenario(34, "jcmd", ("none",), CANARY, many=True),
    Scenario(34, "py-spy", evidence=CANARY, many=True),
    Scenario(35, "map-by-id"),
    Scenario(35, "prog-by-id"),
    Scenario(35, "link-by-id"),
    Scenario(35, "pin-open"),
    Scenario(36, "pin-rename"),
    Scenario(36, "pin-unlink", destroys=True),
    Scenario(36, "bpffs-umount", destroys=True),
    Scenario(43, "agent-stop"),
    Scenario(43, "agent-freeze"),
    Scenario(43, "agent-term", destroys=True),
    Scenario(43, "agent-kill", destroys=True),
    Scenario(43, "socket-replace", destroys=True),
    Scenario(43, "socket-unlink", destroys=True),
    Scenario(44, "cgroup-move", seen=True),
)

# vectors that no attack can show: what stands in its place
ELSEWHERE = {
    41: "besides fanotify, checks: a process traced, supervised or with a userfaultfd is not registered",
    45: "not built: the agent must say that it is not here",
    46: "asked of the pod and reported by the command line, not the kernel",
}
