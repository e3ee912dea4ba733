"""The webhook's settings: what the chart says for every pod, checked once at start.

Made by whoever wires the manager. A pod's annotations and a CloudTaserConfig come before these
(spec/operator.md, "Controllers": annotation, then CloudTaserConfig, then chart).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from cloudtaser.errors import ConfigError
from cloudtaser.wire.hashes import is_fingerprint
from cloudtaser.wire.names import BROKER_SERVICE, SYSTEM_NAMESPACE

Json = dict[str, Any]
FailurePolicy = Literal["Ignore", "Fail"]

OPERATOR_SERVICE: Final = "cloudtaser-operator.cloudtaser-system.svc"

_DURATION: Final = re.compile(r"([0-9]+(\.[0-9]+)?[smh]?)?", re.ASCII)

WRAPPER_RESOURCES: Final[Mapping[str, Mapping[str, str]]] = {
    "requests": {"cpu": "10m", "memory": "32Mi"},
    "limits": {"cpu": "500m", "memory": "64Mi"},
}
"""Of the init container. What it copies into the memory-backed volume counts as its memory."""

S3PROXY_RESOURCES: Final[Mapping[str, Mapping[str, str]]] = {
    "requests": {"cpu": "50m", "memory": "64Mi"},
    "limits": {"cpu": "1", "memory": "256Mi"},
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What the webhook's server bears at most."""

    body_bytes: int = 4 * 1024 * 1024
    """Of one AdmissionReview: an API server takes 3 MiB an object, and etcd keeps 1.5 MiB."""
    bytes_in_flight: int = 64 * 1024 * 1024
    """That all reviews under way take, as they came and once they are read; beyond that the answer is 503."""
    requests: int = 256
    """Under way at once; beyond that the answer is 503, and the failure policy decides."""
    seconds: float = 9.0
    """For one review at most; less when the API server says that it waits less."""
    answer_seconds: float = 5.0
    """For the sender to take the answer; then it is cut off."""


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """Everything that holds for all pods of the cluster."""

    fingerprint: str
    """The cluster's, a UUID: part of audiences and of sealed mode."""
    wrapper_image: str
    """By digest where fail-closed namespaces are to mean anything."""
    vault_address: str = f"broker://{BROKER_SERVICE}:8443"
    """`VAULT_ADDR` of pods that name none: `broker://host:port`, or `https://host[:port]` without a
    broker."""
    vault_role: str = "default"
    vault_auth_method: Literal["kubernetes", "token"] = "kubernetes"
    vault_auth_mount: str = ""
    """Empty: the wrapper's own default."""
    vault_namespace: str = ""
    """Of `vault_address` without a broker."""
    vault_ca: str = ""
    """PEM for `vault_address` without a broker; empty: the certificates of the wrapper's image."""
    allowed_addresses: tuple[str, ...] = ()
    """What `cloudtaser.io/vault-address` may name (`kube.allow_list`); empty: nothing."""
    allow_skip_verify: bool = False
    operator_address: str = f"{OPERATOR_SERVICE}:8446"
    """Where sealed wrappers announce themselves."""
    accepted_wrapper_images: tuple[str, ...] = ()
    """Besides `wrapper_image`, what a pod of a fail-closed namespace may run as its payload: the image before
    an upgrade."""
    wrapper_pull_policy: str = ""
    wrapper_resources: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: WRAPPER_RESOURCES)
    image_volumes: bool = False
    """Whether every node mounts images as volumes (Kubernetes 1.35; containerd 2.1): then no init
    container."""
    s3proxy_image: str = ""
    s3proxy_resources: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: S3PROXY_RESOURCES)
    architecture: str = "amd64"
    """Of nodes, where a pod does not say (`kubernetes.io/arch`)."""
    rotation: Literal["restart", "sighup", "none"] = "restart"
    rotation_grace: str = ""
    rotation_debounce: str = ""
    poll_interval: str = ""
    """These three: seconds, or a number with s, m or h; empty leaves the wrapper's own default."""
    delivery: Literal["env", "memory", "auto", "file"] = "env"
    ebpf: Literal["auto", "true", "required", "off"] = "auto"
    failure_policy: FailurePolicy = "Ignore"
    """Of ordinary namespaces; those with `cloudtaser.io/enforce=required` are always `Fail`."""
    namespace: str = SYSTEM_NAMESPACE
    """The operator's own, where nothing is injected."""
    limits: Limits = Limits()

    def check(self) -> None:
        """ConfigError for what would make every pod fail, or none of them start."""
        if not is_fingerprint(self.fingerprint):
            raise ConfigError("not a fingerprint", on="fingerprint", fix="it is the UID of kube-system")
        if not self.wrapper_image:
            raise ConfigError("not set", on="wrapper_image", fix="name the wrapper's image")
        scheme = self.vault_address.partition("://")[0]
        if scheme not in ("broker", "https", "http") or not self.vault_address.partition("://")[2]:
            raise ConfigError(
                f"{self.vault_address!r} is no address",
                on="vault_address",
                fix="set broker://HOST:PORT or https://HOST[:PORT]",
            )
        if scheme != "broker" and self.vault_auth_method == "token":
            raise ConfigError("'token' needs a broker", on="vault_auth_method", fix="set kubernetes")
        if self.rotation == "sighup" and self.delivery == "env":
            raise ConfigError(
                "'sighup' cannot bring new values to a program's environment",
                on="rotation",
                fix="set delivery to memory or file",
            )
        for name in ("rotation_grace", "rotation_debounce", "poll_interval"):
            if not _DURATION.fullmatch(getattr(self, name)):
                raise ConfigError(f"{getattr(self, name)!r} is no duration", on=name, fix="write 30s")
