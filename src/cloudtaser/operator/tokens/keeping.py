"""Keeping: renews the tokens that pods hold, and revokes each when its pod is gone. Runs on the leader.

Used by `method`. What it knows it reads: the ledger says which tokens are out, the API server which pods are
there. So it makes no difference how long nobody led, or who led before. A watch tells at once that a pod
ended; a sweep each minute finds what the watch missed. Where no token is out, pods are neither listed nor
watched.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeVar

from cloudtaser.errors import CloudtaserError
from cloudtaser.kube.errors import ConflictError, NotFoundError
from cloudtaser.net.dial import Backoff
from cloudtaser.net.log import get_logger
from cloudtaser.operator.enrolment import Reporter
from cloudtaser.operator.tokens.ledger import Entry, Ledger, shard_of
from cloudtaser.operator.tokens.metrics import TokenMetrics
from cloudtaser.operator.tokens.ports import Cluster, PodRef
from cloudtaser.operator.tokens.sweep import Renewals, judge
from cloudtaser.operator.tokens.target import ACCESSOR_ANNOTATION
from cloudtaser.operator.tokens.vault import TokenGoneError, Vault

SWEEP_EVERY: Final = 60.0
AT_A_TIME: Final = 8
_MOST_AT_ONCE: Final = 512
_log = get_logger("operator.tokens")
T = TypeVar("T")


class Keeping:
    """`run` until told to stop, or until the lead is lost (then it is cancelled)."""

    def __init__(
        self,
        cluster: Cluster,
        vault: Vault,
        ledger: Ledger,
        metrics: TokenMetrics,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        sweep_every: float = SWEEP_EVERY,
    ) -> None:
        self._cluster = cluster
        self._vault = vault
        self._ledger = ledger
        self._metrics = metrics
        self._clock = clock
        self._wall = wall
        self._sweep_every = sweep_every
        self._renewals = Renewals()
        self._ended: set[str] = set()
        self._sweep_at = 0.0
        self._wake = asyncio.Event()
        self._needed = asyncio.Event()
        self._backoff = Backoff(first=2.0, limit=30.0)
        self._reporter = Reporter()

    @property
    def tokens(self) -> int:
        """Tokens that are kept alive now."""
        return len(self._renewals)

    def expect(self) -> None:
        """A token was made here: somebody is needed to look after it."""
        self._needed.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Keep them. What cannot be done now is done later; no failure ends it."""
        self._renewals, self._ended = Renewals(), set()
        self._sweep_at = self._clock()
        tasks = [asyncio.ensure_future(work) for work in (self._watch(), self._keep())]
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()  # a task that should never end: its error is the program's
        finally:
            stopping.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(stopping, *tasks, return_exceptions=True)
            self._renewals = Renewals()

    async def _watch(self) -> None:
        backoff = Backoff(first=0.5, limit=15.0)
        while True:
            await self._needed.wait()
            try:
                async with contextlib.aclosing(self._cluster.ended_pods()) as ended:
                    async for uid in ended:
                        backoff.reset()
                        self._note(uid)
            except CloudtaserError as error:
                self._complain("pods cannot be watched", error)
            await asyncio.sleep(backoff.next())
            self._sweep_at = self._clock()  # what ended meanwhile
            self._wake.set()

    def _note(self, uid: str) -> None:
        self._ended.add(uid)
        if len(self._ended) > _MOST_AT_ONCE:  # a sweep costs less
            self._ended.clear()
            self._sweep_at = self._clock()
        self._wake.set()

    async def _keep(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self._attend()
            except CloudtaserError as error:
                self._complain("pods' tokens cannot be looked after", error)
                self._again()
            times = [self._sweep_at, self._renewals.next()]
            due = min(time for time in times if time is not None)
            try:
                async with asyncio.timeout(max(0.0, due - self._clock())):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _attend(self) -> None:
        now = self._clock()
        if now >= self._sweep_at:
            self._sweep_at = now + self._sweep_every
            await self._sweep()
        if self._ended:
            await self._bury()
        due = self._renewals.due(self._clock())[:_MOST_AT_ONCE]
        await _each(due, self._renew)

    async def _sweep(self) -> None:
        self._ended.clear()  # before it looks: what ends from now on is looked at again
        entries = await self._ledger.entries()
        if not entries:
            self._needed.clear()
            self._renewals = Renewals()
            return
        self._needed.set()
        findings = judge(entries, await self._cluster.live_pods(), self._wall())
        self._renewals.follow(findings.kept, self._clock(), self._wall(), random.random())  # noqa: S311
        if findings.gone:
            _log.info("revoking tokens that no pod holds", count=len(findings.gone))
        await _each(findings.gone, self._revoke)
        await _each(findings.annotate.items(), self._annotate)

    async def _bury(self) -> None:
        """Pods that have ended, as the watch says."""
        ended, self._ended = self._ended, set()
        found: list[Entry] = []
        try:
            for name in sorted({shard_of(uid) for uid in ended}):
                found += await self._ledger.shard(name)
        except CloudtaserError:
            self._ended |= ended
            raise
        await _each([entry for entry in found if entry.pod.uid in ended], self._revoke)

    async def _revoke(self, entry: Entry) -> None:
        try:
            await self._vault.revoke(entry.accessor)
            self._metrics.tokens.labels("revoked").inc()
            self._renewals.forget(entry.accessor)
            await self._ledger.remove(entry)
        except CloudtaserError as error:
            self._metrics.tokens.labels("revoking_failed").inc()
            self._complain("a token whose pod is gone was not revoked", error)
            self._again()
        else:
            self._backoff.reset()

    async def _renew(self, entry: Entry) -> None:
        accessor = entry.accessor
        try:
            ttl = await self._vault.renew(accessor)
        except TokenGoneError:  # its wrapper finds out by itself, and asks for another
            self._renewals.forget(accessor)
            _log.info("a pod's token is gone", pod=str(entry.pod), container=entry.container)
            await self._ledger.remove(entry)
        except CloudtaserError as error:
            self._renewals.failed(accessor, self._clock(), random.random())  # noqa: S311
            self._metrics.tokens.labels("renewing_failed").inc()
            self._complain("a pod's token was not renewed", error)
        else:
            self._renewals.renewed(accessor, ttl or entry.ttl, self._clock(), random.random())  # noqa: S311
            self._metrics.tokens.labels("renewed").inc()

    async def _annotate(self, wanted: tuple[PodRef, str]) -> None:
        pod, value = wanted
        try:
            found = await self._cluster.pod(pod.namespace, pod.name)
            metadata = (found or {}).get("metadata") or {}
            if metadata.get("uid") == pod.uid:
                version = str(metadata.get("resourceVersion", ""))
                await self._cluster.annotate(pod, version, {ACCESSOR_ANNOTATION: value})
        except (ConflictError, NotFoundError):
            pass  # the next sweep looks again
        except CloudtaserError as error:
            self._complain("a pod's annotation was not put right", error)

    def _again(self) -> None:
        """Something was left undone: sweep again soon."""
        self._sweep_at = min(self._sweep_at, self._clock() + 1.0 + self._backoff.next())
        self._wake.set()

    def _complain(self, what: str, error: CloudtaserError) -> None:
        if self._reporter.due(f"{what} {error.what}", asyncio.get_running_loop().time()):
            _log.warning(what, error=error.diagnostic())


async def _each(items: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
    """`work` for each, a few at a time."""
    todo = iter(list(items))

    async def worker() -> None:
        for item in todo:
            await work(item)

    await asyncio.gather(*(worker() for _ in range(AT_A_TIME)))
