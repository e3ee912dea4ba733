"""Where a kernel takes neither LSM nor fmod_ret programs: accesses are told, and with REACTIVE_KILL whoever
reads contents is killed. On this machine's own kernel.

Only processes of these tests are protected, and only they are attacked; but whoever else on the machine opens
environ or mem of them meanwhile dies as well. The attackers are those of the VM tests. What the tier cannot
hold is named here, and the agent must not claim it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.vm import programs
from tests.vm.agent import Agent
from tests.vm.attacks.table import ATTACKS, Attack, Subject
from tests.vm.subjects import Crew, Outcome, Victim

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CANARY = "canary-40c2e7b91f5d6a38"
SENTINEL = "mem"
OTHERS = 50  # events at most beside a flood's: the sentinels', and of whoever looks round on this machine

# what a kubelet, its cAdvisor, and the exporters that run beside them do all the time
SCAN = """
import contextlib, os
seen = 0
for pid in filter(str.isdigit, os.listdir("/proc")):
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                os.readlink(f"/proc/{pid}/fd/{fd}")
        for name in ("io", "smaps_rollup", "status", "cmdline"):
            with contextlib.suppress(OSError):  # a kernel thread has no memory
                with open(f"/proc/{pid}/{name}", "rb") as file:
                    file.read()
        seen += 1
