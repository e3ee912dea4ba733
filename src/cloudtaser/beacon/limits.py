"""Limits: how often a source may connect, what is overdue, how many descriptors there are.

Used by `server`. Pure but for `raise_descriptor_limit`: the caller passes `now`.
"""

from __future__ import annotations

import resource
import socket
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_SOURCES_KEPT: Final = 100_000
_MAPPED_V4: Final = "::ffff:"
DESCRIPTORS_RESERVED: Final = 100


def source_of(host: str) -> str:
    """Whom connections from `host` are counted as: the IPv4 address, or the /64 of an IPv6 address."""
    if ":" not in host:
        return host
    if host.startswith(_MAPPED_V4):
        return host[len(_MAPPED_V4) :]
    network = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])[:8]
    return network.hex(":", 2) + "::/64"


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


class Deadlines(Generic[K]):
    """Things that all have the same time to finish, so that who came first is due first."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._at: dict[K, float] = {}

    def __len__(self) -> int:
        return len(self._at)

    def start(self, thing: K, now: float) -> None:
        """`thing` has from now on its time."""
        self._at.pop(thing, None)
        self._at[thing] = now + self.seconds

    def stop(self, thing: K) -> bool:
        """`thing` is done, or gone; whether it still had time."""
        return self._at.pop(thing, None) is not None

    def overdue(self, now: float) -> list[K]:
        """The things whose time is over; they are no longer kept."""
        late = []
        for thing, at in self._at.items():
            if at > now:
                break
            late.append(thing)
        for thing in late:
            del self._at[thing]
        return late


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one; the limit that holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError):
            pass  # an unlimited hard limit above the kernel's own; what we have is what we use
    return soft if soft > 0 else 1 << 20


def default_max_pairs(descriptors: int) -> int:
    """Half the descriptors, less some for listeners, files and those who are still parked."""
    return max(descriptors // 2 - DESCRIPTORS_RESERVED, 1)
