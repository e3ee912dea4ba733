"""Limits: how many requests a pod, a token and a cluster may make.

Used by `session` before anything else is done for a request. Each key has a bucket that refills at a steady
rate (the generic cell rate algorithm: one number per key). Tables are bounded; forgotten first is what
was not seen for longest, which by then has a full bucket anyway. Pure: the caller passes `now` (seconds, any
steady clock).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

from cloudtaser.errors import ConfigError

TABLE_SIZE: Final = 65536
_MOST: Final = 1e6


@dataclass(frozen=True, slots=True)
class Rate:
    """`burst` requests at once, then `per_second`."""

    per_second: float
    burst: float

    def __post_init__(self) -> None:
        if not (0 < self.per_second <= _MOST and 1 <= self.burst <= _MOST):
            raise ValueError("a rate needs a positive speed and a burst of at least one")

    @classmethod
    def parse(cls, text: str) -> Rate:
        """`20/200`: twenty a second, two hundred at once. ConfigError for anything else."""
        speed, slash, burst = text.partition("/")
        try:
            if slash:
                return cls(float(speed), float(burst))
        except ValueError:
            pass
        raise ConfigError(f"{text!r} is no rate", fix="requests a second and at once, as 20/200")

    def __str__(self) -> str:
        return f"{self.per_second:g}/{self.burst:g}"


PEER: Final = Rate(20, 200)
"""One peer address before its token has been seen to work: logins, and guesses."""
TOKEN: Final = Rate(1000, 2000)
CLUSTER: Final = Rate(5000, 10000)
ADMIN: Final = Rate(10, 100)
"""What the administrators of one cluster have stored, or try to."""
_STRANGERS: Final = 10
"""Part of a cluster's rate that its strangers get, whatever addresses its broker gives them: each costs a
check of a signature, and none may use up what the pods that are known need."""


class Buckets:
    """One bucket per key, at most `size` of them."""

    __slots__ = ("_interval", "_size", "_slack", "_spent")

    def __init__(self, rate: Rate, size: int = TABLE_SIZE) -> None:
        self._interval = 1 / rate.per_second
        self._slack = (rate.burst - 1) * self._interval
        self._size = size
        self._spent: OrderedDict[Hashable, float] = OrderedDict()

    def take(self, key: Hashable, now: float) -> float:
        """0.0 and one request less for `key`, or the seconds after which to come back."""
        spent = self._spent
        full_at = spent.get(key, now)
        if full_at < now:
            full_at = now
        wait = full_at - now - self._slack
        if wait > 1e-9:
            return wait
        spent[key] = full_at + self._interval
        spent.move_to_end(key)
        if len(spent) > self._size:
            spent.popitem(last=False)
        return 0.0

    def __len__(self) -> int:
        return len(self._spent)


class Limits:
    """The three limits together. `take_…` answers 0.0 to go ahead, or the seconds after which to retry."""

    __slots__ = ("_clusters", "_peers", "_strangers", "_tokens")

    def __init__(
        self, *, peer: Rate = PEER, token: Rate = TOKEN, cluster: Rate = CLUSTER, size: int = TABLE_SIZE
    ) -> None:
        self._peers = Buckets(peer, size)
        self._tokens = Buckets(token, size)
        self._clusters = Buckets(cluster, size)
        strangers = Rate(cluster.per_second / _STRANGERS, max(1, cluster.burst / 2))
        self._strangers = Buckets(strangers, size)

    def take_stranger(self, fingerprint: str, peer: str, now: float) -> float:
        """A request without a token that is known to work, from `peer` (host:port; the port counts not)."""
        return (
            self._peers.take((fingerprint, _host(peer)), now)
            or self._strangers.take(fingerprint, now)
            or self._clusters.take(fingerprint, now)
        )

    def take_holder(self, fingerprint: str, token_hash: bytes, now: float) -> float:
        """A request under a token that has worked before."""
        return self._tokens.take(token_hash, now) or self._clusters.take(fingerprint, now)


def _host(peer: str) -> str:
    host, colon, _ = peer.rpartition(":")
    return host if colon else peer
