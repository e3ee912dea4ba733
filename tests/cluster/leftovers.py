"""What a cluster has on this machine beyond its processes, and how it is removed.

`node` writes a `Footprint` down before it makes anything, and removes it at its end; should it be killed
first, the next start (or `make cluster-down`) finds the record of an owner that is no more, and does it then.
A killed owner's programs are ended by the guard that `PartProcess` tells of them, but containers and their
shims are nobody's children, and mounts, network namespaces and control groups outlive every process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_RECORDS: Final = Path("/run/cloudtaser-clusters")
_CONTROL_GROUPS: Final = Path("/sys/fs/cgroup")
_CONTAINERS: Final = "/k8s.io/"  # containerd's namespace for Kubernetes
_END_TIMEOUT: Final = 20.0  # seconds
_COMMAND_TIMEOUT: Final = 30.0


@dataclass(frozen=True, slots=True)
class Footprint:
    """Names that belong to one cluster alone, and the process that keeps it."""

    name: str
    """Of the network namespace."""
    cable: str
    """The network interface on this machine's side."""
    directory: str
    owner: int
    owner_started: str

    @classmethod
    def ours(cls, name: str, cable: str, directory: Path) -> Footprint:
        """Of this process."""
        return cls(name, cable, str(directory), os.getpid(), start_time(os.getpid()))

    @property
    def record(self) -> Path:
        """Where it is written down."""
        return _RECORDS / f"{self.name}.json"

    def write(self) -> None:
        """Before anything of it exists."""
        new = self.record.with_suffix(".new")
        new.write_text(json.dumps(dataclasses.asdict(self)))
        new.rename(self.record)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """No other process takes a network's address or sweeps meanwhile."""
    _RECORDS.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (_RECORDS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def sweep() -> list[str]:
    """Remove what killed owners left; the names of their clusters."""
    with alone():
        dead = [
            footprint
            for record in _RECORDS.glob("*.json")
            if not _lives(footprint := Footprint(**json.loads(record.read_text())))
        ]
        for footprint in dead:
            remove(footprint)
    return [footprint.name for footprint in dead]


def remove(footprint: Footprint) -> None:
    """End every process in the cluster's namespace and what descends from it, then what they leave."""
    deadline = time.monotonic() + _END_TIMEOUT
    groups: set[Path] = set()
    while (processes := _processes(footprint.name)) and time.monotonic() < deadline:
        groups.update(_containers_groups(processes))
        _kill(processes)
    for mount in sorted(mounts_below(Path(footprint.directory)), reverse=True):
        _run("umount", "--lazy", mount)
    _run("ip", "netns", "del", footprint.name)
    _run("ip", "link", "del", footprint.cable)
    for group in groups:
        for directory, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(directory)
    shutil.rmtree(Path(footprint.directory) / "containerd", ignore_errors=True)  # images, unpacked
    footprint.record.unlink(missing_ok=True)


def mounts_below(directory: Path) -> list[str]:
    """Where something is mounted below `directory`, and at it."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    places = {line.split()[1] for line in lines}
    return [place for place in places if place == str(directory) or place.startswith(f"{directory}/")]


def start_time(process: int) -> str:
    """In clock ticks since boot: with the number it names a process for good. "" once it has ended, even if
    nobody has asked for its status yet."""
    try:
        fields = _stat(Path(f"/proc/{process}"))
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _stat(directory: Path) -> list[str]:
    """The fields of /proc/PID/stat behind the name: state, parent and so on (proc(5))."""
    return (directory / "stat").read_text().rpartition(")")[2].split()


def _lives(footprint: Footprint) -> bool:
    return start_time(footprint.owner) == footprint.owner_started


def _processes(name: str) -> set[int]:
    """In the network namespace: the programs and the containers' shims. And their children's children, the
    containers, which have namespaces of their own."""
    parents: dict[int, int] = {}
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            parents[int(directory.name)] = int(_stat(directory)[1])
    found = {int(word) for word in _run("ip", "netns", "pids", name).split()}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _containers_groups(processes: Iterable[int]) -> Iterator[Path]:
    """containerd has a control group for each container (in version 1 one in each hierarchy)."""
    for process in processes:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{process}/cgroup").read_text().splitlines():
                _, hierarchy, path = line.split(":", 2)
                if path.startswith(_CONTAINERS):
                    place = hierarchy.removeprefix("name=") if hierarchy else "unified"
                    yield from (
                        root / path.lstrip("/") for root in (_CONTROL_GROUPS / place, _CONTROL_GROUPS)
                    )


def _kill(processes: Iterable[int]) -> None:
    waiting = select.poll()
    descriptors = []
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(process)
            descriptors.append(descriptor)
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            waiting.register(descriptor, select.POLLIN)
    for _ in descriptors:
        if not waiting.poll(1000):
            break
    for descriptor in descriptors:
        os.close(descriptor)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT)
    return done.stdout
