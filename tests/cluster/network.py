"""The cluster's own network: a network namespace, and one cable from this machine into it.

`node` puts the whole cluster there, so that its packet filter rules, its bridge and its pods' addresses
touch nothing of this machine's, and this machine plays the EU site at the other end of the cable.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path
from typing import Final, Self

from cloudtaser.errors import UnavailableError
from tests.cluster import leftovers

_FIRST: Final = 64  # of the networks 10.87.N.0/30 that are tried
_LAST: Final = 255
_TIMEOUT: Final = 30.0  # seconds
_numbers = itertools.count(1)


class Network:
    """One namespace; `inside` before a command runs it there. Entering makes it, leaving removes it, and
    with it every process in it."""

    def __init__(self, directory: Path) -> None:
        number = next(_numbers)
        self.name = f"ct-cluster-{os.getpid()}-{number}"
        self.here = f"ctc{os.getpid() % 10**7}-{number}"  # an interface's name has 15 letters at most
        self.inside = ["nsenter", f"--net=/run/netns/{self.name}", "--"]
        self.host_address = ""
        self.cluster_address = ""
        self._footprint = leftovers.Footprint.ours(self.name, self.here, directory)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Make the namespace and the cable. Raises UnavailableError, for instance without root."""
        leftovers.sweep()
        with leftovers.alone():
            self._footprint.write()
            try:
                self._make()
            except BaseException:
                self.stop()
                raise

    def stop(self) -> None:
        """Remove it, the cable, the cluster's containers and mounts."""
        leftovers.remove(self._footprint)

    def _make(self) -> None:
        network = self._free_network()
        self.host_address, self.cluster_address = f"{network}.1", f"{network}.2"
        _ip("netns", "add", self.name)
        _ip("link", "add", self.here, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        _ip("addr", "add", f"{self.host_address}/30", "dev", self.here)
        _ip("link", "set", self.here, "up")
        there = ("-n", self.name)
        _ip(*there, "link", "set", "lo", "up")
        _ip(*there, "addr", "add", f"{self.cluster_address}/30", "dev", "eth0")
        _ip(*there, "link", "set", "eth0", "up")
        _ip(*there, "route", "add", "default", "via", self.host_address)
        _run([*self.inside, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"])

    @staticmethod
    def _free_network() -> str:
        taken = _run(["ip", "-4", "-o", "addr", "show"])
        for number in range(_FIRST, _LAST):
            if f" 10.87.{number}." not in taken:
                return f"10.87.{number}"
        raise UnavailableError("no free network for the cluster", on="10.87.0.0/16")


def _ip(*arguments: str) -> None:
    _run(["ip", *arguments])


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT)
    if done.returncode:
        raise UnavailableError(f"{' '.join(command)}: {done.stderr.strip()}", fix="this needs root")
    return done.stdout
