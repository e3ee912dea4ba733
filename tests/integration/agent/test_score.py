"""The protection score of a running wrapper: told by itself, and measured from outside."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from typing import Any

import pytest

from cloudtaser.wrapper.outside import measure_outside
from cloudtaser.wrapper.score import POINTS, Score
from tests.integration.agent.conftest import VALUE
from tests.unit.wrapper.launch import PATIENCE, PREFIX, PREFIX_WITHOUT_EXTENSION, SOURCE, Wrapped

WAIT = ("sh", "-c", "echo started; trap 'exit 0' TERM; while :; do sleep 0.05; done")
OFF = {"CLOUDTASER_EBPF": "off"}


def score(*arguments: str, prefix: list[str] = PREFIX) -> dict[str, Any]:
    command = [*prefix, "score", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={}, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    assert [check["name"] for check in found["checks"]] == list(POINTS)
    assert found["score"] == sum(check["points"] for check in found["checks"])
    return found


def states(found: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["state"] for check in found["checks"]}


def reasons(found: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check.get("reason", "") for check in found["checks"]}


def test_a_running_wrapper_logs_its_score_once_and_tells_it(settings: dict[str, str]) -> None:
    with Wrapped(*WAIT, settings=settings | OFF) as wrapper:
        entry = wrapper.event("protection score")
        assert entry["max"] == 135
        told = score(f"--pid={wrapper.process.pid}")
        assert told["measured"] == "by itself"
        assert told["score"] == entry["score"]
        good = states(told)
        for name in ("mlock", "core_dump_exclusion", "dumpable_disabled", "guard_pages", "buffer_canary"):
            assert good[name] == "pass", reasons(told)[name]
        assert good["token_protected"] == good["environ_scrubbed"] == "pass"
        assert good["getenv_interposer"] == "fail"  # what it was told: in the environment
        assert good["ebpf_agent_connected"] == "fail"
        wrapper.process.terminate()
        wrapper.wait()
        assert "protection score" not in wrapper.log()


def test_memory_delivery_has_the_points_of_the_interposer(settings: dict[str, str]) -> None:
    memory = OFF | {"CLOUDTASER_DELIVERY": "memory", "CLOUDTASER_ENV_MAP": "value=VALUE"}
    with Wrapped(*WAIT, settings=settings | memory) as wrapper:
        wrapper.event("protection score")
        pid = wrapper.process.pid
        told = score("--pid", str(pid))
        assert states(told)["getenv_interposer"] == "pass", reasons(told)["getenv_interposer"]
        seen = measure_outside(pid)
        assert seen is not None
        assert seen.verdicts["getenv_interposer"][0] == "pass"


def test_from_outside_the_kernels_view_agrees(settings: dict[str, str]) -> None:
    with Wrapped(*WAIT, settings=settings | OFF) as wrapper:
        wrapper.event("protection score")
        told = states(score("--pid", str(wrapper.process.pid)))
        seen = measure_outside(wrapper.process.pid)
        assert seen is not None
        for name in ("memfd_secret", "mlock", "core_dump_exclusion", "guard_pages", "cpu_mitigations"):
            assert seen.verdicts[name][0] == told[name], name
        assert seen.verdicts["environ_scrubbed"][0] == "pass"
        assert seen.verdicts["buffer_canary"][0] == "skip"
        assert VALUE.encode() not in seen.document()


def test_a_secret_in_its_environment_costs_points_while_it_is_there(settings: dict[str, str]) -> None:
    with Wrapped(*WAIT, settings=settings | OFF | {"SOMETHING": VALUE}) as wrapper:
        missing = wrapper.event("protection score")["missing"]
        assert isinstance(missing, list)
        assert any(line.startswith("environ_scrubbed fail") for line in missing)


def test_without_the_extension_it_says_so_and_has_no_points_for_memory(settings: dict[str, str]) -> None:
    with Wrapped(*WAIT, settings=settings | OFF, prefix=PREFIX_WITHOUT_EXTENSION) as wrapper:
        wrapper.event("protection score")
        told = score("--pid", str(wrapper.process.pid))
        for name in ("memfd_secret", "mlock", "guard_pages", "buffer_canary", "token_protected"):
            assert "no C extension" in reasons(told)[name]


def test_of_itself_it_tells_what_this_machine_offers() -> None:
    told = score()
    assert states(told)["dumpable_disabled"] == "pass"
    assert reasons(told)["getenv_interposer"] == "no application runs at this time"


ANOTHER_USER = """
import os, sys
sys.path[:0] = [%r]
from cloudtaser.wrapper.scoring import score  # as root, who may read where the interpreter lies
os.setgroups([]); os.setgid(65532); os.setuid(65532)
print(score(["--pid", "%d"])[1].decode())
"""


@pytest.mark.slow  # it takes root to become another user
def test_another_user_is_not_told(settings: dict[str, str]) -> None:
    assert os.geteuid() == 0, "this test must be able to become another user"
    with Wrapped(*WAIT, settings=settings | OFF) as wrapper:
        wrapper.event("protection score")
        ask = ANOTHER_USER % (str(SOURCE), wrapper.process.pid)
        done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, timeout=30)
        assert not done.stderr
        found = json.loads(done.stdout)
        assert found["measured"] == "from outside"
        assert "try as root" in reasons(found)["memfd_secret"]


def test_nobody_else_answers_in_its_place() -> None:
    inode = os.stat("/proc/self/ns/pid").st_ino
    with socket.socket(socket.AF_UNIX) as impostor:
        impostor.bind(b"\0cloudtaser-wrapper/%d/%d" % (inode, os.getppid()))
        impostor.listen(1)
        impostor.settimeout(PATIENCE)

        def answer() -> None:
            asker, _ = impostor.accept()
            with asker, contextlib.suppress(OSError):
                asker.sendall(Score({}, "by itself").document() + b"\n")

        answering = threading.Thread(target=answer)
        answering.start()
        assert score("--pid", str(os.getppid()))["measured"] == "from outside"
        answering.join()


@pytest.mark.parametrize("arguments", [("--pid",), ("--pid", "x"), ("--pid", "0"), ("7",), ("--pid=1", "2")])
def test_a_wrong_call_is_told_how(arguments: tuple[str, ...]) -> None:
    done = subprocess.run([*PREFIX, "score", *arguments], capture_output=True, text=True, env={})
    assert (done.returncode, done.stdout) == (64, "")
    assert "usage:" in done.stderr


def test_a_process_that_is_not_there_is_one_clear_line() -> None:
    done = subprocess.run([*PREFIX, "score", "--pid", "2147483646"], capture_output=True, text=True, env={})
    assert done.returncode == 1
    assert done.stderr == "cloudtaser-wrapper: no process 2147483646 is seen in /proc\n"


WITHOUT_PROC = 'umount -l /proc && exec "$@"'


@pytest.mark.slow  # it takes root to be without /proc
def test_without_proc_it_says_what_it_had_to_skip(settings: dict[str, str]) -> None:
    prefix = ["unshare", "--mount", "sh", "-c", WITHOUT_PROC, "sh", *PREFIX]
    memory = OFF | {"CLOUDTASER_DELIVERY": "memory", "CLOUDTASER_ENV_MAP": "value=VALUE"}
    with Wrapped(*WAIT, settings=settings | memory, prefix=prefix) as wrapper:
        missing = wrapper.event("protection score")["missing"]
        assert isinstance(missing, list)
        assert [line for line in missing if " skip: " in line] == [
            "getenv_interposer skip: the application's maps and environ in /proc cannot be read"
        ]
        failed = {line.partition(" ")[0] for line in missing}
        assert not failed & {"memfd_secret", "mlock", "guard_pages", "buffer_canary", "token_protected"}
        assert wrapper.line() == "started"
