"""Carrier: everything of the operator that carries bytes: beacons, tunnels, pipes, and their certificate.

Used by `standalone`, with a manager in the same process, and by `broker_container`, with one behind a Unix
socket. It holds no identity at the API server and no token: for enrolment it brings connections, and the
`Exchanges` that it is given run on them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from cloudtaser.net.dial import Address
from cloudtaser.net.log import get_logger
from cloudtaser.net.tls import beacon_client
from cloudtaser.operator.apiserver import ApiServerStreams
from cloudtaser.operator.beacons import Beacons
from cloudtaser.operator.broker import ADMINS, Broker, Tap
from cloudtaser.operator.config import Config
from cloudtaser.operator.control import Controls
from cloudtaser.operator.enrol import Enrol
from cloudtaser.operator.exchanges import Exchanges, TrustReader
from cloudtaser.operator.metrics import Metrics
from cloudtaser.operator.renewal import Renewal
from cloudtaser.operator.reverse_port import ReversePort
from cloudtaser.operator.tunnels import Tunnels
from cloudtaser.version import VERSION

_log = get_logger("operator")


class Carrier:
    """One broker with its tunnels."""

    def __init__(
        self,
        config: Config,
        manager: TrustReader,
        exchanges: Exchanges,
        apiserver: Address,
        metrics: Metrics,
        *,
        tap: Tap | None = None,
    ) -> None:
        """`apiserver`: where streams lead that bridges open. `tap` sees the pods' bytes; no flag reaches it.
        ConfigError for a file that cannot be used."""
        self.config = config
        self.metrics = metrics
        beacon_context = beacon_client(config.beacon_ca, config.beacon_insecure)
        self.reverse = ReversePort.of(config, metrics.registry)
        self.beacons = Beacons(
            config.beacons,
            beacon_context,
            config.proxies,
            reverse=self.reverse.rooms if self.reverse else None,
        )
        self.apiserver = ApiServerStreams(
            apiserver, metrics, limit=config.limits.apiserver_streams, proxies=config.proxies
        )
        self.tunnels = Tunnels(config.fingerprint, self.beacons, self.apiserver.accept)
        self.incidents = self.beacons.incidents
        self.broker = Broker(
            config.listen, config.limits, self.tunnels, metrics, tap=tap, incidents=self.incidents
        )
        self.admin = self._admin(config)
        self.enrol = Enrol(config, manager, self.beacons, exchanges)
        self.renewal = Renewal(exchanges, self.enrol, self.tunnels, metrics)
        self.controls = Controls(metrics, parked=lambda: self.tunnels.parked, on_renew=self.renewal.hint)
        self.tasks: list[asyncio.Task[None]] = []
        self.tunnels.watch(self.controls.serve)
        metrics.observe(
            tunnels=lambda: len(self.tunnels.live),
            streams=lambda: sum(link.tunnel.active for link in self.tunnels.links),
            open=lambda: self.broker.open_connections,
            admin_open=lambda: self.admin.open_connections if self.admin else 0,
            beacon_failures=lambda: self.beacons.failures,
        )

    async def start(self) -> None:
        """Listen and begin. Raises CloudtaserError for what a person has to put right."""
        await self.broker.start()
        if self.admin is not None:
            await self.admin.start()
        if self.reverse is not None:
            await self.reverse.start()
        self._start(self.tunnels.run())
        self._start(self.renewal.run())
        host, port = self.broker.address
        _log.info(
            "started",
            version=VERSION,
            id=self.config.id,
            fingerprint=self.config.fingerprint,
            listen=f"{host}:{port}",
            beacons=[str(address) for address in self.config.beacons],
            reverse=str(self.reverse) if self.reverse else "off",
            proxy=str(self.config.proxies.proxy or "none"),
        )
        if self.config.beacon_insecure:
            _log.warning("beacon certificates are not checked: whoever is on the way sees the rooms' hashes")

    async def drain(self) -> None:
        """Accept no more pods, let those that are here finish within the grace period."""
        _log.info("draining", connections=self.broker.open_connections)
        self.broker.stop_listening()
        if self.admin is not None:
            self.admin.stop_listening()
        if self.reverse is not None:
            self.reverse.drain()
        await self.tunnels.drain(self.config.drain_seconds)

    async def close(self) -> None:
        """Stop everything at once; safe at any point after construction."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.controls.close()
        await self.tunnels.drain(0.0)
        await self.broker.close()
        if self.admin is not None:
            await self.admin.close()
        if self.reverse is not None:
            await self.reverse.close()
        await self.apiserver.close()

    def _admin(self, config: Config) -> Broker | None:
        """The pipe for administrators, where one is wanted."""
        if config.admin_listen is None:
            return None
        counts = self.metrics.admin
        return Broker(
            config.admin_listen,
            config.admin_limits,
            self.tunnels,
            counts,
            clients=ADMINS,
            incidents=self.incidents,
        )

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.ensure_future(work))
