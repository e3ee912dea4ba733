"""The node agent inside the VM: started, asked, listened to, ended.

`campaign` drives attacks past it. It is the program itself, as the DaemonSet starts it, with its settings in
the environment.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.vm.subjects import Victim

SOCKET = "/run/cloudtaser/agent.sock"
ADDRESS = "127.0.0.1:9090"
CGROUP = "/sys/fs/cgroup/system.slice/cloudtaser-ebpf.service"
RUNTIME_CGROUP = "/sys/fs/cgroup/system.slice/containerd.service"
START = "from cloudtaser.ebpf.app import main; raise SystemExit(main())"
START_SECONDS = 120.0  # an emulated processor loads the programs in 3 s, a busy one in 30
EVENT_SECONDS = 60.0


class Agent:
    """One run of the agent. `settings` are variables beside those that every run here has."""

    runtime = Path("/usr/bin/nsenter")  # stands for a container runtime: it enters namespaces

    def __init__(self, victim: Path, **settings: str) -> None:
        digest = hashlib.sha256(victim.read_bytes()).hexdigest()
        self._settings = {
            **os.environ,
            "NODE_NAME": "node-1",
            "HEALTH_LISTEN_ADDR": ADDRESS,
            "CLOUDTASER_AGENT_SOCKET": SOCKET,
            "ALLOWED_EXECUTABLES": f"sha256:{digest}",
            "RUNTIME_EXECUTABLES": str(self.runtime),
            "RUNTIME_CGROUPS": RUNTIME_CGROUP,
            **settings,
        }
        Path(SOCKET).parent.mkdir(exist_ok=True)
        for folder in (RUNTIME_CGROUP, CGROUP):
            Path(folder).mkdir(parents=True, exist_ok=True)
        self._lines: queue.Queue[str] = queue.Queue()
        self.said: list[str] = []  # all that it printed
        self.process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", START],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._settings,
            preexec_fn=lambda: (Path(CGROUP) / "cgroup.procs").write_text("0") and None,
        )
        threading.Thread(target=self._read, args=(process,), daemon=True).start()
        self._wait(process)
        return process

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.said.append(line)
            self._lines.put(line)

    def restart(self, *, kill: bool = False, **settings: str) -> None:
        """End it and start its successor, with other settings if given."""
        if kill:
            self.kill()
        else:
            self.stop()
        self._settings |= settings
        self.process = self._start()

    def _wait(self, process: subprocess.Popen[str]) -> None:
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                self.get("/readyz")
                return
            except OSError:
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(
                        f"the agent did not become ready:\n{''.join(self.said[-20:])}"
                    ) from None
            time.sleep(0.1)  # nothing tells that a listener is there

    def get(self, path: str) -> bytes:
        """One of its pages."""
        with urllib.request.urlopen(f"http://{ADDRESS}{path}", timeout=20) as reply:
            return bytes(reply.read())

    def status(self) -> dict[str, Any]:
        """What it says of itself and of this kernel."""
        found: dict[str, Any] = json.loads(self.get("/status"))
        return found

    def protect(self, victim: Victim) -> None:
        """Have the victim register. Raises `RuntimeError` when the agent refuses it."""
        answer = json.loads(victim.ask(f"register {SOCKET}"))
        if not answer.get("ok"):
            raise RuntimeError(f"not registered: {answer}")

    def events(self, until: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """The events since the last call, up to the one for which `until` is true, without it."""
        found: list[dict[str, Any]] = []
        while True:
            try:
                line = self._lines.get(timeout=EVENT_SECONDS)
            except queue.Empty:
                raise RuntimeError(f"no event came; the agent said:\n{''.join(self.said[-20:])}") from None
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if not isinstance(event, dict) or "vector" not in event or "source" not in event:
                continue
            if until(event):
                return found
            found.append(event)

    def stop(self) -> int:
        """End it as its DaemonSet would; its exit status."""
        self.process.terminate()
        return self.process.wait(60)

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait(60)
