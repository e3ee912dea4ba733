"""What holds besides the attacks while the agent enforces: what goes on as before, and who is registered how.

`campaign` runs them inside the VM; `test_vectors` has one test for each. A check gives an empty text, or what
was wrong.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tests.vm import container
from tests.vm.agent import RUNTIME_CGROUP, SOCKET, Agent
from tests.vm.attacks.table import Subject
from tests.vm.campaign import Campaign
from tests.vm.stage import CANARY, CORES, SCRATCH, Stage
from tests.vm.subjects import Crew, Victim

PLAIN = "plain-7be2c1d09f3a4856"  # what an unprotected process has
SEIZE, DETACH = 0x4206, 17


@dataclass(frozen=True, slots=True)
class Ground:
    """What a check acts on."""

    stage: Stage
    campaign: Campaign
    agent: Agent

    def plain(self) -> Victim:
        """A process like the victim that nobody registered, with another text for a secret."""
        return self.stage.victim(PLAIN)


def _readable(ground: Ground, pid: int, subject: Subject) -> bool:
    outcome = ground.stage.crew(subject).attack("environ", subject, pid)
    return outcome.done


def the_protected_process_itself(ground: Ground) -> str:
    """It reads all of its own."""
    answer = ground.campaign.victim.ask("own")
    return "" if answer == "ok" else f"refused its own {answer}"


def a_child(ground: Ground) -> str:
    """Protected from its first moment, like its parent."""
    with closing(ground.campaign.new()) as victim:
        child = int(victim.ask("fork"))
        return "its environment was read" if _readable(ground, child, Subject.POD) else ""


def exec_keeps(ground: Ground) -> str:
    """The same process with another program, or the same one anew."""
    with closing(ground.campaign.new()) as victim:
        victim.tell("exec")
        victim.introduced()
        if victim.ask("own") != "ok":
            return "it cannot read its own any more"
        return "its environment was read" if _readable(ground, victim.pid, Subject.HOST) else ""


def a_pid_used_again(ground: Ground) -> str:
    """An unprotected process that gets a protected one's number is unprotected; and the other way round."""
    last = Path("/proc/sys/kernel/ns_last_pid")
    victim = ground.stage.host.victim(ground.stage.programs.victim, CANARY)
    ground.agent.protect(victim)
    pid = victim.pid
    if _readable(ground, pid, Subject.HOST):
        return "the first was not protected"
    victim.close()
    _await(lambda: not _is_there(ground, pid))
    for _ in range(50):
        last.write_text(str(pid - 1))
        again = ground.stage.host.victim(ground.stage.programs.victim, PLAIN)
        if again.pid == pid:
            break
        again.close()
    else:
        return "the number did not come again"
    with closing(again):
        if not _readable(ground, pid, Subject.HOST):
            return "a process that is not protected was hidden"
        ground.agent.protect(again)
        return "the second was not protected" if _readable(ground, pid, Subject.HOST) else ""


def _is_there(ground: Ground, pid: int) -> bool:
    ground.stage.host.attack(
        "kallsyms", Subject.HOST, pid
    )  # after anything it does, the starter buries its dead
    return Path(f"/proc/{pid}").exists()


def ps_and_top(ground: Ground) -> str:
    """They list the protected process with what is public of it."""
    pid = str(ground.campaign.victim.pid)
    for command in (["ps", "-eo", "pid,ppid,user,comm,args"], ["top", "-b", "-n", "1", "-w", "200"]):
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        if done.returncode:
            return f"{command[0]} failed: {done.stderr[-200:]}"
        line = next((line for line in done.stdout.splitlines() if line.split()[:1] == [pid]), "")
        if "victim" not in line:
            return f"{command[0]} does not show it: {line!r}"
    return ""


def open_files_stay_open_by_design(ground: Ground) -> str:
    """What monitoring reads."""
    for name in ("cmdline", "status", "stat", "statm", "comm", "cgroup", "limits", "mountinfo"):
        try:
            Path(f"/proc/{ground.campaign.victim.pid}/{name}").read_bytes()
        except OSError as problem:
            return f"{name}: {problem}"
    return ""


def unprotected_processes(ground: Ground) -> str:
    """They are read, traced and dumped as before."""
    with closing(ground.plain()) as plain:
        for name in (
            "environ",
            "mem",
            "attach",
            "process_vm_readv",
            "pidfd_getfd",
            "maps",
            "prlimit",
            "uring",
        ):
            for subject in Subject:
                outcome = ground.stage.crew(subject).attack(name, subject, plain)
                if not outcome.done:
                    return f"{name} by {subject}: {outcome.text}"
    return ""


def a_debugger_on_an_unprotected_process(ground: Ground) -> str:
    """gdb prints its memory."""
    with closing(ground.plain()) as plain:
        command = ["gdb", "-nx", "-batch", "-p", str(plain.pid), "-ex", f"x/s {plain.address:#x}"]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        return "" if PLAIN in done.stdout else f"gdb: {done.stdout[-200:]}{done.stderr[-200:]}"


