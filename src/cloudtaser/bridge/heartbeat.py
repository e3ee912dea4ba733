"""This bridge's sign of life in OpenBao, for `source status`: at most once a minute.

Run by `service`. A failed write is retried with the next beat and never stops anything. What else is written
now and then goes out behind each beat (`after`).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Final

from cloudtaser.errors import CloudtaserError
from cloudtaser.openbao.records import BridgeRecord, Records

EVERY: Final = 60.0
"""Least seconds between two writes; a tenth more at most, and none once something has changed that a person
may be waiting to see."""

SETTLE: Final = 2.0
"""Seconds before the first: a bridge that has just started has no tunnel, and would say so for a minute."""


class Heartbeat:
    """Writes what `describe` says."""

    def __init__(
        self,
        records: Records,
        describe: Callable[[], BridgeRecord],
        on_failed: Callable[[CloudtaserError], None],
        *,
        after: Callable[[], Awaitable[None]] | None = None,
        every: float = EVERY,
        settle: float = SETTLE,
    ) -> None:
        self._records = records
        self._describe = describe
        self._on_failed = on_failed
        self._after = after
        self._every = every
        self._settle = settle
        self._wanted = asyncio.Event()

    def soon(self) -> None:
        """Something has changed: beat as early as the rate allows."""
        self._wanted.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Beat until `stop`, the first time once things have settled."""
        await _wait(stop, self._settle)
        while not stop.is_set():
            self._wanted.clear()
            try:
                await self._records.write_bridge(self._describe())
            except CloudtaserError as error:
                self._on_failed(error)
            if self._after is not None:
                await self._after()
            await _wait(stop, self._every)
            jitter = random.uniform(0.0, 0.1)  # noqa: S311  # not a secret
            if not stop.is_set():
                await _wait(self._wanted, self._every * jitter)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
