"""The node agent: started, asked, listened to, ended.

`campaign` drives attacks past it. It is the program itself, as the DaemonSet starts it, with its settings in
the environment.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from tests.vm.orphans import tie
from tests.vm.subjects import Victim

SOCKET = "/run/cloudtaser/agent.sock"
CGROUP = "/sys/fs/cgroup/system.slice/cloudtaser-ebpf.service"
RUNTIME_CGROUP = "/sys/fs/cgroup/system.slice/containerd.service"
START = "from cloudtaser.ebpf.app import main; raise SystemExit(main())"
# an emulated processor loads the programs in 3 s; on a busy machine its clock may run ten times too fast
START_SECONDS = 2400.0
EVENT_SECONDS = 600.0


@contextmanager
def alone() -> Iterator[None]:
    """One processor only: the emulated machine's others might run what is attached to just now; see
    `machine.died_of_emulation`.
    """
    switches = list(Path("/sys/devices/system/cpu").glob("cpu[1-9]/online"))
    for switch in switches:
        switch.write_text("0")
    try:
        yield
    finally:
        for switch in switches:
            switch.write_text("1")


class Agent:
    """One agent and its successors. `settings` are variables beside those that every run here has.

    Outside a VM it gets a socket of the test's own and no cgroup.
    """

    runtime = Path("/usr/bin/nsenter")  # does of a container runtime's work only that it enters namespaces

    def __init__(self, *allowed: Path, socket: str = SOCKET, cgroup: str = CGROUP, **settings: str) -> None:
        digests = (hashlib.sha256(program.read_bytes()).hexdigest() for program in allowed)
        self._socket, self._cgroup = socket, cgroup
        self._settings = {
            **os.environ,
            "NODE_NAME": "node-1",
            "HEALTH_LISTEN_ADDR": "127.0.0.1:0",
            "CLOUDTASER_AGENT_SOCKET": socket,
            "ALLOWED_EXECUTABLES": ",".join(f"sha256:{digest}" for digest in digests),
            **settings,
        }
        if cgroup:
            for folder in (RUNTIME_CGROUP, cgroup):
                Path(folder).mkdir(parents=True, exist_ok=True)
            self._settings |= {
                "RUNTIME_EXECUTABLES": f"{self.runtime},{shutil.which('runc') or ''}".rstrip(","),
                "RUNTIME_CGROUPS": RUNTIME_CGROUP,
            }
        Path(socket).parent.mkdir(exist_ok=True)
        self._lines: queue.Queue[str] = queue.Queue()
        self._address = ""
        self.said: list[str] = []  # all that it printed
        self.process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        with alone() if self._cgroup else nullcontext():
            return self._started()

    def _started(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", START],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._settings,
            preexec_fn=self._settle(),
        )
        ready: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, args=(process, ready), daemon=True)
        self._reader.start()
        try:
            self._address = ready.get(timeout=START_SECONDS)
        except queue.Empty:
            self._address = ""
        if not self._address:
            process.kill()
            process.wait(EVENT_SECONDS)
            raise RuntimeError(f"the agent did not become ready:\n{''.join(self.said[-20:])}")
        return process

    def _settle(self) -> Callable[[], None]:
        tied = tie()

        def settle() -> None:
            tied()
            if self._cgroup:
                (Path(self._cgroup) / "cgroup.procs").write_text("0")

        return settle

    def _read(self, process: subprocess.Popen[str], ready: queue.Queue[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.said.append(line)
            self._lines.put(line)
            if '"message": "ready"' in line:
                ready.put(json.loads(line)["health"])
        ready.put("")  # it has ended, if it ever was

    def restart(self, *, kill: bool = False, **settings: str) -> None:
        """End it and start its successor, with other settings if given."""
        if kill:
            self.kill()
        else:
            self.stop()
        self._settings |= settings
        self.process = self._start()

    def get(self, path: str) -> bytes:
        """One of its pages."""
        with urllib.request.urlopen(f"http://{self._address}{path}", timeout=EVENT_SECONDS) as reply:
            return bytes(reply.read())

    def status(self) -> dict[str, Any]:
        """What it says of itself and of this kernel."""
        found: dict[str, Any] = json.loads(self.get("/status"))
        return found

    def protect(self, victim: Victim) -> None:
        """Have the victim register. Raises `RuntimeError` when the agent refuses it."""
        said = victim.ask(f"register {self._socket}")
        answer = json.loads(said) if said.startswith("{") else {"error": said}
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
        return self._ended()

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self._ended()

    def _ended(self) -> int:
        status = self.process.wait(EVENT_SECONDS)
        self._reader.join(EVENT_SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status
