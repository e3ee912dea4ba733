"""Standalone: manager and broker in one process, wired as in a cluster but without one.

Used by `app`, by the demo and by tests. `Standalone(config)`, `await start()`, `address`, `await run(stop)`.
Crash-only: all it keeps is in two ConfigMaps; killed at any moment it comes back by itself.
"""

from __future__ import annotations

import asyncio
import contextlib

from cloudtaser.errors import CloudtaserError, ConfigError, UnavailableError
from cloudtaser.kube.client import KubeApi
from cloudtaser.kube.errors import KubeForbiddenError
from cloudtaser.net.dial import Address
from cloudtaser.net.log import get_logger
from cloudtaser.net.probes import Probes
from cloudtaser.operator.broker import Tap
from cloudtaser.operator.carrier import Carrier
from cloudtaser.operator.config import Config
from cloudtaser.operator.exchanges import local_exchanges
from cloudtaser.operator.key_watch import KeyWatch
from cloudtaser.operator.manager import Manager
from cloudtaser.operator.metrics import Metrics
from cloudtaser.operator.operator_stream import OperatorStreams
from cloudtaser.operator.routes import LinkRoutes

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
        apiserver = Address(self.kube.host, self.kube.port)
        exchanges = local_exchanges(config, self.manager)
        self.carrier = Carrier(config, self.manager, exchanges, apiserver, self.metrics, tap=tap)
        self.tunnels, self.enrol = self.carrier.tunnels, self.carrier.enrol
        self.routes = LinkRoutes(self.tunnels, self.carrier.controls.keys_changed)
        self.operator_streams = OperatorStreams(self.manager, self.metrics.manager)
        self.key_watch = KeyWatch(self.manager.jwks, self.routes.keys_changed)
        self._probes = [
            (Probes(ready=self.is_ready, registry=self.metrics.registry), listen)
            for listen in dict.fromkeys((config.probe_addr, config.metrics_addr))
            if listen is not None
        ]
        self._tasks: list[asyncio.Task[None]] = []
        self.routes.watch(self.operator_streams.serve)

    @property
    def address(self) -> tuple[str, int]:
        """Where pods connect, once started."""
        return self.carrier.broker.address

    def is_ready(self) -> bool:
        """Ready once the pod CA is known; a beacon's outage must not take injection away."""
        return self.manager.pod_ca is not None

    async def start(self) -> None:
        """Listen and begin. Raises CloudtaserError for what a person has to put right."""
        await self._check_fingerprint()
        await self.carrier.start()
        for probes, listen in self._probes:
            await probes.listen(listen.host, listen.port)
        self._tasks = [*self.carrier.tasks, asyncio.ensure_future(self.key_watch.run())]

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
            await self.carrier.drain()
        finally:
            await self.close()
        return 0

    async def close(self) -> None:
        """Stop everything at once; safe at any point after construction."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.operator_streams.close()
        await self.carrier.close()
        for probes, _ in self._probes:
            await probes.close()
        await self.kube.close()

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
