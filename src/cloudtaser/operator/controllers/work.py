"""Work: brings keys to a reconciler, each at one place at a time, again after a failure or when it wishes.

Used by every controller. What is failing waits with full jitter; what changes meanwhile is looked at once
more. Everything waiting is bounded by the number of objects.
"""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Awaitable, Callable
from pathlib import PurePath
from typing import Final

from cloudtaser.errors import CloudtaserError
from cloudtaser.kube.watch import Changes, Key
from cloudtaser.net.dial import Backoff
from cloudtaser.net.log import get_logger

FIRST_DELAY: Final = 0.5
LAST_DELAY: Final = 120.0
"""Seconds between two tries of one key, at most."""

_log = get_logger("operator.controllers")

Reconcile = Callable[[Key], Awaitable[float | None]]
"""Brings one object to where it should be; seconds until the next look, None for no further one. Raises
CloudtaserError to be tried again; what else it raises is a fault, logged and tried again as well."""


def described(fault: Exception) -> str:
    """A fault of the operator's own in one line: its kind and where it is. Its text may be a tenant's."""
    last = traceback.extract_tb(fault.__traceback__, limit=-1)
    where = f" at {PurePath(last[0].filename).name}:{last[0].lineno}" if last else ""
    return f"a fault of the operator's own: {type(fault).__name__}{where}"


class Work:
    """One controller's keys."""

    def __init__(self, name: str, reconcile: Reconcile, *, workers: int = 2) -> None:
        self._name = name
        self._reconcile = reconcile
        self._workers = workers
        self._pending: dict[Key, None] = {}
        self._running: set[Key] = set()
        self._again: set[Key] = set()
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._backoffs: dict[Key, Backoff] = {}
        self._wake = asyncio.Event()

    def add(self, key: Key) -> None:
        """Look at this one, soon."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        if key in self._running:
            self._again.add(key)
        else:
            self._pending[key] = None
            self._wake.set()

    async def run(self, stop: asyncio.Event, changes: Changes) -> None:
        """Work off what `changes` brings until `stop`; an object that is being looked at then is let be."""
        tasks = [asyncio.ensure_future(self._feed(changes)), asyncio.ensure_future(stop.wait())]
        tasks += [asyncio.ensure_future(self._worker()) for _ in range(self._workers)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for timer in self._timers.values():
                timer.cancel()
            self._timers.clear()
        for task in done:
            task.result()

    async def _feed(self, changes: Changes) -> None:
        while True:
            self.add(await changes.next())

    async def _worker(self) -> None:
        while True:
            while not self._pending:
                self._wake.clear()
                await self._wake.wait()
            key = next(iter(self._pending))
            del self._pending[key]
            self._running.add(key)
            try:
                delay = await self._look(key)
            finally:
                self._running.discard(key)
            if key in self._again:
                self._again.discard(key)
                self.add(key)
            elif delay is not None:
                self._later(key, delay)

    async def _look(self, key: Key) -> float | None:
        try:
            delay = await self._reconcile(key)
        except CloudtaserError as error:
            return self._failed(key, error.diagnostic())
        except Exception as fault:  # noqa: BLE001  # one object must not end the work on all others
            return self._failed(key, described(fault))
        self._backoffs.pop(key, None)
        return None if delay is None else delay * random.uniform(0.9, 1.1)  # noqa: S311  # spreads load

    def _failed(self, key: Key, error: str) -> float:
        """Say so; seconds until the next try."""
        delay = self._backoffs.setdefault(key, Backoff(FIRST_DELAY, LAST_DELAY)).next()
        _log.warning(
            "not done yet",
            controller=self._name,
            namespace=key[0],
            name=key[1],
            error=error,
            again_in=round(delay, 1),
        )
        return delay

    def _later(self, key: Key, delay: float) -> None:
        former = self._timers.get(key)
        if former is not None:
            former.cancel()
        self._timers[key] = asyncio.get_running_loop().call_later(delay, self.add, key)