print(seen)
"""

# a test that is killed before it has cleaned up
ABANDONED = """
import sys, time
from pathlib import Path
from tests.integration.ebpf.test_kill_tier import Ground
ground = Ground(Path(sys.argv[1]))
print(*ground.processes(), flush=True)
time.sleep(600)
"""


class Ground:
    """An agent of the tier `kill`, attackers on the host and in a pid namespace, and a victim there."""

    def __init__(self, folder: Path, **settings: str) -> None:
        folder.chmod(0o755)  # for the victim, another user
        attack, self.program = programs.program("attack"), programs.program("victim")
        self.agent = Agent(
            self.program, socket=str(folder / "agent.sock"), cgroup="", EBPF_PIN_PATH="off", **settings
        )
        self.host, self.pod = Crew(attack, pod=False), Crew(attack, pod=True)
        self.status = self.agent.status()
        self.victim, self.sentinel = self.new(), self.new()

    def new(self) -> Victim:
        victim = self.pod.victim(self.program, CANARY)
        self.agent.protect(victim)
        return victim

    def attack(self, name: str, subject: Subject, victim: Victim | None = None, extra: str = "") -> Outcome:
        crew = self.host if subject is Subject.HOST else self.pod
        target = victim or self.victim
        outcome = crew.attack(name, subject, target, extra)

        with suppress(ProcessLookupError):
            os.kill(target.pid, signal.SIGCONT)
        return outcome

    def processes(self) -> list[int]:
        """All that it started and that lives on by itself."""
        crews = [crew.process.pid for crew in (self.host, self.pod)]
        return [self.agent.process.pid, *crews, self.victim.pid, self.sentinel.pid]

    def events(self) -> list[dict[str, Any]]:
        by = self.attack(SENTINEL, Subject.HOST, self.sentinel).attacker
        found = self.agent.events(lambda event: bool(event["source"]["pid"] == by))
        return [event for event in found if event["vector"]]

    def standing(self, vector: int) -> str:
        listed = {entry["number"]: entry["standing"] for entry in self.status["vectors"]["list"]}
        return str(listed[vector])

    def close(self) -> None:
        self.victim.close()
        self.sentinel.close()
        self.agent.stop()
        self.pod.close()
        self.host.close()


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Ground(Path(folder), REACTIVE_KILL="true")) as found,
    ):
        yield found


def extra(attack: Attack, ground: Ground) -> str:
    return {"canary": CANARY}.get(attack.extra, "")


def tries() -> list[Attack]:
    """Attacks on a target that need nothing of the machine and leave the victim whole."""
    return [one for one in ATTACKS if not one.node and not one.fatal and one.extra in ("", "canary")]


def test_the_agent_enforces_by_killing_where_it_is_told_to(ground: Ground) -> None:
    assert (ground.status["tier"], ground.status["mode"]) == ("kill", "enforce")


def scan(ground: Ground) -> set[tuple[int, str]]:
    """Vectors and verdicts of one look at every process of this machine, by a program that must live on."""
    ground.events()
    with subprocess.Popen([sys.executable, "-I", "-c", SCAN], stdout=subprocess.PIPE, text=True) as program:
        said, _ = program.communicate(timeout=120)
    assert program.returncode == 0
    assert int(said) > 1
    mine = [event for event in ground.events() if event["source"]["pid"] == program.pid]
    return {(event["vector"], event["verdict"]) for event in mine}


def test_a_kubelets_scan_of_every_process_survives_and_is_told(ground: Ground) -> None:
    assert scan(ground) == {(5, "detected"), (11, "detected"), (14, "detected")}


@pytest.mark.parametrize("attack", tries(), ids=lambda one: one.name)
def test_what_the_agent_says_holds_ends_the_offender_what_it_detects_is_told(
    ground: Ground, attack: Attack
) -> None:
    for subject in sorted(attack.by):
        outcome = ground.attack(attack.name, subject, extra=extra(attack, ground))
        mine = [event for event in ground.events() if event["source"]["pid"] == outcome.attacker]
        if ground.standing(attack.vector) != "holds":
            assert outcome.status != signal.SIGKILL, (subject, outcome)
            if ground.standing(attack.vector) == "detects" and outcome.done:
                assert {event["verdict"] for event in mine} == {"detected"}, (subject, mine)
            continue
        if not outcome.done and outcome.status != signal.SIGKILL and not mine:
            continue  # this machine's kernel refuses it by itself, or has no such call
        assert (outcome.status, outcome.text) == (signal.SIGKILL, ""), (subject, outcome)
        assert [event["verdict"] for event in mine] == ["killed"], (subject, mine)


def test_a_reader_that_shares_memory_with_another_process_hands_nothing_over(ground: Ground) -> None:
    outcome = ground.attack("shared-readv", Subject.HOST)
    assert (outcome.done, outcome.error) == (False, "ENODATA")


@pytest.mark.parametrize(
    ("name", "hole"),
    [
        ("uring", 33),  # the opening happens in a call that returns no descriptor
        ("exe-link", 17),  # readlink returns no descriptor
        ("fd-open", 17),  # what is opened is the file itself, not an entry of /proc
        ("fdinfo-open", 17),
        ("sigquit", 30),
    ],
)
def test_the_holes_of_this_tier_are_not_claimed(ground: Ground, name: str, hole: int) -> None:
    with closing(ground.new()) as victim:
        outcome = ground.attack(name, Subject.HOST, victim)
    ground.events()
    assert outcome.done == (ground.standing(hole) != "holds"), outcome


def test_the_window_of_shared_descriptors_is_a_hole_and_the_opener_dies(ground: Ground) -> None:
    """Two processes with one table of descriptors: the second has the file until the first is dead, or for
    good."""
    ground.events()
    ground.attack("shared-files", Subject.HOST)
    killed = [event for event in ground.events() if event["verdict"] == "killed"]
    assert killed


def test_the_protected_its_children_and_the_unprotected_go_on(ground: Ground) -> None:
    assert ground.victim.ask("own") == "ok"
    with closing(ground.new()) as victim:
        child = int(victim.ask("fork"))
        outcome = ground.pod.attack("environ", Subject.POD, child)
        assert outcome.status == signal.SIGKILL
        victim.tell("exec")
        victim.introduced()
        assert ground.attack("environ", Subject.HOST, victim).status == signal.SIGKILL
    with closing(ground.pod.victim(ground.program, "plain")) as plain:
        for name in ("environ", "mem", "process_vm_readv", "attach"):
            assert ground.attack(name, Subject.HOST, plain).done, name


def test_what_is_public_stays_public(ground: Ground) -> None:
    for name in ("cmdline", "status", "stat", "comm", "cgroup", "limits"):
        assert Path(f"/proc/{ground.victim.pid}/{name}").read_bytes()


def test_a_process_whose_memory_somebody_has_open_is_not_registered(ground: Ground) -> None:
    with closing(ground.pod.victim(ground.program, CANARY)) as victim:
        file = os.open(f"/proc/{victim.pid}/mem", os.O_RDONLY)
        try:
            with pytest.raises(RuntimeError, match="'held'"):
                ground.agent.protect(victim)
        finally:
            os.close(file)
        ground.agent.protect(victim)


@pytest.fixture(scope="module")
def watching() -> Iterator[Ground]:
    """As the agent comes: one that only tells, so that an offender lives to make many events."""
    with tempfile.TemporaryDirectory() as folder, closing(Ground(Path(folder))) as found:
        yield found


def test_unless_told_to_it_kills_nobody_and_claims_nothing(watching: Ground) -> None:
    assert (watching.status["tier"], watching.status["mode"]) == ("kill", "detect")
    assert watching.status["vectors"]["hold"] == 0
    assert watching.standing(1) == watching.standing(14) == "detects"
    assert scan(watching) == {(5, "detected"), (11, "detected"), (14, "detected")}
    for name in ("environ", "mem", "process_vm_readv", "seize"):
        assert watching.attack(name, Subject.HOST).done, name


def test_a_test_run_that_is_killed_leaves_nobody_behind() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen([sys.executable, "-c", ABANDONED, folder], stdout=subprocess.PIPE, text=True) as run,
    ):
        assert run.stdout is not None
        left = {os.pidfd_open(int(pid)) for pid in run.stdout.readline().split()}
        assert len(left) == 5
        run.kill()
    ended = select.poll()
    for each in left:
        ended.register(each, select.POLLIN)
    while left:
        found = {each for each, _ in ended.poll(60_000)}
        assert found, "a process outlives the test run that started it"
        for each in found:
            ended.unregister(each)
            os.close(each)
        left -= found


def counted(watching: Ground) -> tuple[int, int]:
    status = watching.agent.status()
    return status["events"].get("detected", 0), status["lost_events"]


def flooded(watching: Ground, count: int, rate: int) -> tuple[int, int]:
    watching.events()
    before = counted(watching)
    outcome = watching.attack("flood", Subject.HOST, extra=f"{count} {rate}")
    assert outcome.text == str(count)
    deadline = time.monotonic() + 120
    while sum(counted(watching)) - sum(before) < count:  # until the ring has room for another sentinel
        assert time.monotonic() < deadline
        time.sleep(0.05)
    watching.events()  # the last event is behind all of the flood's
    after = counted(watching)
    return after[0] - before[0], after[1] - before[1]


def test_ten_thousand_a_second_are_told_without_loss(watching: Ground) -> None:
    told, lost = flooded(watching, 20_000, 10_000)
    assert lost == 0
    assert 0 < told - 20_000 <= OTHERS


def test_beyond_what_it_can_read_the_loss_is_counted(watching: Ground) -> None:
    told, lost = flooded(watching, 150_000, 0)
    assert 0 < told + lost - 150_000 <= OTHERS


def test_one_offender_cannot_flood_the_log(watching: Ground) -> None:
    watching.events()
    said = len(watching.agent.said)
    outcome = watching.attack("flood", Subject.HOST, extra="20000 0")
    watching.events()
    mine = [
        json.loads(line) for line in list(watching.agent.said[said:]) if f'"pid":{outcome.attacker},' in line
    ]
    assert 1 <= len(mine) < 200
    assert sum(event["count"] for event in mine) <= 20_000
