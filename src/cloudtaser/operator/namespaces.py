"""NamespaceStore: labels and annotations of every namespace in memory, for the webhook.

Kept on every replica by a watch of metadata alone, so that no admission waits for the API server.
"""

from __future__ import annotations

from typing import Any

from cloudtaser.kube.kinds import NAMESPACES
from cloudtaser.kube.watch import Reflector, WatchApi
from cloudtaser.operator.webhook.ports import NamespaceView


class NamespaceStore:
    """All of them, as the API server has them."""

    def __init__(self, api: WatchApi) -> None:
        self.reflector = Reflector(api, NAMESPACES, _view, metadata_only=True)

    def get(self, name: str) -> NamespaceView | None:
        """The namespace, or None where it is not known (yet)."""
        return self.reflector.get("", name)


def _view(item: dict[str, Any]) -> NamespaceView:
    metadata = item.get("metadata") or {}
    return NamespaceView(_texts(metadata.get("labels")), _texts(metadata.get("annotations")))


def _texts(value: object) -> dict[str, str]:
    return {str(key): str(text) for key, text in value.items()} if isinstance(value, dict) else {}
