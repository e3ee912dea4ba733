"""The entrance: whether an accepted connection may come in, and as whom it is counted.

Used by `server`, between the door and the pump. A connection is one of its own address, or, from a balancer
on the list, of the address in the PROXY header that it begins with. How often a source may connect, and how
many connections it may have at a time, is decided here.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cloudtaser.beacon.config import BeaconConfig
from cloudtaser.beacon.limits import Deadlines
from cloudtaser.beacon.log import Log
from cloudtaser.beacon.metrics import Counts
from cloudtaser.beacon.proxy_header import missing, parse
from cloudtaser.beacon.values import Network
from cloudtaser.errors import ProtocolError
from cloudtaser.wire.sources import SourceLimiter, blurred, source_of

COURTEOUS_REFUSALS: Final = 100
"""A second: who is over a limit beyond that is closed without a handshake."""

Admit = Callable[[socket.socket, str, float, int | None], None]


@dataclass(slots=True, eq=False)
class _Waiting:
    """A balancer's connection whose header is not whole yet."""

    sock: socket.socket
    host: str
    header: bytes = b""


class Entrance:
    """`admit` takes a socket, whom it is from, the time, and either None or, for one that is to be refused,
    after how many milliseconds it may come back. `full`: no descriptor is left for one more."""

    def __init__(
        self, config: BeaconConfig, counts: Counts, log: Log, admit: Admit, full: Callable[[], bool]
    ) -> None:
        self._balancers = config.proxy_protocol_from
        self._max_per_source = config.max_per_source
        self._counts = counts
        self._log = log
        self._admit = admit
        self._full = full
        self._rate = SourceLimiter(config.source_rate, config.source_burst)
        self._courtesy = SourceLimiter(COURTEOUS_REFUSALS, COURTEOUS_REFUSALS)
        self._present: Counter[str] = Counter()
        self._waiting: Deadlines[_Waiting] = Deadlines(config.handshake_timeout)
        self._headers: set[_Waiting] = set()

    @property
    def waiting(self) -> int:
        """Connections of balancers whose header is not whole yet."""
        return len(self._headers)

    def welcome(self, sock: socket.socket, host: str, now: float) -> None:
        """A connection was accepted: let it in, have it refused, or close it."""
        self._counts.accepted += 1
        if self._full():
            self._counts.limit_hits["descriptors"] += 1
            sock.close()
            return
        sock.setblocking(False)
        if self._balancers and listed(host, self._balancers):
            waiting = _Waiting(sock, host)
            self._headers.add(waiting)
            self._waiting.start(waiting, now)
            asyncio.get_running_loop().add_reader(sock.fileno(), self._readable, waiting)
        else:
            self._enter(sock, host, now)

    def left(self, host: str) -> None:
        """A connection that was admitted as `host`'s is closed."""
        source = source_of(host)
        self._present[source] -= 1
        if self._present[source] <= 0:
            del self._present[source]

    def overdue(self, now: float) -> None:
        """Close the connections whose header did not come in time."""
        for waiting in self._waiting.overdue(now):
            self._counts.limit_hits["handshake-timeout"] += 1
            self._turn_away(waiting, "late")

    def prune(self, now: float) -> None:
        """Forget the sources that have not come for a while."""
        self._rate.prune(now)

    def close(self) -> None:
        """Close whoever still waits."""
        for waiting in list(self._headers):
            self._forget(waiting)
            waiting.sock.close()

    def _enter(self, sock: socket.socket, host: str, now: float) -> None:
        source = source_of(host)
        verdict: int | None = None
        wait = self._rate.admit(source, now)
        if wait:
            verdict = math.ceil(wait * 1000)
            self._counts.limit_hits["source-rate"] += 1
            self._log.warning("too many new connections", source=blurred(host))
        elif self._present[source] >= self._max_per_source:
            verdict = 0
            self._counts.limit_hits["max-per-source"] += 1
            self._log.warning("too many connections at a time", source=blurred(host))
        if verdict is not None and self._courtesy.admit("", now):
            sock.close()
            return
        self._present[source] += 1
        self._admit(sock, host, now, verdict)

    def _readable(self, waiting: _Waiting) -> None:
        try:
            while wanted := missing(waiting.header):
                data = waiting.sock.recv(wanted)
                if not data:
                    self._turn_away(waiting, "left")
                    return
                waiting.header += data
            host = parse(waiting.header)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._turn_away(waiting, "left")
            return
        except ProtocolError as error:
            self._log.warning("a balancer's connection without a PROXY header", reason=error.what)
            self._turn_away(waiting, "bad")
            return
        self._forget(waiting)
        self._counts.proxy_headers["local" if host is None else "ok"] += 1
        self._enter(waiting.sock, host or waiting.host, time.monotonic())

    def _turn_away(self, waiting: _Waiting, result: str) -> None:
        self._counts.proxy_headers[result] += 1
        self._forget(waiting)
        waiting.sock.close()

    def _forget(self, waiting: _Waiting) -> None:
        self._headers.discard(waiting)
        self._waiting.stop(waiting)
        asyncio.get_running_loop().remove_reader(waiting.sock.fileno())


def listed(host: str, networks: tuple[Network, ...]) -> bool:
    """Whether an address of a connection lies in one of the networks."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return any(address.ipv4_mapped in network for network in networks)
    return any(address in network for network in networks)
