"""Limits: how many requests a pod, a token and a cluster may make.

Used by `session` before anything else is done for a request. Pure: the caller passes `now` (seconds, any
steady clock).
"""

from __future__ import annotations

from typing import Final

from cloudtaser.net.rates import TABLE_SIZE, Buckets, Rate

PEER: Final = Rate(20, 200)
"""One peer address before its token has been seen to work: logins, and guesses."""
TOKEN: Final = Rate(1000, 2000)
CLUSTER: Final = Rate(5000, 10000)
ADMIN: Final = Rate(10, 100)
"""What the administrators of one cluster have stored, or try to."""
_STRANGERS: Final = 10
"""Part of a cluster's rate that its strangers get, whatever addresses its broker gives them: each costs a
check of a signature, and none may use up what the pods that are known need."""


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
