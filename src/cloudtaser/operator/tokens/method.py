"""The token method as one part: hears announcements, has tokens made, and keeps them while it leads.

Wired by the operator's programs. `start` listens, `run` serves on every replica, `keeping` is the controller
that the leader runs. An announcement is answered once the API server has said whose it is; everything after
that happens behind the answer, and what becomes of it the pod's wrapper and its events show.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry

from cloudtaser.errors import CloudtaserError, ProtocolError
from cloudtaser.kube.events import EventSink
from cloudtaser.net.log import get_logger
from cloudtaser.net.rates import Buckets, Rate
from cloudtaser.operator.enrolment import Reporter
from cloudtaser.operator.settings import Listen
from cloudtaser.operator.tokens.announcement import Refusal, judge, read
from cloudtaser.operator.tokens.credentials import Credentials
from cloudtaser.operator.tokens.door import Door, DoorLimits, Verdict
from cloudtaser.operator.tokens.keeping import SWEEP_EVERY, Keeping
from cloudtaser.operator.tokens.ledger import Ledger
from cloudtaser.operator.tokens.metrics import TokenMetrics
from cloudtaser.operator.tokens.minting import Minting, MintingLimits
from cloudtaser.operator.tokens.ports import Cluster, Identity, Pipe
from cloudtaser.operator.tokens.vault import Vault
from cloudtaser.wire.hashes import short_fingerprint
from cloudtaser.wire.names import unseal_audience

DOUBTED_RATE: Final = Rate(0.5, 10)
"""Announcements from one address that were not believed."""
_REVIEWS: Final = 16

_log = get_logger("operator.tokens")


@dataclass(frozen=True, slots=True)
class Settings:
    """All of it. `source_rate` is for the announcements of one address."""

    fingerprint: str
    listen: Listen
    source_rate: Rate
    sweep_every: float = SWEEP_EVERY
    door: DoorLimits = field(default_factory=DoorLimits)
    minting: MintingLimits = field(default_factory=MintingLimits)


class TokenMethod:
    """One replica's part in the token method."""

    def __init__(
        self,
        settings: Settings,
        cluster: Cluster,
        pipe: Pipe,
        identity: Identity,
        events: EventSink,
        registry: CollectorRegistry,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.metrics = TokenMetrics(registry)
        self._settings = settings
        self._cluster = cluster
        self._clock = clock
        self._audience = unseal_audience(short_fingerprint(settings.fingerprint))
        self._vault = Vault(pipe, identity, clock=clock)
        self._ledger = Ledger(cluster)
        self.credentials = Credentials(self._vault, identity, settings.fingerprint, self.metrics)
        self.keeping = Keeping(
            cluster,
            self._vault,
            self._ledger,
            self.metrics,
            clock=clock,
            wall=wall,
            sweep_every=settings.sweep_every,
        )
        """The leader's controller."""
        self._minting = Minting(
            cluster,
            self._vault,
            self.credentials,
            self._ledger,
            events,
            self.metrics,
            limits=settings.minting,
            on_minted=self.keeping.expect,
            clock=clock,
            wall=wall,
        )
        self._door = Door(
            settings.listen, settings.door, lambda: self.credentials.context, self._hear, self.metrics
        )
        self._sources = Buckets(settings.source_rate)
        self._doubted = Buckets(DOUBTED_RATE)
        self._blocked: dict[str, float] = {}
        self._reviews = asyncio.Semaphore(_REVIEWS)
        self._reporter = Reporter()
        self.metrics.observe(
            announcement_connections=lambda: self._door.connections,
            unsealings_waiting=lambda: self._minting.waiting,
            pod_tokens_out=lambda: self.keeping.tokens,
            seal_certificate_expiry_seconds=lambda: self.credentials.not_after,
        )

    @property
    def address(self) -> tuple[str, int]:
        """Where announcements are heard, once started."""
        return self._door.address

    async def start(self) -> None:
        """Listen. UnavailableError when the address cannot be had."""
        await self._door.start()

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.credentials.run())
            group.create_task(self._minting.run())

    async def close(self) -> None:
        """Hear nobody any more, and give back the operator's own token. After `run` and the controller."""
        await self._door.close()
        await self._ledger.close()
        await self._vault.close()

    async def _hear(self, body: bytes, source: str) -> Verdict:
        """What to answer to one announcement."""
        now = self._clock()
        blocked = self._blocked.get(source, 0.0) - now
        wait = blocked if blocked > 0 else self._sources.take(source, now)
        if wait > 0:
            return Verdict(429, "rate_limited", wait + random.uniform(0.0, 1.0))  # noqa: S311
        try:
            announcement = read(body)
        except ProtocolError as error:
            return self._doubt(source, "malformed", error, 400)
        try:
            async with self._reviews:
                review = await self._cluster.review(announcement.jwt, self._audience)
            announcer = judge(announcement, review, self._audience)
        except Refusal as refusal:
            return self._doubt(source, refusal.reason, refusal, 403)
        except CloudtaserError as error:
            self._complain("announcements cannot be reviewed", error, source)
            return Verdict(503, "review_failed", random.uniform(1.0, 5.0))  # noqa: S311
        wait = self._minting.submit(announcer, announcement)
        if wait:
            return Verdict(503, "busy", wait)
        return Verdict(202, "accepted")

    def _doubt(self, source: str, outcome: str, error: CloudtaserError, status: int) -> Verdict:
        now = self._clock()
        wait = self._doubted.take(source, now)
        if wait:
            if len(self._blocked) >= 4096:
                self._blocked.clear()
            self._blocked[source] = now + wait
        self._complain("an announcement was not believed", error, source)
        return Verdict(status, outcome)

    def _complain(self, what: str, error: CloudtaserError, source: str) -> None:
        if self._reporter.due(f"{what} {error.what}", asyncio.get_running_loop().time()):
            _log.warning(what, source=source, reason=error.diagnostic())
