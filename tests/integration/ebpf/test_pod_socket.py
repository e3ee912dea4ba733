"""A pod reaches the agent without a mount: by an abstract socket in its own network namespace, from its own
pid namespace. With the tier that this machine's kernel takes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.orphans import tie

PATIENCE = 60.0
POD = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"
CONTAINER = "ab" * 32
PYTHON = os.path.realpath(sys.executable)

WRAPPER = """
import json, os, socket, struct, sys, time
while True:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect("\\0cloudtaser-agent")
        break
    except ConnectionRefusedError:
        connection.close()
        time.sleep(0.05)
body = json.dumps({"v": 1, "register": {"container": "app"}}).encode()
connection.sendall(struct.pack(">I", len(body)) + body)
(length,) = struct.unpack(">I", connection.recv(4))
print(os.getpid(), connection.recv(length).decode(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A container's, named as a kubelet names them, in whichever hierarchy this machine has."""
    root = Path("/sys/fs/cgroup")
    if not (root / "cgroup.procs").exists():
        root /= "pids"
    folder = root / "kubepods" / f"pod{POD}" / CONTAINER
    folder.mkdir(parents=True)
    yield folder
    for each in (folder, folder.parent, folder.parent.parent):
        each.rmdir()


@pytest.fixture
def agent() -> Iterator[subprocess.Popen[str]]:
    settings = {
        "ALLOWED_EXECUTABLES": PYTHON,
        "CLOUDTASER_AGENT_SOCKET": "",
        "EBPF_PIN_PATH": "off",
        "HEALTH_LISTEN_ADDR": "127.0.0.1:0",
        "POD_SOCKETS": "true",
        "REACTIVE_KILL": "true",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "cloudtaser.ebpf.app"],
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=tie(),
    )
    assert process.stderr is not None
    assert any('"ready"' in line for line in iter(process.stderr.readline, ""))
    yield process
    process.terminate()
    process.communicate(timeout=PATIENCE)


@pytest.mark.slow
def test_a_pod_registers_by_the_socket_in_its_own_network_namespace(
    agent: subprocess.Popen[str], cgroup: Path
) -> None:
    apart = "unshare --net --pid --kill-child --mount-proc"
    enter = f'echo $$ > {cgroup}/cgroup.procs; exec {apart} {PYTHON} -c "$0"'
    pod = subprocess.Popen(
        ["sh", "-c", enter, WRAPPER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=tie(),
    )
    assert pod.stdout is not None
    assert agent.stdout is not None
    try:
        pid, _, answer = pod.stdout.readline().partition(" ")
        assert pid == "1"  # in its own pid namespace
        assert json.loads(answer)["ok"] is True
        event = json.loads(agent.stdout.readline())
        assert event["verdict"] == "registered"
        assert (event["source"]["pod"], event["source"]["container"]) == (POD, CONTAINER)
        inside = event["source"]["pid"]
        assert inside > 1
        attack = subprocess.run(["cat", f"/proc/{inside}/environ"], capture_output=True, check=False)
        assert attack.returncode in (1, -signal.SIGKILL)
        assert attack.stdout == b""
        event = json.loads(agent.stdout.readline())
        assert (event["vector"], event["target"]["pod"]) == (1, POD)
    finally:
        pod.communicate("", timeout=PATIENCE)
