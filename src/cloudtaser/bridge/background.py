"""Tasks that nobody waits for: held so that they are not lost, reported when they fail unexpectedly, ended.

Used by `parker`, `tunnels`, `keys` and `service`. Expected failures are the task's own to handle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from cloudtaser.errors import CloudtaserError
from cloudtaser.net.log import get_logger


class Background:
    """The tasks of one owner."""

    __slots__ = ("_log", "_tasks")

    def __init__(self, name: str) -> None:
        """`name` is the logger's."""
        self._log = get_logger(name)
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work`; the task may be awaited or cancelled like any other."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def close(self) -> None:
        """Cancel every task, and wait until each has ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, CloudtaserError):
            self._log.warning("failed", reason=error.diagnostic())
        elif error is not None:
            self._log.error("unexpected failure", exc_info=error)
