"""The wrapper and the node's agent: protected before anything is fetched, or not, as the setting says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.agent.support import OK, Agent, framed, refusal
from tests.unit.wrapper.launch import PREFIX, Wrapped, run

WAIT = ("sh", "-c", "echo started; trap 'exit 0' TERM; while :; do sleep 0.05; done")


def test_it_registers_before_anything_is_fetched_and_sends_its_score(
    settings: dict[str, str], place: Path
) -> None:
    with (
        Agent(place) as agent,
        Wrapped(*WAIT, settings=settings | {"CLOUDTASER_EBPF": "required"}) as wrapper,
    ):
        assert agent.next() == {"v": 1, "register": {"container": "app"}}
        entry = wrapper.event("")  # the first line of all
        assert entry["event"] == "the node's agent protects this process"
        assert (entry["mode"], entry["tier"], entry["hold"]) == ("enforce", "lsm", 40)
        wrapper.event("secrets loaded")
        assert wrapper.line() == "started"
        score = agent.next()["score"]
        states = {check["name"]: check["state"] for check in score["checks"]}
        assert {states[name] for name in states if name.startswith("ebpf_")} == {"pass"}
        assert score["measured"] == "by itself"
        assert score["max"] == 135


def test_without_an_agent_auto_starts_and_required_does_not(settings: dict[str, str]) -> None:
    assert run("--", "echo", "started", settings=settings, check_code=0).stdout == "started\n"
    assert run("--", "true", settings=settings | {"CLOUDTASER_EBPF": "off"}, check_code=0)


def test_a_required_agent_that_refuses_for_good_stops_it_at_once(
    settings: dict[str, str], place: Path
) -> None:
    with Agent(place, [refusal("not_allowed", "this is no payload\n\x1b[31m of ours")]):
        done = run("--", "echo", "started", settings=settings | {"CLOUDTASER_EBPF": "required"})
    assert (done.returncode, done.stdout) == (69, "")
    assert len(done.stderr.splitlines()) == 1
    assert "CLOUDTASER_EBPF" in done.stderr
    assert "not_allowed" in done.stderr
    assert "\x1b" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("choice", "code"), [("true", 0), ("required", 69)])
def test_it_waits_ten_seconds_for_an_agent(settings: dict[str, str], choice: str, code: int) -> None:
    done = run("--", "echo", "started", settings=settings | {"CLOUDTASER_EBPF": choice})
    assert done.returncode == code
    assert (done.stdout == "started\n") is (code == 0)
    assert "no agent" in done.stderr


def test_an_agent_that_comes_late_is_in_time_for_true(settings: dict[str, str], place: Path) -> None:
    with Wrapped(*WAIT, settings=settings | {"CLOUDTASER_EBPF": "true"}) as wrapper, Agent(place):
        wrapper.event("the node's agent protects this process")
        assert wrapper.line() == "started"


def test_a_traced_process_asks_again_until_it_is_let_go(settings: dict[str, str], place: Path) -> None:
    answers: list[bytes | None] = [refusal("traced", "pid 7 traces you"), refusal("busy"), framed(OK)]
    required = settings | {"CLOUDTASER_EBPF": "required"}
    with Agent(place, answers), Wrapped(*WAIT, settings=required) as wrapper:
        wrapper.event("the node's agent protects this process")
        assert wrapper.line() == "started"


def test_after_the_agents_restart_it_registers_again_and_the_application_runs_on(
    settings: dict[str, str], place: Path
) -> None:
    with Wrapped(*WAIT, settings=settings | {"CLOUDTASER_EBPF": "true"}) as wrapper:
        with Agent(place) as first:
            assert wrapper.line() == "started"
            while "score" not in first.next():
                pass
        wrapper.event("the application runs on, and the agent is looked for")
        with Agent(place) as second:
            wrapper.event("protects this process again")
            assert "register" in second.next()
            assert second.next()["score"]["max"] == 135
        assert wrapper.process.poll() is None


HOSTILE: dict[str, bytes | None] = {
    "nothing": None,
    "no JSON": framed(b"hello"),
    "an empty frame": b"\0\0\0\0",
    "a frame of 4 GiB": b"\xff\xff\xff\xff",
    "a frame too long": (4097).to_bytes(4, "big") + b" " * 4097,
    "a frame cut short": b"\0\0\0\x40{",
    "no object": framed(b"[1]"),
    "another version": framed(OK | {"v": 2}),
    "no version": framed({"ok": True, "mode": "enforce", "tier": "lsm"}),
    "ok as text": framed(OK | {"ok": "true"}),
    "an unknown mode": framed(OK | {"mode": "maybe"}),
    "an unknown tier": framed(OK | {"tier": "magic"}),
    "no vectors": framed({"v": 1, "ok": True, "mode": "enforce", "tier": "lsm"}),
    "more held than known": framed(OK | {"vectors": {"known": 1, "hold": 2}}),
    "a name twice": framed(json.dumps(OK).encode().replace(b'"ok"', b'"ok": false, "ok"')),
    "nested": framed(b"[" * 4000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_answer_that_makes_no_sense_protects_nobody(
    settings: dict[str, str], place: Path, name: str
) -> None:
    with Agent(place, [HOSTILE[name]]), Wrapped(*WAIT, settings=settings) as wrapper:
        entry = wrapper.event("no agent protects this process")
        assert "agent" in str(entry["reason"])
        assert wrapper.line() == "started"


def test_what_the_agent_adds_later_is_no_obstacle(settings: dict[str, str], place: Path) -> None:
    answer = framed(OK | {"mode": "detect", "tier": "kill", "more": {"x": [1, {}]}})
    with Agent(place, [answer]), Wrapped(*WAIT, settings=settings) as wrapper:
        entry = wrapper.event("the node's agent protects this process")
        assert (entry["mode"], entry["tier"]) == ("detect", "kill")
        assert wrapper.line() == "started"


def test_a_silent_agent_is_not_waited_for_long(settings: dict[str, str], place: Path) -> None:
    with Agent(place, [b""]), Wrapped(*WAIT, settings=settings) as wrapper:
        assert "in time" in str(wrapper.event("no agent protects this process")["reason"])
        assert wrapper.line() == "started"


NEIGHBOUR = """
import os, socket, sys
ready, wait = os.pipe()
parent = os.getpid()
if not os.fork():
    os.setgid(65532); os.setuid(65532)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(b"\\0cloudtaser-agent")
    listener.listen()
    listener.settimeout(0.2)
    os.close(wait)
    while os.getppid() == parent:
        try:
            listener.accept()[0].sendall(ANSWER)
        except OSError:
            pass
    os._exit(0)
os.close(wait)
os.read(ready, 1)
os.close(ready)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.slow  # it takes root, and ten seconds of a required agent
def test_a_neighbour_in_the_pod_is_not_taken_for_the_agent(settings: dict[str, str]) -> None:
    """An abstract name belongs to whoever takes it first: in the default place only root is believed."""
    del settings["CLOUDTASER_AGENT_SOCKET"]
    impostor = [sys.executable, "-c", NEIGHBOUR.replace("ANSWER", repr(framed(OK)))]
    done = subprocess.run(
        ["unshare", "--net", *impostor, *PREFIX, "--", "echo", "started"],
        env=settings | {"CLOUDTASER_EBPF": "required", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (69, "")
    assert "somebody who is not root listens in the agent's place" in done.stderr
