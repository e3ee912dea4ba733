"""Revocations: which certificates open no tunnel now, and which will not at a time that is known already.

Used by `station`, told with every poll what the record says. What is to be revoked from some time on is so at
that time, to the second, and not with whatever poll comes after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from cloudtaser.bridge.cluster import Cluster
from cloudtaser.errors import ProtocolError
from cloudtaser.openbao.records import Revoked, seconds

SOON: Final = 3600.0
"""Seconds ahead for which a revocation is timed; what is later is left to later polls."""
_GRAIN: Final = 0.01  # a loop's timer may come a moment early by the wall clock


class Revocations:
    """Keeps `cluster.revoked` right."""

    def __init__(self, cluster: Cluster, now: Callable[[], float], on_change: Callable[[], None]) -> None:
        """`now` is the wall clock, in seconds; `on_change` closes what is revoked."""
        self._cluster = cluster
        self._now = now
        self._on_change = on_change
        self._timer: asyncio.TimerHandle | None = None
        self.outdated: frozenset[int] = frozenset()
        """Serials that are revoked or will be: whoever shows one is to renew."""

    def observe(self, revoked: Revoked) -> None:
        """What the record says. ProtocolError when it holds no serials."""
        now = self._now()
        try:
            current = revoked.numbers(now)
            due = seconds(revoked.pending_from) if revoked.pending_from else now
            self.outdated = revoked.numbers(max(now, due))
        except ValueError:
            raise ProtocolError("the record of revoked serials is damaged") from None
        self._cluster.revoked = current
        self._on_change()
        self.close()
        if 0 < due - now < SOON:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(due - now + _GRAIN, self.observe, revoked)

    def close(self) -> None:
        """Wait for nothing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
