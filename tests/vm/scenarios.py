"""Attacks that are more than one call of the attack program: dumps, debuggers, the protection itself as the
target.

`campaign` runs them beside the table's; `table.SCENARIOS` says what each must give. Inside the VM.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.vm.attacks.table import Subject
from tests.vm.stage import CANARY, CORES, SCRATCH, Stage
from tests.vm.subjects import Outcome, Victim

PINS = Path("/sys/fs/bpf/cloudtaser")
DECOYS = Path("/sys/fs/bpf/decoys")
SOCKET = Path("/run/cloudtaser/agent.sock")
BPF = 321  # the system call, on x86-64
NEXT_ID = {"prog": 11, "map": 12, "link": 31}  # commands of bpf(2)
GET_FD_BY_ID = 14  # of a map
TOOL_SECONDS = 1200
JVM = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx32m", "-Xshare:auto")
PYTHON = """
import os
def main():
    secret = os.environ["CANARY"]
    os.write(1, b"up\\n")
    while os.read(0, 4096):
        pass
    return secret
main()
"""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a scenario acts on."""

    stage: Stage
    victim: Victim
    spare: Callable[[], Victim]  # makes one that is protected if the other is, for what nobody outlives
    agent: int  # pid; before there is one, that of some other process of root's
    objects: dict[str, int]  # one of the agent's ids for each kind; before, of somebody else's


def traceme(scene: Scene) -> Outcome:
    """The protected process lets its parent trace it."""
    victim = scene.spare()
    answer = victim.ask("traceme")
    victim.close()
    return Outcome(victim.pid, answer == "0", f"{answer} traceme", 0)


def _dumped(scene: Scene, pattern: str, name: str) -> Outcome:
    """A crash of the protected process itself, with the kernel told where to write."""
    victim = scene.spare()
    core = CORES / name.replace("%P", str(victim.pid))
    core.unlink(missing_ok=True)
    former = Path("/proc/sys/kernel/core_pattern").read_text()
    Path("/proc/sys/kernel/core_pattern").write_text(pattern)
    victim.tell("abort")
    victim.gone()  # the dump is complete, or there is none, before its files are closed
    Path("/proc/sys/kernel/core_pattern").write_text(former)
    found = core.exists() and CANARY.encode() in core.read_bytes()
    return Outcome(victim.pid, found, CANARY if found else "none core", 0)


def core_file(scene: Scene) -> Outcome:
    """To a file."""
    return _dumped(scene, str(CORES / "core.%P"), "core.%P")


def core_pipe(scene: Scene) -> Outcome:
    """To a program."""
    return _dumped(scene, f"|/bin/busybox dd of={CORES}/piped.%P", "piped.%P")


def _tool(arguments: list[str], sign: str) -> Outcome:
    program = shutil.which(arguments[0])
    if program is None:
        raise FileNotFoundError(f"{arguments[0]} is missing; tools/prepare kernel installs it")
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    said, _ = process.communicate(timeout=TOOL_SECONDS)
    refused = re.search(r"not permitted|[Pp]ermission denied", said)
    text = sign if sign in said else f"{'EPERM' if refused else 'none'} {said[-80:]}"
    return Outcome(process.pid, sign in said, text, process.returncode)


def gdb(scene: Scene) -> Outcome:
    """A debugger prints the secret."""
    show = f"x/s {scene.victim.address:#x}"
    return _tool(["gdb", "-nx", "-batch", "-p", str(scene.victim.pid), "-ex", show], CANARY)


def gcore(scene: Scene) -> Outcome:
    """A debugger writes the whole memory to a file."""
    outcome = _tool(["gcore", "-o", str(CORES / "gcore"), str(scene.victim.pid)], "Saved corefile")
    core = CORES / f"gcore.{scene.victim.pid}"
    found = core.exists() and CANARY.encode() in core.read_bytes()
    core.unlink(missing_ok=True)
    return Outcome(outcome.attacker, found, CANARY if found else outcome.text, outcome.status)


