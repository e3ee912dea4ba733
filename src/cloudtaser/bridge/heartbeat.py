"""This bridge's sign of life in OpenBao, for `source status`: at most once a minute.

Run by `service`. A failed write is retried with the next beat and never stops anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Final

from cloudtaser.errors import CloudtaserError
from cloudtaser.openbao.records import BridgeRecord, Records

EVERY: Final = 60.0
"""Least seconds between two writes; a tenth more at most."""


class Heartbeat:
    """Writes what `describe` says."""

    def __init__(
        self,
        records: Records,
        describe: Callable[[], BridgeRecord],
        on_failed: Callable[[CloudtaserError], None],
        *,
        every: float = EVERY,
    ) -> None:
        self._records = records
        self._describe = describe
        self._on_failed = on_failed
        self._every = every

    async def run(self, stop: asyncio.Event) -> None:
        """Beat until `stop`, the first time at once."""
        while not stop.is_set():
            try:
                await self._records.write_bridge(self._describe())
            except CloudtaserError as error:
                self._on_failed(error)
            pause = self._every * random.uniform(1.0, 1.1)  # noqa: S311  # jitter, not a secret
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await stop.wait()
