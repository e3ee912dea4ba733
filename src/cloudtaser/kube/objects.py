"""The few Kubernetes objects that we read and write, as plain frozen data.

Made by `client` from the API server's JSON; used by `operator`. Only the fields that somebody needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cloudtaser.secret import Secret


@dataclass(frozen=True, slots=True)
class ConfigMap:
    """A ConfigMap; `resource_version` is what an update must name so that nobody's change is overwritten."""

    namespace: str
    name: str
    data: Mapping[str, str]
    resource_version: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BoundPod:
    """The pod that a requested token dies with."""

    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class ServiceAccountToken:
    """A token from TokenRequest and the moment (Unix seconds) at which it ends."""

    token: Secret
    expires_at: float


@dataclass(frozen=True, slots=True)
class TokenReview:
    """The API server's own verdict on a token. `error` is empty when it is authenticated."""

    authenticated: bool
    username: str = ""
    uid: str = ""
    audiences: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    error: str = ""
