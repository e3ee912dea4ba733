"""The wrapper beside the real agent, in whatever tier this kernel takes: neither harms the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any, Self

import pytest

from cloudtaser.demo.ports import free_port
from tests.unit.wrapper.launch import PREFIX, SOURCE, Wrapped
from tests.vm.orphans import tie

WAIT = ("sh", "-c", "echo started; trap 'exit 0' TERM; while :; do sleep 0.05; done")
START = "from cloudtaser.ebpf.app import main; raise SystemExit(main())"


class NodeAgent:
    """The program itself, for one wrapper of this interpreter, without pins: it takes nothing over."""

    def __init__(self, place: Path) -> None:
        place.unlink(missing_ok=True)
        self.port = free_port()
        environment = {
            **os.environ,
            "PYTHONPATH": str(SOURCE),
            "NODE_NAME": "test",
            "HEALTH_LISTEN_ADDR": f"127.0.0.1:{self.port}",
            "CLOUDTASER_AGENT_SOCKET": str(place),
            "ALLOWED_EXECUTABLES": os.path.realpath(sys.executable),
            "EBPF_PIN_PATH": "off",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", START],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=tie(),
        )

    def __enter__(self) -> Self:
        assert self.process.stdout is not None
        assert any('"ready"' in line for line in self.process.stdout), "the agent did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.communicate(timeout=60)

    def status(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/status", timeout=30) as response:
            found: dict[str, Any] = json.loads(response.read())
            return found


@pytest.mark.slow
def test_the_agent_protects_the_wrapper_and_does_not_take_it_for_an_offender(
    settings: dict[str, str], place: Path
) -> None:
    """A wrapper that looked at its application's /proc would be told of, and might be killed in tier kill."""
    required = settings | {"CLOUDTASER_EBPF": "required"}
    with NodeAgent(place) as first, Wrapped(*WAIT, settings=required) as wrapper:
        entry = wrapper.event("the node's agent protects this process")
        assert (entry["mode"], entry["tier"]) == (first.status()["mode"], first.status()["tier"])
        assert wrapper.line() == "started"
        assert isinstance(wrapper.event("protection score")["score"], int)
        done = subprocess.run(
            [*PREFIX, "score", "--pid", str(wrapper.process.pid)], capture_output=True, text=True, env={}
        )
        checks = {check["name"]: check["state"] for check in json.loads(done.stdout)["checks"]}
        assert checks["ebpf_agent_connected"] == "pass"
        assert first.status()["registrations"] == 1
        first.process.terminate()
        wrapper.event("the agent is looked for")
        said, _ = first.process.communicate(timeout=60)
        events = [json.loads(line) for line in said.splitlines() if '"vector"' in line]
        mine = [event for event in events if event["source"]["pid"] == wrapper.process.pid]
        assert [event["verdict"] for event in mine] == ["registered"]
        with NodeAgent(place) as second:
            wrapper.event("protects this process again")
            assert second.status()["registrations"] == 1
            assert wrapper.process.poll() is None
