"""Ports: what the webhook needs of the rest of the operator, and nothing beyond.

Given to `service.Webhook` by whoever wires the program: over the API server and registries in production,
over plain data in unit tests. All but `entrypoints` answer from memory, so that an admission waits for one
thing at most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from cloudtaser.kube.events import EventSink
from cloudtaser.kube.registry.image import Entrypoints

Json = dict[str, Any]


class InjectionConfig(Protocol):
    """The spec of a CloudTaserConfig; empty means: not said."""

    @property
    def vault_address(self) -> str: ...
    @property
    def vault_auth_path(self) -> str: ...
    @property
    def vault_role(self) -> str: ...
    @property
    def secret_paths(self) -> tuple[str, ...]: ...
    @property
    def env_map(self) -> str: ...
    @property
    def wrapper_image(self) -> str: ...
    @property
    def wrapper_resources(self) -> Mapping[str, Any] | None: ...
    @property
    def namespace_selector(self) -> Mapping[str, Any] | None: ...


class ConfigSource(Protocol):
    """CloudTaserConfigs, as a watch keeps them."""

    @property
    def known(self) -> bool:
        """Whether all have been listed once; before, one that is not found may be there all the same."""

    def get(self, namespace: str, name: str) -> InjectionConfig | None:
        """The config of that name in that namespace, or None."""


@dataclass(frozen=True, slots=True)
class NamespaceView:
    """What the webhook reads of a Namespace."""

    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


class Namespaces(Protocol):
    """Namespaces, as a watch keeps them."""

    def get(self, name: str) -> NamespaceView | None:
        """The namespace, or None where it is not known (yet)."""


@dataclass(frozen=True, slots=True)
class Ports:
    """All of them."""

    entrypoints: Entrypoints
    pod_ca: Callable[[], str | None]
    """The pod CA, PEM, or nothing as long as it is not known."""
    configs: ConfigSource
    namespaces: Namespaces
    events: EventSink
