"""ManagerContainer: `cloudtaser-operator manager`, the side of the operator with an identity in the cluster.

Made by `app`. It answers its broker over a Unix socket, supplies bridges with what they need to check pods'
tokens, and runs the controllers while this replica leads. Crash-only: all it keeps lies in the cluster.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry

from cloudtaser.errors import CloudtaserError, UnavailableError
from cloudtaser.kube.allow_list import AllowList
from cloudtaser.kube.client import KubeApi
from cloudtaser.kube.events import EventRecorder
from cloudtaser.net.dial import Backoff
from cloudtaser.net.log import get_logger
from cloudtaser.net.probes import Probes
from cloudtaser.operator.admission import Admission
from cloudtaser.operator.bridge_calls import BridgeCalls
from cloudtaser.operator.controllers.assembly import Controllers
from cloudtaser.operator.controllers.evidence import OperatorEvidence
from cloudtaser.operator.enrolment import Reporter
from cloudtaser.operator.exchanges import LocalExchanges
from cloudtaser.operator.key_watch import KeyWatch
from cloudtaser.operator.leadership import Leadership
from cloudtaser.operator.manager import Manager
from cloudtaser.operator.manager_config import ManagerConfig
from cloudtaser.operator.manager_door import ManagerDoor
from cloudtaser.operator.metrics import ManagerMetrics
from cloudtaser.operator.operator_stream import OperatorStreams
from cloudtaser.operator.remote_routes import RemoteRoutes
from cloudtaser.operator.seam import BROKER_SOCKET, MANAGER_SOCKET
from cloudtaser.operator.settings_file import read_settings
from cloudtaser.operator.tokens.kube import KubeCluster
from cloudtaser.operator.tokens.method import Settings as TokenSettings
from cloudtaser.operator.tokens.method import TokenMethod
from cloudtaser.operator.tunnel_watch import TunnelWatch
from cloudtaser.operator.webhook.settings import WebhookSettings
from cloudtaser.operator.workload_events import WorkloadEvents
from cloudtaser.version import VERSION

NOTICE_SECONDS: Final = 5.0
"""How long a pod that is told to end goes on to answer the API server: Services take a moment to notice."""
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
        self.identity = f"{config.id}_{os.urandom(4).hex()}"
        self.leadership = Leadership(
            self.kube,
            config.namespace,
            self.identity,
            seconds=config.lease_seconds,
        )
        self._recorder = EventRecorder(self.kube, instance=config.id)
        self.events = WorkloadEvents(self._recorder, self.kube)
        self.metrics.observe_events(lambda: self._recorder.posted, lambda: self._recorder.dropped)
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
        self._admission: Admission | None = None
        self._probes = [
            (Probes(ready=self.is_ready, registry=self.metrics.registry, details=self.details), listen)
            for listen in dict.fromkeys((config.probe_addr, config.metrics_addr))
            if listen is not None
        ]
        self._tasks: list[asyncio.Task[None]] = []
        self._leading: asyncio.Task[None] | None = None
        self._draining = False

    def is_ready(self) -> bool:
        """Ready once the webhook serves, under a CA that API servers know, and the pod CA is known: an outage
        of beacon or tunnel must not take injection away."""
        return self._knows_pod_ca and self._serves and not self._draining

    def details(self) -> list[str]:
        """For /readyz?verbose: what readiness depends on, and what it does not."""
        state = self.routes.state if self.routes else {}
        admission = self._admission
        lines = [
            f"{'+' if self._serves else '-'} webhook"
            + (f", certificate ends {_when(admission.serving.expires)}" if admission else ""),
            f"{'+' if self._knows_pod_ca else '-'} pod CA" + ("" if self.routes else ", not needed"),
            f"  leader {self.leadership.leader or 'unknown'}"
            + (", this one" if self.leadership.held else ""),
        ]
        if admission is not None:
            lines += [f"  {problem}" for problem in admission.problems]
        if self.routes is None:
            return [*lines, "  no broker: pods reach OpenBao by themselves"]
        if not state:
            return [*lines, "  broker: away"]
        for name in ("tunnels", "bridges", "parked", "connections", "beacon_failures"):
            lines.append(f"  broker {name.replace('_', ' ')}: {str(state.get(name, 'unknown'))[:200]}")
        return lines

    @property
    def _knows_pod_ca(self) -> bool:
        return self.manager is not None and (self.routes is None or self.manager.pod_ca is not None)

    @property
    def _serves(self) -> bool:
        return self._admission is not None and self._admission.ready

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
        if self._admission is not None:
            await self._admission.stop()
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
        routes = self.routes
        if config.sockets is not None and routes is not None:
            self._streams = OperatorStreams(manager, self.metrics)
            routes.watch(self._streams.serve)
            exchanges = LocalExchanges(
                fingerprint,
                manager,
                bridge_pin=config.bridge_pin,
                info_hash=config.info_hash,
                join_code=config.join_code,
            )
            socket = str(Path(config.sockets) / MANAGER_SOCKET)
            self._door = ManagerDoor(socket, config.broker_uid, manager, exchanges)
            await self._door.start()
            self._run(routes.run())
            self._run(KeyWatch(manager.jwks, routes.keys_changed).run())
            self._run(self._watch_trust(manager))
            watch = TunnelWatch(lambda: routes.state, self.kube, config.namespace, config.id, self.events)
            self._run(watch.run())
        self._run(self._recorder.run(stop))
        self._run(self.events.run(stop))
        await self._start_admission(fingerprint, manager, stop)
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

    async def _start_admission(self, fingerprint: str, manager: Manager, stop: asyncio.Event) -> None:
        """The webhook: served by every replica, its configurations kept right by the leader."""
        config = self.config
        settings = read_settings(config.settings, fingerprint, config.namespace)
        controllers = self._controllers(settings, manager)
        self._admission = Admission(
            config,
            self.kube,
            settings,
            controllers.configs,
            self.events,
            self.leadership,
            self.metrics,
            lambda: manager.pod_ca,
        )
        await self._admission.start()
        self._run(controllers.run(stop))
        self._run(self._admission.run(stop))
        self.leadership.add("caBundle", self._admission.bundle)
        self.leadership.add("controllers", controllers.leader)

    def _controllers(self, settings: WebhookSettings, manager: Manager) -> Controllers:
        """Of the custom resources. What a DebugReport tells is looked at from here."""
        config = self.config
        evidence = OperatorEvidence(
            self.kube,
            self.routes,
            BridgeCalls(self.routes, manager) if self.routes else None,
            certificates=lambda: [("pod CA", manager.pod_ca or ""), ("webhook", self._webhook_ca)],
            webhook_name=config.webhook_config,
            webhook_ca=lambda: self._webhook_ca,
        )
        return Controllers(
            self.kube,
            identity=self.identity,
            namespace=config.namespace,
            own_address=settings.vault_address,
            allowed=AllowList(settings.allowed_addresses),
            not_ready=lambda: "" if self._knows_pod_ca else "the operator does not know the pod CA yet",
            events=self.events,
            evidence=evidence,
        )

    @property
    def _webhook_ca(self) -> str:
        return self._admission.serving.ca if self._admission else ""

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
        """Not ready from now on; leadership is released by who holds it. For a moment reviews are answered
        all the same: until everybody has heard that they go elsewhere."""
        self._draining = True
        _log.info("draining")
        heard = asyncio.ensure_future(asyncio.sleep(NOTICE_SECONDS))
        await asyncio.wait(
            [heard, *([self._leading] if self._leading else [])], timeout=self.config.drain_seconds
        )
        if self._admission is not None:
            await self._admission.stop()
            self._admission = None

    async def _fingerprint(self) -> str:
        """The cluster's, learnt from it: UID of namespace kube-system. Waits for the API server."""
        backoff, reporter = Backoff(first=0.2, limit=5.0), Reporter()
        while True:
            try:
                return await self.kube.namespace_uid("kube-system")
            except CloudtaserError as error:  # one that was just started may not know our rights yet
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


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
