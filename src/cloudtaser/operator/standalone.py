"""Standalone: manager and broker in one process, wired as in a cluster but without one.

Used by `app`, by the demo and by tests. `Standalone(config)`, `await start()`, `address`, `await run(stop)`.
Crash-only: all it keeps is in two ConfigMaps; killed at any moment it comes back by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

from cloudtaser.errors import CloudtaserError, ConfigError, UnavailableError
from cloudtaser.kube.client import KubeApi
from cloudtaser.kube.errors import KubeForbiddenError
from cloudtaser.net.dial import Address
from cloudtaser.net.log import get_logger
from cloudtaser.net.probes import Probes
from cloudtaser.net.tls import beacon_client
from cloudtaser.operator.apiserver import ApiServerStreams
from cloudtaser.operator.beacons import Beacons
from cloudtaser.operator.broker import ADMINS, Broker, Tap
from cloudtaser.operator.config import Config
from cloudtaser.operator.control import Controls
from cloudtaser.operator.enrol import Enrol
from cloudtaser.operator.key_watch import KeyWatch
from cloudtaser.operator.manager import Manager
from cloudtaser.operator.metrics import Metrics
from cloudtaser.operator.operator_stream import OperatorStreams
from cloudtaser.operator.renewal import Renewal
from cloudtaser.operator.reverse_port import ReversePort
from cloudtaser.operator.tunnels import Tunnels
from cloudtaser.version import VERSION

_log = get_logger("operator")


class Standalone:
    """One operator with its broker."""

    def __init__(self, config: Config, *, tap: Tap | None = None) -> None:
        """`tap` sees the pods' bytes; no flag reaches it. ConfigError for a file that cannot be used."""
        self.config = config
        self.metrics = Metrics()
        self.kube = KubeApi(
            config.apiserver,
            ca_file=config.apiserver_ca,
            token_file=config.apiserver_token_file,
            proxies=config.proxies,
        )
        self.manager = Manager(self.kube, config.fingerprint, config.namespace)
        beacon_context = beacon_client(config.beacon_ca, config.beacon_insecure)
        self.reverse = ReversePort.of(config, self.metrics.registry)
        self.beacons = Beacons(
            config.beacons,
            beacon_context,
            config.proxies,
            reverse=self.reverse.rooms if self.reverse else None,
        )
        apiserver = Address(self.kube.host, self.kube.port)
        self.apiserver = ApiServerStreams(
            apiserver, self.metrics, limit=config.limits.apiserver_streams, proxies=config.proxies
        )
        self.tunnels = Tunnels(config.fingerprint, self.beacons, self.apiserver.accept)
        self.broker = Broker(config.listen, config.limits, self.tunnels, self.metrics, tap=tap)
        self.admin = self._admin(config)
        self.operator_streams = OperatorStreams(self.manager, self.metrics)
        self.enrol = Enrol(config, self.manager, self.beacons)
        self.renewal = Renewal(config, self.manager, self.enrol, self.tunnels, self.metrics)
        self.controls = Controls(self.metrics, parked=lambda: self.tunnels.parked, on_renew=self.renewal.hint)
        self.key_watch = KeyWatch(self.manager.jwks, self.controls.keys_changed)
        self._probes = [
            (Probes(ready=self.is_ready, registry=self.metrics.registry), listen)
            for listen in dict.fromkeys((config.probe_addr, config.metrics_addr))
            if listen is not None
        ]
        self._tasks: list[asyncio.Task[None]] = []
        self.tunnels.watch(self.operator_streams.serve)
        self.tunnels.watch(self.controls.serve)
        self.metrics.observe(
            tunnels=lambda: len(self.tunnels.live),
            streams=lambda: sum(link.tunnel.active for link in self.tunnels.links),
            open=lambda: self.broker.open_connections,
            admin_open=lambda: self.admin.open_connections if self.admin else 0,
            beacon_failures=lambda: self.beacons.failures,
        )

    @property
    def address(self) -> tuple[str, int]:
        """Where pods connect, once started."""
        return self.broker.address

    def is_ready(self) -> bool:
        """Ready once the pod CA is known; a beacon's outage must not take injection away."""
        return self.manager.pod_ca is not None

    async def start(self) -> None:
        """Listen and begin. Raises CloudtaserError for what a person has to put right."""
        await self._check_fingerprint()
        await self.broker.start()
        if self.admin is not None:
            await self.admin.start()
        if self.reverse is not None:
            await self.reverse.start()
        for probes, listen in self._probes:
            await probes.listen(listen.host, listen.port)
        self._start(self.tunnels.run())
        self._start(self.renewal.run())
        self._start(self.key_watch.run())
        host, port = self.address
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

    async def run(self, stop: asyncio.Event) -> int:
        """From start to a drained end; the exit status."""
        try:
            await self.start()
            stopping = asyncio.ensure_future(stop.wait())
            done, _ = await asyncio.wait([stopping, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
            if stopping not in done:
                stopping.cancel()
                done.pop().result()  # a task that should never end: its error is the program's
                raise UnavailableError("a part of the operator ended by itself")
            await self.drain()
        finally:
            await self.close()
        return 0

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
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.operator_streams.close()
        await self.controls.close()
        await self.tunnels.drain(0.0)
        await self.broker.close()
        if self.admin is not None:
            await self.admin.close()
        if self.reverse is not None:
            await self.reverse.close()
        await self.apiserver.close()
        for probes, _ in self._probes:
            await probes.close()
        await self.kube.close()

    def _admin(self, config: Config) -> Broker | None:
        """The pipe for administrators, where one is wanted."""
        if config.admin_listen is None:
            return None
        counts = self.metrics.admin
        return Broker(config.admin_listen, config.admin_limits, self.tunnels, counts, clients=ADMINS)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.ensure_future(work))

    async def _check_fingerprint(self) -> None:
        """A wrong fingerprint would wait in an empty room for ever: say so at once, if the cluster tells."""
        try:
            actual = await self.kube.namespace_uid("kube-system")
        except KubeForbiddenError:
            return
        except UnavailableError as error:
            _log.warning("the API server cannot be asked yet", error=error.diagnostic())
            return
        if actual != self.config.fingerprint:
            raise ConfigError(
                f"the fingerprint is not this cluster's, which is {actual}",
                on=self.config.fingerprint,
                fix="use the cluster's own, or the API server of the right cluster",
            )
        with contextlib.suppress(CloudtaserError):
            await self.manager.read_trust()  # injection needs the pod CA, with or without a tunnel
