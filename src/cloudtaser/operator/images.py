"""Images: the resolver of images' entrypoints, as the manager makes it from its file.

Used by `admission`, which gives it to the webhook and closes it.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from cloudtaser.kube.client import KubeApi
from cloudtaser.kube.registry.metrics import RegistryMetrics
from cloudtaser.kube.registry.pull_secrets import reader
from cloudtaser.kube.registry.resolver import ImageResolver
from cloudtaser.kube.registry.settings import read_settings
from cloudtaser.operator.manager_config import ManagerConfig


def make_resolver(config: ManagerConfig, kube: KubeApi, registry: CollectorRegistry) -> ImageResolver:
    """Entrypoints for the webhook; nothing is connected to yet. ConfigError names what cannot be used."""
    return ImageResolver(
        read_settings(config.registries),
        RegistryMetrics(registry),
        read_secret=reader(kube),
        proxies=config.proxies,
    )
