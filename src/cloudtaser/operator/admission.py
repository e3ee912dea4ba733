"""Admission: the webhook with all that it stands on: what it looks up, its listener, its certificate.

Made by `manager_container`, on every replica. The part that only the leader does, keeping the webhook
configurations' caBundle right, is `bundle`, a controller.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Set

from cloudtaser.kube.client import KubeApi
from cloudtaser.kube.events import EventSink
from cloudtaser.operator.ca_bundle import KNOWN_ANNOTATION, CaBundle
from cloudtaser.operator.controllers.configs import ConfigStore
from cloudtaser.operator.images import make_resolver
from cloudtaser.operator.leadership import Leadership
from cloudtaser.operator.manager_config import ManagerConfig
from cloudtaser.operator.metrics import ManagerMetrics
from cloudtaser.operator.namespaces import NamespaceStore
from cloudtaser.operator.replica import Replica
from cloudtaser.operator.rotation import SETTLE, Rotation
from cloudtaser.operator.serving import LIFETIME, Serving
from cloudtaser.operator.serving_keys import make_keys, service_names
from cloudtaser.operator.webhook.ports import Ports
from cloudtaser.operator.webhook.service import Webhook
from cloudtaser.operator.webhook.settings import WebhookSettings


class Admission:
    """One replica's webhook."""

    def __init__(
        self,
        config: ManagerConfig,
        kube: KubeApi,
        settings: WebhookSettings,
        configs: ConfigStore,
        events: EventSink,
        leadership: Leadership,
        metrics: ManagerMetrics,
        pod_ca: Callable[[], str | None],
    ) -> None:
        """ConfigError when a setting cannot be used."""
        self.namespaces = NamespaceStore(kube)
        self._configs = configs.reflector
        self.images = make_resolver(config, kube, metrics.registry)
        ports = Ports(self.images, pod_ca, configs, self.namespaces, events)
        webhook = Webhook(settings, ports, metrics.registry)
        names = service_names(config.webhook_service, config.namespace)
        lifetime = config.webhook_lifetime or LIFETIME

        def known() -> Set[str]:
            return set(leadership.annotations.get(KNOWN_ANNOTATION, "").split(","))

        self.serving = Serving(
            webhook.application(),
            config.webhook_listen,
            Rotation(
                lambda now: make_keys(names, now, lifetime), time.time(), settle=min(SETTLE, lifetime / 20)
            ),
            Replica(kube, config.namespace, config.id),
            known,
            metrics,
        )
        self.bundle = CaBundle(kube, config.namespace, config.webhook_config, leadership.publish, metrics)

    @property
    def ready(self) -> bool:
        """Whether API servers can call us, and know us; what is looked up is there. CloudTaserConfigs that
        cannot be had (no such kind) keep nobody waiting who names none."""
        configs = self._configs.synced or bool(self._configs.problem)
        return self.serving.ready and self.namespaces.reflector.synced and configs

    @property
    def problems(self) -> list[str]:
        """Why what is known of namespaces and configurations may be old."""
        both = self.namespaces.reflector, self._configs
        return [f"{one.kind.plural}: {one.problem}" for one in both if one.problem]

    async def start(self) -> None:
        """Listen. UnavailableError when the address cannot be had."""
        await self.serving.start()

    async def run(self, stop: asyncio.Event) -> None:
        """Until cancelled."""
        await asyncio.gather(self.serving.run(), self.namespaces.reflector.run(stop))

    async def stop(self) -> None:
        """Accept no more; reviews that are under way finish."""
        await self.serving.stop()
        await self.images.close()
