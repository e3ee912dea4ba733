"""A container in the VM, by the real runtime: the wrapper's payload is its first process, OpenBao beside it
has the secret.

`checks` looks at it past an agent. Its cgroup is of a pod, as a kubelet makes it; its network is the host's.
"""

from __future__ import annotations

import json
import select
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cloudtaser.demo.openbao import DevServer, start_dev
from tests.vm.agent import RUNTIME_CGROUP
from tests.vm.stage import CANARY, SCRATCH
from tests.vm.subjects import CGROUPS, USER, pod_cgroup

RUNTIME = Path(shutil.which("runc") or "/usr/sbin/runc")
ID = "7c2d" * 16
SECONDS = 1200.0  # by an emulated clock; see `agent`


def in_runtimes_cgroup() -> None:
    """Between fork and exec."""
    (Path(RUNTIME_CGROUP) / "cgroup.procs").write_text("0")


class Container:
    """Runs; `application` is the pid on the host of what the wrapper started, `wrapper` its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.inner = int(self._line().split()[0])  # the application's pid as it knows it
        state = json.loads(self.runtime("state", ID).stdout)
        self.wrapper = int(state["pid"])
        children = Path(f"/proc/{self.wrapper}/task/{self.wrapper}/children").read_text().split()
        self.application = int(children[0])

    def _line(self) -> str:
        """The first line of the application. Raises `RuntimeError` with what the wrapper said instead."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], SECONDS)
        line = self._process.stdout.readline() if ready else ""
        if line:
            return line
        self._process.kill()
        assert self._process.stderr is not None
        raise RuntimeError(f"the application did not start: {self._process.stderr.read()[-500:]}")

    def runtime(self, *arguments: str, program: Path = RUNTIME) -> subprocess.CompletedProcess[str]:
        """One command of the runtime's, from where it lives."""
        return subprocess.run(
            [str(program), "--root", str(SCRATCH / "runc"), *arguments],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            preexec_fn=in_runtimes_cgroup,
            timeout=SECONDS,
            check=False,
        )

    def execute(self, *command: str, program: Path = RUNTIME) -> str:
        """As `kubectl exec`; both outputs."""
        done = self.runtime("exec", ID, *command, program=program)
        return done.stdout + done.stderr


@contextmanager
def started(payload: Path, application: Path) -> Iterator[Container]:
    """The application behind the wrapper, with the canary in its environment."""
    bundle = SCRATCH / "bundle"
    root = bundle / "root"
    for folder in ("proc", "dev", "cloudtaser"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    shutil.copy("/bin/busybox", root / "busybox")
    shutil.copy(application, root / "application")
    server = start_dev(SCRATCH / "openbao")
    try:
        _store(server)
        (bundle / "config.json").write_text(json.dumps(_configuration(root, payload, server)))
        process = subprocess.Popen(
            [str(RUNTIME), "--root", str(SCRATCH / "runc"), "run", "--bundle", str(bundle), ID],
            stdin=subprocess.PIPE,  # at whose end the application ends
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=in_runtimes_cgroup,
        )
        try:
            yield Container(process)
        finally:
            process.stdin.close() if process.stdin is not None else None
            _ended(process)
    finally:
        server.stop()


def _ended(process: subprocess.Popen[str]) -> None:
    try:
        process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def _store(server: DevServer) -> None:
    request = urllib.request.Request(
        f"{server.address}/v1/secret/data/app",
        data=json.dumps({"data": {"CANARY": CANARY}}).encode(),
        headers={"X-Vault-Token": server.root_token.reveal_text()},
    )
    with urllib.request.urlopen(request, timeout=SECONDS) as response:
        response.read()


def _configuration(root: Path, payload: Path, server: DevServer) -> dict[str, object]:
    environment = {
        "VAULT_ADDR": server.address,
        "VAULT_AUTH_METHOD": "token",
        "VAULT_TOKEN": server.root_token.reveal_text(),
        "CLOUDTASER_SECRET_PATHS": "secret/data/app",
        "CLOUDTASER_CONTAINER": "app",
        "CLOUDTASER_EBPF": "required",
    }
    none: dict[str, list[str]] = {
        kind: [] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")
    }
    mounts: tuple[tuple[str, str, str, list[str]], ...] = (
        ("/proc", "proc", "proc", []),
        ("/cloudtaser", "bind", str(payload), ["bind", "ro"]),
    )
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": USER, "gid": USER},
            "args": ["/cloudtaser/wrapper", "/application"],
            "env": [f"{name}={value}" for name, value in environment.items()],
            "cwd": "/",
            "capabilities": none,
            "noNewPrivileges": True,
        },
        "root": {"path": str(root), "readonly": True},
        "mounts": [
            {"destination": place, "type": kind, "source": source, "options": options}
            for place, kind, source, options in mounts
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")],
            "cgroupsPath": f"/{pod_cgroup().parent.relative_to(CGROUPS)}/cri-containerd-{ID}.scope",
        },
    }


def check(payload: Path, application: Path, readable: Callable[[int], bool]) -> str:
    """What is wrong, if anything: nobody reads the wrapper or its application, the runtime enters, what it
    starts there reads nobody either, and a copy of the runtime does not enter.
    """
    with started(payload, application) as container:
        for pid in (container.wrapper, container.application):
            if readable(pid):
                return f"{pid}: its environment was read"
        said = container.execute("/busybox", "echo", "entered")
        if "entered" not in said:
            return f"the runtime: {said[-300:]}"
        said = container.execute("/busybox", "cat", f"/proc/{container.inner}/environ")
        if "not permitted" not in said or CANARY in said:
            return f"from inside: {said[-300:]}"
        copy = SCRATCH / "runc-copy"
        shutil.copy(RUNTIME, copy)
        said = container.execute("/busybox", "echo", "entered", program=copy)
        return f"a copy of the runtime: {said[-300:]}" if "entered" in said else ""
