"""Processes: who is who, as /proc and the socket tell; used by `agent` to judge a peer and by `events` to
name one.

Reads of /proc may find the process gone, or another one in its place: whoever needs certainty holds a pidfd
and asks it last (`lives`).
"""

from __future__ import annotations

import hashlib
import os
import re
import select
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SO_PEERPIDFD: Final = 77  # Linux 6.5
_MAX_EXECUTABLE: Final = 512 << 20
_CHUNK: Final = 1 << 20
_NAMESPACES: Final = ("mnt", "pid", "user")

# kubepods/…/pod<uid>/<id>, or with systemd kubepods-…-pod<uid with
# underscores>.slice/cri-containerd-<id>.scope
_POD: Final = re.compile(r"pod([0-9a-fA-F]{8}[-_][0-9a-fA-F_-]{27})(?:\.slice)?(?:/|$)")
_CONTAINER: Final = re.compile(r"([0-9a-f]{64})(?:\.scope)?(?:/|$)")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process runs; empty outside Kubernetes."""

    pod: str = ""
    container: str = ""


def place_of_cgroup(text: str) -> Place:
    """From the content of /proc/PID/cgroup."""
    for line in text.splitlines():
        path = line.rpartition("::")[2] if "::" in line else line.split(":", 2)[-1]
        pod = _POD.search(path)
        if pod:
            container = _CONTAINER.search(path, pod.end())
            return Place(pod[1].replace("_", "-").lower(), container[1] if container else "")
    return Place()


def place(pid: int) -> Place:
    """Where this process runs; nowhere when it is gone."""
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as file:
            return place_of_cgroup(file.read(65536))
    except OSError:
        return Place()


def executable(pid: int) -> str:
    """The path of its executable, as the kernel has it; empty when it cannot be told."""
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


def peer(connection: socket.socket) -> tuple[int, int]:
    """The process at the other end: its number here and a pidfd, which the caller closes.

    Before Linux 6.5 the pidfd is made from the number, so the peer must prove that it still lives (`lives`,
    and that the connection is open). Raises `OSError` when it is gone, or not visible from here.
    """
    pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if pid <= 0:
        raise ProcessLookupError("the peer is in no pid namespace that is visible from here")
    try:
        pid_fd = struct.unpack("i", connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD, 4))[0]
    except OSError:
        pid_fd = os.pidfd_open(pid)
    return pid, pid_fd


def start_ticks(pid: int) -> int:
    """When the process started, in clock ticks after boot; -1 where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return -1
    return int(stat.rpartition(")")[2].split()[19])


def lives(pid_fd: int) -> bool:
    """Whether the process of this pidfd has not ended."""
    poll = select.poll()
    poll.register(pid_fd, select.POLLIN)
    return not poll.poll(0)


@dataclass(frozen=True, slots=True)
class Measure:
    """An executable by content and place."""

    digest: str  # SHA-256, lower-case hex
    device: int
    inode: int
    size: int
    changed: int  # ctime in ns

    @property
    def place(self) -> tuple[int, int, int, int]:
        """By which the same file is known again without reading it."""
        return self.device, self.inode, self.size, self.changed


class Measurer:
    """Measures executables; one that has not changed since is not read again. At most `limit` are
    remembered.
    """

    def __init__(self, limit: int = 1024) -> None:
        self._known: dict[tuple[int, int, int, int], str] = {}
        self._limit = limit

    def measure(self, path: str) -> Measure:
        """Raises `OSError` when it cannot be read, or is no plain file of a reasonable size."""
        with open(path, "rb") as file:
            before = os.fstat(file.fileno())
            if before.st_size > _MAX_EXECUTABLE:
                raise OSError(27, os.strerror(27), path)
            place = (before.st_dev, before.st_ino, before.st_size, before.st_ctime_ns)
            digest = self._known.get(place)
            if digest is None:
                digest = self._read(file.fileno())
                after = os.fstat(file.fileno())
                if (after.st_size, after.st_ctime_ns) != place[2:]:
                    raise OSError(26, os.strerror(26), path)  # ETXTBSY: it changes while we read
                while len(self._known) >= self._limit:
                    del self._known[next(iter(self._known))]
                self._known[place] = digest
        return Measure(digest, *place)

    @staticmethod
    def _read(fd: int) -> str:
        digest = hashlib.sha256()
        while chunk := os.read(fd, _CHUNK):
            digest.update(chunk)
        return digest.hexdigest()


def namespaces(pid: int | str) -> dict[str, int]:
    """The inode numbers of its mount, pid and user namespaces; raises `OSError`."""
    return {name: os.stat(f"/proc/{pid}/ns/{name}").st_ino for name in _NAMESPACES}


def host_namespaces(mounts: int) -> dict[str, int]:
    """The host's: the agent shares its pid and user namespaces; `mounts` is that of process 1."""
    return {**namespaces("self"), "mnt": mounts}