def strace(scene: Scene) -> Outcome:
    """System calls are watched."""
    return _tool(["timeout", "-s", "INT", "3", "strace", "-f", "-p", str(scene.victim.pid)], "attached")


def ltrace(scene: Scene) -> Outcome:
    """Another tracer. It says nothing when it may; that it was not refused is the sign."""
    outcome = _tool(["timeout", "-s", "INT", "3", "ltrace", "-p", str(scene.victim.pid)], "attached")
    done = not outcome.text.startswith("EPERM") and outcome.status in (124, 0, 130)
    return Outcome(outcome.attacker, done, outcome.text, outcome.status)


def _become(victim: Victim, *program: str) -> None:
    victim.tell(f"become {' '.join(program)}")
    said = victim.hear()
    if said != "up":
        raise RuntimeError(f"{program[0]} did not start: {said}")


def jcmd(scene: Scene) -> Outcome:
    """A JVM is asked for its heap, by its own tools."""
    victim = scene.spare()
    _become(victim, shutil.which("java") or "java", *JVM, "-cp", str(scene.stage.programs.java), "Idle")
    dump = CORES / f"heap.{victim.pid}"
    outcome = _tool(
        ["jcmd", *(f"-J{flag}" for flag in JVM), str(victim.pid), "GC.heap_dump", str(dump)], "created"
    )
    found = dump.exists() and CANARY.encode() in dump.read_bytes()
    victim.close()
    dump.unlink(missing_ok=True)
    return Outcome(outcome.attacker, found, CANARY if found else outcome.text, outcome.status)


def py_spy(scene: Scene) -> Outcome:
    """A Python program's variables are shown."""
    victim = scene.spare()
    program = SCRATCH / "idle.py"
    program.write_text(PYTHON)
    _become(victim, "/usr/bin/python3", "-I", "-S", str(program))
    outcome = _tool(
        [str(Path(sys.executable).with_name("py-spy")), "dump", "--locals", "--pid", str(victim.pid)], CANARY
    )
    victim.close()
    return outcome


def _by_crew(name: str, extra: Callable[[Scene], str]) -> Callable[[Scene], Outcome]:
    def run(scene: Scene) -> Outcome:
        return scene.stage.host.attack(name, Subject.HOST, scene.agent, extra(scene))

    return run


def _pin(kind: str) -> Callable[[Scene], str]:
    """A pin of the agent's, or of somebody else's before there is one."""

    def path(scene: Scene) -> str:
        folder = PINS / kind if PINS.exists() else DECOYS
        return str(min(folder.iterdir()))

    return path


def agent_freeze(scene: Scene) -> Outcome:
    """The agent's whole cgroup is stopped."""
    line = Path(f"/proc/{scene.agent}/cgroup").read_text().splitlines()[-1]
    folder = f"/sys/fs/cgroup{line.partition('::')[2]}"
    return scene.stage.host.attack("cgroup-freeze", Subject.HOST, scene.agent, folder)


def cgroup_move(scene: Scene) -> Outcome:
    """The victim is moved to another cgroup, and is looked at there."""
    folder = Path("/sys/fs/cgroup/elsewhere")
    folder.mkdir(exist_ok=True)
    return scene.stage.host.attack("cgroup-move", Subject.HOST, scene.victim, str(folder))


