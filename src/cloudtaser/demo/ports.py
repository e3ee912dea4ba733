"""Ports for what the demo and the tests start on loopback."""

from __future__ import annotations

import random
import socket
from pathlib import Path
from typing import Final

from cloudtaser.errors import UnavailableError

_LOWEST: Final = 15_000
_TRIES: Final = 1_000
_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_given: set[int] = set()


def free_port() -> int:
    """A TCP port on loopback that nobody uses, and that no outgoing connection will be given.

    Ports that the kernel hands to outgoing connections are left alone: one of those, free now, may be taken
    by the time somebody listens on it. No port is given twice by one process.
    """
    highest = _first_outgoing() - 1
    for _ in range(_TRIES):
        port = random.randint(_LOWEST, highest)  # noqa: S311  # spreads processes, keeps no secret
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise UnavailableError("no free port on loopback", on=f"{_LOWEST}-{highest}")


def _first_outgoing() -> int:
    try:
        first = int(_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first = 32_768
    return first if first > _LOWEST + _TRIES else 65_536
