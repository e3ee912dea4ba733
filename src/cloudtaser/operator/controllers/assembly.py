"""Controllers: all of them, and what they share.

Made by `manager_container`: `run` on every replica, `leader` only while it leads. `configs` is the webhook's
source of CloudTaserConfigs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from cloudtaser.kube.allow_list import AllowList
from cloudtaser.kube.client import KubeApi
from cloudtaser.kube.events import EventSink
from cloudtaser.kube.resources import DEBUG_REPORTS, SECRET_MAPPINGS, DebugReport, SecretMapping
from cloudtaser.kube.watch import Reflector
from cloudtaser.operator.controllers.config_controller import ConfigController
from cloudtaser.operator.controllers.configs import ConfigStore
from cloudtaser.operator.controllers.injected_pods import pods_reflector
from cloudtaser.operator.controllers.mapping_controller import MappingController
from cloudtaser.operator.controllers.report_controller import Evidence, ReportController


class Controllers:
    """For one manager."""

    def __init__(
        self,
        kube: KubeApi,
        *,
        identity: str,
        namespace: str,
        own_address: str,
        allowed: AllowList,
        not_ready: Callable[[], str],
        events: EventSink,
        evidence: Evidence,
    ) -> None:
        """`identity`: unique among replicas and their restarts. `own_address`: what pods get as OpenBao's
        address when nobody says otherwise. `not_ready`: why the operator injects nobody now, or empty."""
        self.configs = ConfigStore(kube, namespace)
        self.leader = Leader(
            kube, self.configs, identity, namespace, own_address, allowed, not_ready, events, evidence
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Keep what every replica needs in memory until `stop`."""
        await self.configs.reflector.run(stop)


class Leader:
    """What the leader runs; `run` may be called again after it has ended, which begins from nothing."""

    def __init__(
        self,
        kube: KubeApi,
        configs: ConfigStore,
        identity: str,
        namespace: str,
        own_address: str,
        allowed: AllowList,
        not_ready: Callable[[], str],
        events: EventSink,
        evidence: Evidence,
    ) -> None:
        self._kube = kube
        self._configs = configs
        self._identity = identity
        self._namespace = namespace
        self._own_address = own_address
        self._allowed = allowed
        self._not_ready = not_ready
        self._events = events
        self._evidence = evidence

    async def run(self, stop: asyncio.Event) -> None:
        """All controllers, and what they watch, until `stop`."""
        kube = self._kube
        pods = pods_reflector(kube)
        mappings = Reflector(kube, SECRET_MAPPINGS, SecretMapping.parse)
        reports = Reflector(kube, DEBUG_REPORTS, DebugReport.parse)
        config_controller = ConfigController(
            kube,
            self._configs,
            pods,
            own_address=self._own_address,
            allowed=self._allowed,
            not_ready=self._not_ready,
            events=self._events,
        )
        mapping_controller = MappingController(kube, mappings, self._configs)
        report_controller = ReportController(
            kube,
            reports,
            pods,
            self._evidence,
            identity=self._identity,
            system_namespace=self._namespace,
        )
        await _together(
            pods.run(stop),
            mappings.run(stop),
            reports.run(stop),
            config_controller.run(stop),
            mapping_controller.run(stop),
            report_controller.run(stop),
        )


async def _together(*work: Coroutine[Any, Any, None]) -> None:
    """All of it; the first that fails ends the others."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
