"""The scene inside a VM: a host and a pod, attackers in both, victims in the pod, and what attacks need
besides.

`campaign` and the scenarios run on it. Only ever used inside a throw-away machine: it changes the machine's
settings.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.vm.attacks.table import Attack, Subject
from tests.vm.subjects import Crew, Outcome, Victim, pod_cgroup

CANARY = "canary-5f1d8a07c3e94b62"
SCRATCH = Path("/run/stage")
CORES = SCRATCH / "cores"
CORE_PATTERN = str(CORES / "core.%P")
NAMESPACE = SCRATCH / "private" / "namespace"
MEMORY_DEVICE = SCRATCH / "innocent"
PROGRAMS = SCRATCH / "programs"


@dataclass(frozen=True, slots=True)
class Programs:
    """Where the compiled programs, a loadable module, a Java class, the wrapper's payload and the victim as a
    static program lie."""

    attack: Path
    victim: Path
    module: Path
    java: Path
    payload: Path
    application: Path


class Stage:
    """Everything but the agent."""

    def __init__(self, programs: Programs) -> None:
        self.programs = programs
        _settings()
        self.host = Crew(programs.attack, pod=False)
        self.pod = Crew(programs.attack, pod=True, cgroup=pod_cgroup())

    def victim(self, canary: str = CANARY, named: str = "") -> Victim:
        """A new victim in the pod, unprotected so far; its program under another name if one is given."""
        program = self.programs.victim
        if named:
            program = PROGRAMS / named
            PROGRAMS.mkdir(exist_ok=True)
            if not program.exists():
                shutil.copy(self.programs.victim, program)
        return self.pod.victim(program, canary)

    def bind_namespace(self, victim: Victim) -> None:
        """Bind the victim's mount namespace to a file, as an attacker would in time."""
        if NAMESPACE.exists():
            subprocess.run(["umount", str(NAMESPACE)], check=False)
        NAMESPACE.touch()
        subprocess.run(["mount", "--bind", f"/proc/{victim.pid}/ns/mnt", str(NAMESPACE)], check=True)

    def crew(self, subject: Subject) -> Crew:
        """Whoever starts that subject's attacks."""
        return self.host if subject is Subject.HOST else self.pod

    def attack(self, attack: Attack, subject: Subject, victim: Victim) -> Outcome:
        """Carry it out and wait for its end."""
        return self.crew(subject).attack(attack.name, subject, victim, self.extra(attack, victim))

    def extra(self, attack: Attack, victim: Victim) -> str:
        """What the attack needs besides the victim."""
        if attack.extra == "mapping":
            return _mapping(victim)
        return {
            "": "",
            "canary": CANARY,
            "pattern": CORE_PATTERN,
            "namespace": str(NAMESPACE),
            "program": str(self.programs.victim),
            "module": str(self.programs.module),
            "memory device": str(MEMORY_DEVICE),
        }[attack.extra]

    def close(self) -> None:
        """End pod and host."""
        self.pod.close()
        self.host.close()


_mappings: dict[int, str] = {}


def _mapping(victim: Victim) -> str:
    """The address range of the victim's program, as an attacker notes it while that is allowed."""
    if victim.pid not in _mappings:
        for line in Path(f"/proc/{victim.pid}/maps").read_text().splitlines():
            if line.endswith(str(os.path.basename(os.readlink(f"/proc/{victim.pid}/exe")))):
                _mappings[victim.pid] = "-".join(end.lstrip("0") for end in line.split()[0].split("-"))
                break
    return _mappings[victim.pid]


def note_mapping(victim: Victim) -> None:
    """Learn what `map_files` attacks need, before protection hides it."""
    _mapping(victim)


def _settings() -> None:
    """What a distribution turns off for everybody is on, so that only the agent refuses."""
    for name, value in {
        "kernel/yama/ptrace_scope": "0",
        "kernel/core_pattern": CORE_PATTERN,
        "kernel/io_uring_disabled": "0",
        "kernel/unprivileged_userns_clone": "1",
        "fs/suid_dumpable": "1",
    }.items():
        file = Path("/proc/sys") / name
        if file.exists():
            file.write_text(value)
    CORES.mkdir(parents=True, exist_ok=True)
    CORES.chmod(0o777)
    NAMESPACE.parent.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", str(NAMESPACE.parent)], check=True)
    subprocess.run(["mount", "--make-private", str(NAMESPACE.parent)], check=True)
    os.mknod(MEMORY_DEVICE, 0o20600, os.makedev(1, 1))
