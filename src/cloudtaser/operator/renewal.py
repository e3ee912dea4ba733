"""Renewal: there is always a certificate for the tunnel, and a new one long before the old one ends.

Used by `standalone`. The first comes from the rooms (`enrol`); at two thirds of its life, or soon after a
bridge says that it is time, the next comes through a stream of kind `renew` in a tunnel that stands, by the
same exchange; when no tunnel can carry it, or when bridges come but refuse the certificate, through the
return room. With each certificate the tunnels are made anew; with it may come the next tunnel CA.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from datetime import datetime
from typing import Final

from cloudtaser.errors import CloudtaserError
from cloudtaser.net.dial import Backoff
from cloudtaser.net.log import get_logger
from cloudtaser.operator.enrol import Enrol
from cloudtaser.operator.exchange import Certified
from cloudtaser.operator.exchanges import Exchanges
from cloudtaser.operator.metrics import Metrics
from cloudtaser.operator.tunnels import Link, Tunnels
from cloudtaser.wire.opening import Kind, Opening

RENEW_AT: Final = 2 / 3
TRIES_THROUGH_TUNNELS: Final = 3
PAUSE: Final = 5.0
"""Least seconds between two certificates."""
DEMAND_PAUSE: Final = 30.0
"""Least seconds between two that bridges caused, by a hint or by refusing what we have."""
HINT_SPREAD: Final = 8.0
"""Within so many seconds a hint is followed: every bridge gives one, and replicas should not come at once."""

_log = get_logger("operator.renewal")


def renewal_time(not_before: datetime, not_after: datetime, spread: float) -> float:
    """Unix time at which to renew: two thirds of the life, up to 5 % of it earlier as `spread` (0…1) says."""
    start, end = not_before.timestamp(), not_after.timestamp()
    return start + (end - start) * (RENEW_AT - 0.05 * spread)


class Renewal:
    """Gives the tunnels their identity, for ever."""

    def __init__(
        self,
        exchanges: Exchanges,
        enrol: Enrol,
        tunnels: Tunnels,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.time,
        pause: float = PAUSE,
        demand_pause: float = DEMAND_PAUSE,
        hint_spread: float = HINT_SPREAD,
    ) -> None:
        """`pause`: least seconds between two certificates, `demand_pause` between two that bridges caused;
        `hint_spread`: most seconds from a hint to its renewal, apart from that."""
        self._pause = pause
        self._demand_pause = demand_pause
        self._demanded_at = float("-inf")
        self._hint_spread = hint_spread
        self._exchanges = exchanges
        self._enrol = enrol
        self._tunnels = tunnels
        self._metrics = metrics
        self._clock = clock
        self._refused = False
        self._hinted: Link | None = None
        self._urgent = asyncio.Event()
        self.current: Certified | None = None
        tunnels.on_rejected = self._on_refused

    def hint(self, link: Link) -> None:
        """The bridge of this link says that there is something new: renew soon, through it."""
        _log.info("a bridge asks for a renewal", bridge=link.bridge)
        self._hinted = link
        self._urgent.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            certified = await self._next()
            self.current = certified
            self._metrics.expiry.set(certified.not_after.timestamp())
            self._tunnels.use(certified.identity, certified.trust)
            await self._until_due(certified)

    def _on_refused(self) -> None:
        self._refused = True
        self._urgent.set()

    async def _next(self) -> Certified:
        preferred, self._hinted = self._hinted, None
        self._urgent.clear()
        if self.current is not None and not self._refused:
            backoff = Backoff(first=1.0)
            for _ in range(TRIES_THROUGH_TUNNELS):
                certified = await self._through_tunnel(self.current, preferred)
                if certified is not None:
                    self._metrics.enrolments.labels("tunnel").inc()
                    return certified
                await asyncio.sleep(backoff.next())
        self._refused = False
        certified = await self._enrol.run()
        self._metrics.enrolments.labels("rooms").inc()
        return certified

    async def _until_due(self, certified: Certified) -> None:
        """Until the certificate is due, or bridges refuse it, or one hints at something new."""
        due = renewal_time(certified.not_before, certified.not_after, random.random())  # noqa: S311
        await asyncio.sleep(self._pause)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, due - self._clock())):
                await self._urgent.wait()
        if not self._urgent.is_set():
            return
        loop = asyncio.get_running_loop()
        wait = self._demanded_at + self._demand_pause - loop.time()
        if not self._refused:
            wait = max(wait, random.uniform(0.0, self._hint_spread))  # noqa: S311  # spreads replicas
        await asyncio.sleep(max(0.0, wait))
        self._demanded_at = loop.time()

    async def _through_tunnel(self, current: Certified, preferred: Link | None) -> Certified | None:
        """The return exchange in a `renew` stream; None when that failed, which is logged."""
        link = self._tunnels.pick(current.trust.operational_room, preferred)
        if link is None:
            _log.info("no tunnel to renew through")
            return None
        exchange = self._exchanges.come_back(current.trust)
        try:
            link.tunnel.open(Opening(Kind.RENEW), exchange)
            certified = await exchange.finish()
        except CloudtaserError as error:
            _log.warning("renewal through a tunnel failed", error=error.diagnostic())
            return None
        finally:
            exchange.close()
        self._enrol.trust = certified.trust
        _log.info("certificate renewed", name=certified.name, until=str(certified.not_after))
        return certified
