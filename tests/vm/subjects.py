"""Victims and attackers in the VM: a pod's pid namespace with a process that starts both, and the same on the
host.

`stage` uses it, inside the VM. `attacks/main.c` is the other side and says what is spoken between them.
"""

from __future__ import annotations

import array
import os
import socket
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.vm.attacks.table import Subject
from tests.vm.orphans import tie

USER = 65532
SECONDS = 3300.0  # an attack has 300 by its own alarm, or 3000 where it searches
CGROUPS = Path("/sys/fs/cgroup")
POD_UID = "0d6f1c3e-58a1-4b60-9c1d-2f6a7c4e9b55"
CONTAINER_ID = "4be1" * 16


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one attack."""

    attacker: int  # its pid on the host
    done: bool
    text: str  # the evidence, or the error and the step at which it came
    status: int  # as waitpid tells it; 9 when it was killed

    @property
    def error(self) -> str:
        """The name of the error number; empty when it succeeded or was killed before it told."""
        return "" if self.done else self.text.partition(" ")[0]


class Victim:
    """A protected process to be; see `attacks/victim.c`."""

    def __init__(self, stream: socket.socket) -> None:
        stream.settimeout(SECONDS)
        self._stream = stream
        self._pending = b""
        self.pid = 0  # on the host
        self.introduced()

    def introduced(self) -> None:
        """Read its first line: who it is in its own pid namespace and where it has the secret."""
        pid, tid, address, length, descriptor = self._line().split()
        self.inner, self.inner_tid = int(pid), int(tid)
        self.address, self.length, self.descriptor = int(address, 16), int(length), int(descriptor)
        threads = {_inner(task): int(task.name) for task in Path(f"/proc/{self.pid}/task").iterdir()}
        self.tid = threads[self.inner_tid]

    def _line(self) -> str:
        while b"\n" not in self._pending:
            data, ancillary, _, _ = self._stream.recvmsg(8192, 256)
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS and not self.pid:
                    self.pid = struct.unpack("3i", content)[0]
            if not data:
                raise EOFError("the victim is gone")
            self._pending += data
        line, self._pending = self._pending.split(b"\n", 1)
        return line.decode()

    def ask(self, line: str) -> str:
        """One command of its, and the answer."""
        self._stream.sendall(line.encode() + b"\n")
        return self._line()

    def tell(self, line: str) -> None:
        """One command that it does not answer."""
        self._stream.sendall(line.encode() + b"\n")

    def hear(self) -> str:
        """One line that it says of itself."""
        return self._line()

    def gone(self) -> None:
        """Wait until it has ended."""
        while self._stream.recv(4096):
            pass

    def close(self) -> None:
        """Let it end: its input ends."""
        self._stream.close()


def _inner(task: Path) -> int:
    status = (task / "status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1])


def pod_cgroup() -> Path:
    """The cgroup of the pod's only container, made as a kubelet with the systemd driver makes it."""
    name = f"kubepods-burstable-pod{POD_UID.replace('-', '_')}.slice"
    folder = (
        CGROUPS / "kubepods.slice/kubepods-burstable.slice" / name / f"cri-containerd-{CONTAINER_ID}.scope"
    )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Crew:
    """One process that starts attackers and victims where it lives."""

    def __init__(self, program: Path, *, pod: bool, cgroup: Path | None = None) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        ours.settimeout(SECONDS)
        self.pod = pod
        self._control = ours
        apart = ["unshare", "--pid", "--kill-child", "--mount-proc", "--uts", "--ipc"] if pod else []
        tied = tie()

        def settle() -> None:
            tied()
            os.dup2(theirs.fileno(), 3)
            if cgroup is not None:
                (cgroup / "cgroup.procs").write_text("0")

        self.process = subprocess.Popen(
            [*apart, str(program), "serve"], stdin=subprocess.DEVNULL, pass_fds=(3,), preexec_fn=settle
        )
        theirs.close()

    def attack(self, name: str, subject: Subject, victim: Victim | int, extra: str = "") -> Outcome:
        """Carry out one attack. A number as victim is a pid on the host."""
        uid = USER if subject is Subject.SAME else 0
        if isinstance(victim, int):
            words = f"{victim} {victim} 0 0 0"
        elif self.pod:
            words = (
                f"{victim.inner} {victim.inner_tid} {victim.address:x} {victim.length} {victim.descriptor}"
            )
        else:
            words = f"{victim.pid} {victim.tid} {victim.address:x} {victim.length} {victim.descriptor}"
        self._control.send(f"run {uid} {name} {words} {extra}".encode())
        attacker, done, text = 0, False, ""
        while True:
            packet, ancillary, _, _ = self._control.recvmsg(1024, 256)
            if not packet:
                raise EOFError("the attackers' starter is gone")
            word, _, rest = packet.decode(errors="replace").partition(" ")
            if word == "begin":
                attacker = next(
                    struct.unpack("3i", content)[0] for _, kind, content in ancillary if kind == 2
                )
            elif word in ("done", "fail"):
                done, text = word == "done", rest
            else:
                return Outcome(attacker, done, text, int(rest))

    def victim(self, program: Path, canary: str, uid: int = USER) -> Victim:
        """Start a victim that has the canary in its environment."""
        self._control.send(f"start {uid} {program} CANARY={canary}".encode())
        _, ancillary, _, _ = self._control.recvmsg(1024, 256)
        descriptors = array.array("i")
        for _, kind, content in ancillary:
            if kind == socket.SCM_RIGHTS:
                descriptors.frombytes(content[:4])
        stream = socket.socket(fileno=descriptors[0])
        try:
            return Victim(stream)
        except BaseException:
            stream.close()
            raise

    def close(self) -> None:
        """End it, and with the pod's first process all that lives there."""
        self._control.close()
        self.process.wait(SECONDS)
