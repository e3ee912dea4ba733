"""ManagerContainer: `cloudtaser-operator manager`, the side of the operator with an identity in the cluster.

Made by `app`. It answers its broker over a Unix socket, supplies bridges with what they need to check pods'
tokens, and runs the controllers while this replica leads. Crash-only: all it keeps lies in the cluster.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry

from cloudtaser.errors import CloudtaserError, UnavailableError
from cloudtaser.kube.client import KubeApi
from cloudtaser.kube.errors import KubeUnavailableError
from cloudtaser.kube.events import EventRecorder
from cloudtaser.net.dial import Backoff
from cloudtaser.net.log import get_logger
from cloudtaser.net.probes import Probes
from cloudtaser.operator.enrolment import Reporter
from cloudtaser.operator.key_watch import KeyWatch
from cloudtaser.operator.leadership import Leadership
from cloudtaser.operator.manager import Manager
from cloudtaser.operator.manager_config import ManagerConfig
from cloudtaser.operator.manager_door import ManagerDoor
from cloudtaser.operator.metrics import ManagerMetrics
from cloudtaser.operator.operator_stream import OperatorStreams
from cloudtaser.operator.remote_routes import RemoteRoutes
from cloudtaser.operator.seam import BROKER_SOCKET, MANAGER_SOCKET
from cloudtaser.operator.tokens.kube import KubeCluster
from cloudtaser.operator.tokens.method import Settings as TokenSettings
from cloudtaser.operator.tokens.method import TokenMethod
from cloudtaser.version import VERSION

TRUST_SECONDS: Final = 30.0
"""Between two looks at the stored pod CA: another replica may have stored it, or the next one."""

_log = get_logger("operator")


class ManagerContainer:
    """One manager, whose broker is in the other container."""

    def __init__(self, config: ManagerConfig) -> None:
        """ConfigError for a file that cannot be used."""
        self.config = config
        self.metrics = ManagerMetrics(CollectorRegistry())
        self.kube = KubeApi(
            config.apiserver, ca_file=config.apiserver_ca, token_file=config.apiserver_token_file
        )
        self.leadership = Leadership(
            self.kube,
            config.namespace,
            f"{config.id}_{os.urandom(4).hex()}",
            seconds=config.lease_seconds,
        )
        self.events = EventRecorder(self.kube, instance=config.id)
        self.leadership.on_change = lambda held: self.metrics.leader.set(float(held))
        self.routes = (
            RemoteRoutes(str(Path(config.sockets) / BROKER_SOCKET), config.broker_uid)
            if config.sockets
            else None
        )
        self.manager: Manager | None = None
        self._door: ManagerDoor | None = None
        self._streams: OperatorStreams | None = None
        self._tokens: TokenMethod | None = None
        self._probes = [
            (Probes(ready=self.is_ready, registry=self.metrics.registry), listen)
            for listen in dict.fromkeys((config.probe_addr, config.metrics_addr))
            if listen is not None
        ]
        self._tasks: list[asyncio.Task[None]] = []
        self._leading: asyncio.Task[None] | None = None
        self._draining = False

    def is_ready(self) -> bool:
        """Ready once the pod CA is known; a beacon's outage must not take injection away."""
        known = self.manager is not None and (self.routes is None or self.manager.pod_ca is not None)
        return known and not self._draining

    async def run(self, stop: asyncio.Event) -> int:
        """From start to a drained end; the exit status."""
        stopping = asyncio.ensure_future(stop.wait())
        try:
            for probes, listen in self._probes:
                await probes.listen(listen.host, listen.port)
            learning = asyncio.ensure_future(self._fingerprint())
            await asyncio.wait([stopping, learning], return_when=asyncio.FIRST_COMPLETED)
            if not learning.done():
                learning.cancel()
                await asyncio.gather(learning, return_exceptions=True)
                return 0
            await self._start(learning.result(), stop)
            done, _ = await asyncio.wait([stopping, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
            if not stop.is_set():
                done.pop().result()  # a task that should never end: its error is the program's
                raise UnavailableError("a part of the manager ended by itself")
            await self._drain()
        finally:
            stopping.cancel()
            await self.close()
        return 0

    async def close(self) -> None:
        """Stop everything at once."""
        tasks = [*self._tasks, *([self._leading] if self._leading else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._tokens is not None:
            await self._tokens.close()
        if self._streams is not None:
            await self._streams.close()
        if self._door is not None:
            await self._door.close()
        for probes, _ in self._probes:
            await probes.close()
        await self.kube.close()

    async def _start(self, fingerprint: str, stop: asyncio.Event) -> None:
        config = self.config
        manager = Manager(
            self.kube,
            fingerprint,
            config.namespace,
            bridge_pin=config.bridge_pin,
            info_hash=config.info_hash,
        )
        self.manager = manager
        if config.sockets is not None and self.routes is not None:
            self._streams = OperatorStreams(manager, self.metrics)
            self.routes.watch(self._streams.serve)
            self._door = ManagerDoor(str(Path(config.sockets) / MANAGER_SOCKET), config.broker_uid, manager)
            await self._door.start()
            self._run(self.routes.run())
            self._run(KeyWatch(manager.jwks, self.routes.keys_changed).run())
            self._run(self._watch_trust(manager))
        self._run(self.events.run(stop))
        await self._start_tokens(fingerprint, manager)
        self._leading = asyncio.ensure_future(self.leadership.run(stop))
        _log.info(
            "started",
            version=VERSION,
            id=config.id,
            fingerprint=fingerprint,
            namespace=config.namespace,
            apiserver=config.apiserver,
        )

    async def _start_tokens(self, fingerprint: str, manager: Manager) -> None:
        """The token method: heard by every replica, kept by the leader."""
        config = self.config
        if config.unseal_listen is None:
            return
        self._tokens = TokenMethod(
            TokenSettings(fingerprint, config.unseal_listen, config.unseal_rate),
            KubeCluster(self.kube, config.namespace),
            self._pipe,
            manager,
            self.events,
            self.metrics.registry,
        )
        await self._tokens.start()
        self._run(self._tokens.run())
        self.leadership.add("tokens", self._tokens.keeping)

    async def _pipe(self, protocol: asyncio.Protocol) -> None:
        live = self.routes.live if self.routes else []
        if not live:
            raise UnavailableError("no tunnel to a bridge is up")
        await live[0].open(protocol)

    async def _drain(self) -> None:
        """Not ready from now on; leadership is released by who holds it."""
        self._draining = True
        _log.info("draining")
        if self._leading is not None:
            await asyncio.wait([self._leading], timeout=self.config.drain_seconds)

    async def _fingerprint(self) -> str:
        """The cluster's, learnt from it: UID of namespace kube-system. Waits for the API server."""
        backoff, reporter = Backoff(first=0.2, limit=5.0), Reporter()
        while True:
            try:
                return await self.kube.namespace_uid("kube-system")
            except KubeUnavailableError as error:
                if reporter.due(error.what, asyncio.get_running_loop().time()):
                    _log.warning("waiting for the API server", error=error.diagnostic())
                await asyncio.sleep(backoff.next())

    async def _watch_trust(self, manager: Manager) -> None:
        """Injection needs the pod CA, with or without a broker or a tunnel."""
        backoff, reporter = Backoff(first=0.5, limit=5.0), Reporter()
        while True:
            try:
                await manager.read_trust()
                await manager.refresh_pod_ca()
                backoff.reset()
            except CloudtaserError as error:
                if reporter.due(error.what, asyncio.get_running_loop().time()):
                    _log.warning("cannot read what this cluster trusts", error=error.diagnostic())
            known = manager.pod_ca is not None
            await asyncio.sleep(TRUST_SECONDS if known else backoff.next())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.ensure_future(work))
