"""Serving: the webhook's listener, under certificates that are made here and replaced without a gap.

Used by `manager_container`. Keys are made at each start and kept nowhere. Our Lease (`replica`) says under
which CAs we serve, the leader (`ca_bundle`) tells API servers, `rotation` decides what is served when.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Set
from typing import Final

from aiohttp import web

from cloudtaser.errors import CloudtaserError, UnavailableError
from cloudtaser.net.log import get_logger
from cloudtaser.net.tls import load_identity, reason
from cloudtaser.operator.enrolment import Reporter
from cloudtaser.operator.metrics import ManagerMetrics
from cloudtaser.operator.replica import Replica
from cloudtaser.operator.rotation import Rotation
from cloudtaser.operator.serving_door import ConnectionLimits, DoorSite, ServingDoor, heard
from cloudtaser.operator.settings import Listen

LIFETIME: Final = 7 * 24 * 3600.0
"""Seconds that a certificate is good for; the next is served after two thirds."""
RENEW_SECONDS: Final = 10.0
"""Between two times that we say in our Lease that we live."""
TICK_SECONDS: Final = 1.0
GRACE_SECONDS: Final = 10.0
"""For reviews that are under way when we stop."""

_log = get_logger("operator.serving")


class Serving:
    """One replica's listener."""

    def __init__(
        self,
        application: web.Application,
        listen: Listen,
        rotation: Rotation,
        replica: Replica,
        known: Callable[[], Set[str]],
        metrics: ManagerMetrics,
        *,
        clock: Callable[[], float] = time.time,
        limits: ConnectionLimits = ConnectionLimits(),
    ) -> None:
        """`known`: ids of the CAs that the leader has put in place."""
        self._listen = listen
        self._rotation = rotation
        self._replica = replica
        self._known = known
        self._metrics = metrics
        self._clock = clock
        self._context = _context()
        self._door = ServingDoor(limits, self._context, metrics)
        application.middlewares.append(heard)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=GRACE_SECONDS)
        self._site: DoorSite | None = None
        self._reporter = Reporter()
        self._said = ""
        self._said_at = float("-inf")

    @property
    def ready(self) -> bool:
        """Whether we serve, and API servers know under which CA."""
        return self._site is not None and self._rotation.confirmed

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, once started."""
        host, port = self._runner.addresses[0][:2]
        return str(host), int(port)

    @property
    def connections(self) -> int:
        """Open now."""
        return self._door.connections

    @property
    def ca(self) -> str:
        """The CA above the certificate that is served, PEM."""
        return self._rotation.current.ca_pem

    @property
    def expires(self) -> float:
        """Unix time at which the certificate that is served ends."""
        return self._rotation.current.not_after

    def renew(self) -> None:
        """Rotate now, whatever the certificate's age."""
        self._rotation.renew()

    async def start(self) -> None:
        """Listen. UnavailableError when the address cannot be had."""
        self._use()
        await self._runner.setup()
        site = DoorSite(self._runner, self._listen, self._door)
        try:
            await site.start()
        except OSError as error:
            raise UnavailableError(
                f"cannot listen for the API server: {reason(error)}",
                on=str(self._listen),
                fix="choose another --webhook-listen",
            ) from None
        self._site = site

    async def run(self) -> None:
        """Keep Lease and certificate, until cancelled."""
        while True:
            if self._rotation.tick(self._clock(), self._known()):
                self._use()
                _log.info("the webhook has a new certificate", ca=self._rotation.current.ca_id)
            await self._say()
            await asyncio.sleep(TICK_SECONDS)

    async def stop(self) -> None:
        """Accept no more, let reviews that are under way finish, and say that we are gone."""
        if self._site is None:
            await self._runner.cleanup()
            return
        await self._runner.cleanup()
        self._site = None
        try:
            async with asyncio.timeout(GRACE_SECONDS / 2):
                await self._replica.leave()
        except (CloudtaserError, TimeoutError):
            return  # the leader finds out

    async def _say(self) -> None:
        published, now = self._rotation.published, asyncio.get_running_loop().time()
        if published == self._said and now < self._said_at + RENEW_SECONDS:
            return
        try:
            await self._replica.say(published)
            self._said, self._said_at = published, now
        except CloudtaserError as error:
            if self._reporter.due(error.what, now):
                _log.warning("we cannot say that we live", error=error.diagnostic())

    def _use(self) -> None:
        current = self._rotation.current
        load_identity(self._context, current.identity)
        self._metrics.webhook_expiry.set(current.not_after)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    return context
