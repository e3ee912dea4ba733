"""Sources: whom a connection is counted as, and how often each may connect.

Used by the beacon and by a broker that bridges dial (reverse mode). Pure: the caller passes `now`.
"""

from __future__ import annotations

import socket
from typing import Final

_SOURCES_KEPT: Final = 100_000
_MAPPED_V4: Final = "::ffff:"
_NETWORK: Final = "::/64"


def source_of(host: str) -> str:
    """Whom connections from `host` are counted as: the IPv4 address, or the /64 of an IPv6 address. A source
    is its own."""
    if ":" not in host or host.endswith(_NETWORK):
        return host
    if host.startswith(_MAPPED_V4):
        return host[len(_MAPPED_V4) :]
    network = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])[:8]
    return network.hex(":", 2) + _NETWORK


def blurred(host: str) -> str:
    """A source as the log shows it: good enough to find who to call, too coarse to follow one machine."""
    source = source_of(host)
    if ":" in source:
        return ":".join(source.split(":")[:3]) + "::/48"
    return source.rpartition(".")[0] + ".0/24"


class SourceLimiter:
    """New connections per source: `rate` a second after `burst` at once; a leaky bucket in one float each."""

    def __init__(self, rate: float, burst: int) -> None:
        self._gap = 1 / rate
        self._slack = burst / rate
        self._free_at: dict[str, float] = {}  # when the bucket will be empty again

    def __len__(self) -> int:
        return len(self._free_at)

    def admit(self, source: str, now: float) -> float:
        """0 when the source may connect now, else in how many seconds it may."""
        free_at = max(self._free_at.get(source, now), now) + self._gap
        over = free_at - now - self._slack
        if over > 1e-9:
            return over
        if source not in self._free_at and len(self._free_at) >= _SOURCES_KEPT:
            self._free_at.pop(next(iter(self._free_at)))
        self._free_at[source] = free_at
        return 0.0

    def prune(self, now: float) -> None:
        """Forget the sources whose bucket is empty."""
        for source in [source for source, free_at in self._free_at.items() if free_at <= now]:
            del self._free_at[source]