def a_core_of_an_unprotected_process(ground: Ground) -> str:
    """It is written, and has its memory."""
    plain = ground.plain()
    core = CORES / f"core.{plain.pid}"
    core.unlink(missing_ok=True)
    plain.tell("abort")
    plain.gone()
    return "" if core.exists() and PLAIN.encode() in core.read_bytes() else "no core"


def a_signal_of_its_own_meaning(ground: Ground) -> str:
    """SIGUSR1 opens an inspector in some programs; in others it reopens logs, and arrives."""
    with closing(ground.campaign.new()) as victim:
        outcome = ground.stage.host.attack("sigusr1", Subject.HOST, victim)
        return "" if outcome.done and victim.hear() == "inspector open" else outcome.text


def harmless_bpf(ground: Ground) -> str:
    """Maps and programs that cannot read memory load for everybody who may."""
    for subject in (Subject.HOST, Subject.POD):
        outcome = ground.stage.crew(subject).attack("bpf-harmless", subject, ground.campaign.victim)
        if not outcome.done:
            return f"{subject}: {outcome.text}"
    return ""


def moved_to_another_cgroup(ground: Ground) -> str:
    """Protection is the process's, not its cgroup's."""
    folder = Path("/sys/fs/cgroup/moved")
    folder.mkdir(exist_ok=True)
    with closing(ground.campaign.new()) as victim:
        ground.stage.host.attack("cgroup-move", Subject.HOST, victim, str(folder))
        if str(victim.pid) not in (folder / "cgroup.procs").read_text().split():
            return "it was not moved"
        return "its environment was read" if _readable(ground, victim.pid, Subject.HOST) else ""


def _refused(ground: Ground, victim: Victim, error: str) -> str:
    answer = json.loads(victim.ask(f"register {SOCKET}"))
    return "" if answer.get("error") == error else f"expected {error}, got {answer}"


def a_traced_process(ground: Ground) -> str:
    """It is not registered: whoever traces it has its memory already."""
    libc = ctypes.CDLL(None, use_errno=True)
    with closing(ground.stage.victim()) as victim:
        if libc.ptrace(SEIZE, victim.pid, 0, 0):
            return f"seize: {os.strerror(ctypes.get_errno())}"
        libc.ptrace(0x4207, victim.pid, 0, 0)  # INTERRUPT, so that it can be let go; it goes on below
        os.waitpid(victim.pid, 0x40000000)
        libc.ptrace(7, victim.pid, 0, 0)  # CONT
        wrong = _refused(ground, victim, "traced")
        libc.ptrace(0x4207, victim.pid, 0, 0)
        os.waitpid(victim.pid, 0x40000000)
        libc.ptrace(DETACH, victim.pid, 0, 0)
        return wrong


def a_handle_opened_before(ground: Ground) -> str:
    """Somebody has its memory open: it is not registered, and is once that is closed."""
    for name in ("mem", "environ", "maps"):
        with closing(ground.stage.victim()) as victim:
            with open(f"/proc/{victim.pid}/{name}", "rb"):
                wrong = _refused(ground, victim, "held")
            if wrong:
                return f"{name}: {wrong}"
            ground.agent.protect(victim)
    return ""


def a_userfaultfd_elsewhere(ground: Ground) -> str:
    """Somebody can answer its page faults, and so stop it and fill its memory: not registered."""
    libc = ctypes.CDLL(None, use_errno=True)
    with closing(ground.stage.host.victim(ground.stage.programs.victim, CANARY, uid=0)) as victim:
        number = int(victim.ask("userfaultfd"))
        process = os.pidfd_open(victim.pid)
        stolen = libc.syscall(438, process, number, 0)  # pidfd_getfd
        os.close(process)
        if stolen < 0:
            return f"pidfd_getfd: {os.strerror(ctypes.get_errno())}"
        try:
            return _refused(ground, victim, "held")
        finally:
            os.close(stolen)


def a_supervised_process(ground: Ground) -> str:
    """Somebody may answer its system calls (seccomp user notification): not registered."""
    with closing(ground.stage.victim()) as victim:
        if victim.ask("supervise") != "0":
            return "the kernel gave no listener"
        return _refused(ground, victim, "traced")


def another_executable(ground: Ground) -> str:
    """Who is not on the list is not registered."""
    other = SCRATCH / "other"
    content = bytearray(ground.stage.programs.victim.read_bytes()) + b"\0"
    other.write_bytes(content)
    other.chmod(0o755)
    with closing(ground.stage.pod.victim(other, CANARY)) as victim:
        return _refused(ground, victim, "not_allowed")


def _await(condition: Callable[[], bool]) -> None:
    """The kernel has no event for it that a test could wait for; bounded."""
    waited = threading.Event()
    for _ in range(600):
        if condition():
            return
        waited.wait(0.05)
    raise TimeoutError("what was waited for did not come")


