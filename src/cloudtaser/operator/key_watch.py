"""The key watch: notices that the API server signs with other keys, so that bridges hear of it at once.

Used by `standalone`. A bridge reads the keys itself, through the tunnel, every few minutes and when it meets
a token it cannot check; the hint only makes that sooner. It is the manager's work: the broker has no token.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

from cloudtaser.errors import CloudtaserError
from cloudtaser.net.log import get_logger
from cloudtaser.operator.enrolment import Reporter

EVERY: Final = 180.0
"""Seconds between two looks, give or take a fifth."""

_log = get_logger("operator.key_watch")


class KeyWatch:
    """Looks until cancelled."""

    def __init__(
        self,
        read: Callable[[], Awaitable[dict[str, Any]]],
        on_change: Callable[[], None],
        *,
        every: float = EVERY,
    ) -> None:
        """`read` gives the JWKS; `on_change` is called when it is another one than at the look before."""
        self._read = read
        self._on_change = on_change
        self._every = every
        self._reporter = Reporter()
        self._seen = ""

    async def run(self) -> None:
        """Until cancelled; an API server that is away is asked again at the next look."""
        while True:
            try:
                self._look(await self._read())
            except CloudtaserError as error:
                if self._reporter.due(error.what, asyncio.get_running_loop().time()):
                    _log.warning("cannot read the cluster's signing keys", error=error.diagnostic())
            await asyncio.sleep(self._every * random.uniform(0.8, 1.2))  # noqa: S311  # spreads replicas

    def _look(self, jwks: dict[str, Any]) -> None:
        seen = json.dumps(jwks, sort_keys=True)
        before, self._seen = self._seen, seen
        if before and before != seen:
            _log.info("the cluster's signing keys changed")
            self._on_change()