RUN: dict[str, Callable[[Scene], Outcome]] = {
    "traceme": traceme,
    "core-file": core_file,
    "core-pipe": core_pipe,
    "gdb": gdb,
    "gcore": gcore,
    "strace": strace,
    "ltrace": ltrace,
    "jcmd": jcmd,
    "py-spy": py_spy,
    "map-by-id": _by_crew("map-by-id", lambda scene: str(scene.objects["map"])),
    "prog-by-id": _by_crew("prog-by-id", lambda scene: str(scene.objects["prog"])),
    "link-by-id": _by_crew("link-by-id", lambda scene: str(scene.objects["link"])),
    "pin-open": _by_crew("pin-open", _pin("maps")),
    "pin-rename": _by_crew("pin-rename", _pin("links")),
    "pin-unlink": _by_crew("pin-unlink", _pin("links")),
    "bpffs-umount": _by_crew("bpffs-umount", lambda scene: "/sys/fs/bpf"),
    "agent-stop": _by_crew("agent-stop", lambda scene: ""),
    "agent-term": _by_crew("agent-term", lambda scene: ""),
    "agent-kill": _by_crew("agent-kill", lambda scene: ""),
    "agent-freeze": agent_freeze,
    "socket-unlink": _by_crew("socket-unlink", lambda scene: str(SOCKET)),
    "socket-replace": _by_crew("socket-replace", lambda scene: str(SOCKET)),
    "cgroup-move": cgroup_move,
}


def _call(command: int, request: bytes) -> tuple[int, bytes]:
    buffer = ctypes.create_string_buffer(request.ljust(128, b"\0"), 128)
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.syscall(BPF, command, buffer, 128), buffer.raw


def objects() -> dict[str, set[int]]:
    """The ids of all that there is of each kind; anybody with CAP_SYS_ADMIN may list them."""
    found: dict[str, set[int]] = {}
    for kind, command in NEXT_ID.items():
        found[kind], last = set(), 0
        while True:
            result, answer = _call(command, last.to_bytes(4, sys.byteorder))
            if result < 0:
                break
            last = int.from_bytes(answer[4:8], sys.byteorder)
            found[kind].add(last)
    return found


def decoys() -> dict[str, int]:
    """A map, a program and a link of our own, pinned, as targets before there is an agent; their ids.

    None of any where the kernel takes no program, as one does not whose type information is broken.
    """
    before = objects()
    DECOYS.mkdir(exist_ok=True)
    array = (
        (2).to_bytes(4, "little")
        + (4).to_bytes(4, "little")
        + (8).to_bytes(4, "little")
        + (1).to_bytes(4, "little")
    )
    kept, _ = _call(0, array)  # BPF_MAP_CREATE
    code = bytes.fromhex("b7000000000000009500000000000000")
    licence = ctypes.create_string_buffer(b"GPL")
    text = ctypes.create_string_buffer(code, len(code))
    request = (17).to_bytes(4, "little") + (2).to_bytes(4, "little")  # a raw tracepoint's
    request += ctypes.addressof(text).to_bytes(8, "little") + ctypes.addressof(licence).to_bytes(8, "little")
    program, _ = _call(5, request)
    if program < 0:
        return {}
    name = ctypes.create_string_buffer(b"sys_enter")
    link, _ = _call(17, ctypes.addressof(name).to_bytes(8, "little") + program.to_bytes(4, "little"))
    if min(kept, link) < 0:
        raise OSError("the machine's kernel takes no BPF at all")
    path = ctypes.create_string_buffer(str(DECOYS / "map").encode())
    _call(6, ctypes.addressof(path).to_bytes(8, "little") + kept.to_bytes(4, "little"))  # BPF_OBJ_PIN
    after = objects()
    return {kind: max(after[kind] - before[kind]) for kind in after}


def sleeper() -> subprocess.Popen[bytes]:
    """Some process of root's, in a cgroup of its own, to be killed or stopped in the agent's stead."""
    folder = Path("/sys/fs/cgroup/sleeper")
    folder.mkdir(exist_ok=True)

    return subprocess.Popen(
        ["sleep", "600"], preexec_fn=lambda: (folder / "cgroup.procs").write_text("0") and None
    )


def restore() -> None:
    """What a scenario took away while nothing forbade it."""
    if not os.path.ismount("/sys/fs/bpf"):
        subprocess.run(["mount", "-t", "bpf", "none", "/sys/fs/bpf"], check=True)
    SOCKET.parent.mkdir(exist_ok=True)
    if not os.path.lexists(SOCKET):
        SOCKET.touch()