def _while(ground: Ground, attack: str, victim: Victim | int, work: Callable[[], str]) -> str:
    """Do something while an attacker tries again and again; what either found wrong."""
    end = SCRATCH / "end"
    end.unlink(missing_ok=True)
    with closing(Crew(ground.stage.programs.attack, pod=False)) as crew:
        found: list[str] = []

        def attacks() -> None:
            outcome = crew.attack(attack, Subject.HOST, victim, f"{end} {CANARY}")
            if outcome.done:
                found.append(f"{attack} had the secret")
            elif "tries" not in outcome.text or " 0 tries" in outcome.text:
                found.append(f"{attack} could not try: {outcome.text} {outcome.status}")

        attacker = threading.Thread(target=attacks)
        attacker.start()
        try:
            wrong = work()
        finally:
            end.touch()
            attacker.join()
        return wrong or "".join(found)


def _storm(ground: Ground, command: str) -> str:
    with closing(ground.campaign.new()) as victim:

        def work() -> str:
            return "" if victim.ask(f"{command} 400") == "400" else "not all could be made"

        return _while(ground, "scan-loop", victim, work) or _while(ground, "guess-loop", victim, work)


def a_storm_of_children(ground: Ground) -> str:
    """None of them can be read in its short life."""
    return _storm(ground, "storm")


def a_storm_of_threads(ground: Ground) -> str:
    """Nor any thread."""
    return _storm(ground, "threads")


def killed_and_started_again(ground: Ground) -> str:
    """Attacks run on while no agent is there, and while the next one takes over: none succeeds."""
    victim = ground.campaign.victim

    def work() -> str:
        ground.agent.restart(kill=True)
        return ""

    return _while(ground, "environ-loop", victim, work) or _after(ground)


def upgraded(ground: Ground) -> str:
    """The same with an agent that ends as it is told to, and its successor."""
    victim = ground.campaign.victim

    def work() -> str:
        ground.agent.restart(kill=False)
        return ""

    return _while(ground, "environ-loop", victim, work) or _after(ground)


def _after(ground: Ground) -> str:
    """What the successor must know: the protected of before, and new ones."""
    if _readable(ground, ground.campaign.victim.pid, Subject.HOST):
        return "afterwards the secret was read"
    with closing(ground.campaign.new()) as victim:
        return "a new one is not protected" if _readable(ground, victim.pid, Subject.HOST) else ""


def a_runtime_enters(ground: Ground) -> str:
    """`kubectl exec`: the recorded runtime enters the namespaces, a copy of it under another inode does
    not."""
    victim = ground.campaign.victim
    done = _enter(ground.agent.runtime, victim)
    if "entered" not in done:
        return f"the runtime: {done}"
    copy = SCRATCH / "nsenter"
    shutil.copy(ground.agent.runtime, copy)
    done = _enter(copy, victim)
    return f"a copy of it: {done}" if "entered" in done else ""


def _enter(program: Path, victim: Victim) -> str:
    """By a child that has joined the runtime's cgroup."""

    def join() -> None:
        (Path(RUNTIME_CGROUP) / "cgroup.procs").write_text("0")

    done = subprocess.run(
        [str(program), "-t", str(victim.pid), "-m", "-p", "echo", "entered"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        preexec_fn=join,
        check=False,
    )
    return done.stdout + done.stderr


def the_wrapper_in_a_container(ground: Ground) -> str:
    """The payload registers in a pod of the real runtime; see `container`."""
    programs = ground.stage.programs
    return container.check(
        programs.payload, programs.application, lambda pid: _readable(ground, pid, Subject.HOST)
    )


CHECKS: dict[str, Callable[[Ground], str]] = {
    check.__name__: check
    for check in (
        the_protected_process_itself,
        a_child,
        exec_keeps,
        a_pid_used_again,
        ps_and_top,
        open_files_stay_open_by_design,
        unprotected_processes,
        a_debugger_on_an_unprotected_process,
        a_core_of_an_unprotected_process,
        a_signal_of_its_own_meaning,
        harmless_bpf,
        moved_to_another_cgroup,
        a_traced_process,
        a_handle_opened_before,
        a_userfaultfd_elsewhere,
        a_supervised_process,
        another_executable,
        a_storm_of_children,
        a_storm_of_threads,
        a_runtime_enters,
        the_wrapper_in_a_container,
        killed_and_started_again,
        upgraded,
    )
}


def run(ground: Ground) -> dict[str, str]:
    """All checks; what was wrong by name, an empty text where nothing was."""
    found = {}
    for name, check in CHECKS.items():
        print(f"{time.monotonic():.0f} s: {name}", flush=True)
        try:
            found[name] = check(ground)
        except (OSError, EOFError, RuntimeError, ValueError, TimeoutError) as problem:
            found[name] = f"{type(problem).__name__}: {str(problem)[-600:]}"
    return found
