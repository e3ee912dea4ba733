"""ConfigStore: every CloudTaserConfig in memory, found as a pod finds it.

Kept on every replica, for the webhook (its `ConfigSource`) and for `config_controller`.
"""

from __future__ import annotations

from cloudtaser.kube.resources import CLOUDTASER_CONFIGS, CloudTaserConfig
from cloudtaser.kube.watch import Reflector, WatchApi


class ConfigStore:
    """All of them, as the API server has them."""

    def __init__(self, api: WatchApi, system_namespace: str) -> None:
        """`system_namespace`: the operator's own, whose configurations every namespace may find."""
        self.reflector = Reflector(api, CLOUDTASER_CONFIGS, CloudTaserConfig.parse)
        self.system_namespace = system_namespace

    @property
    def known(self) -> bool:
        """Whether all have been listed once."""
        return self.reflector.synced

    def get(self, namespace: str, name: str) -> CloudTaserConfig | None:
        """What a pod of `namespace` gets by that name: its own namespace's, else the operator's."""
        return self.reflector.get(namespace, name) or self.reflector.get(self.system_namespace, name)
