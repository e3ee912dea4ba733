"""The manager's configuration in its container: what the kubelet mounts, and flags with environment twins.

Used by `app`. Read and checked once at start; a bad value names itself, where it came from and the fix. The
token is read again whenever it is used, the fingerprint is learnt from the cluster.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from cloudtaser.errors import ConfigError
from cloudtaser.net.proxy import DIRECT, Proxies
from cloudtaser.net.rates import Rate
from cloudtaser.operator.config import BROKER_UID, SOCKETS, api_server, proxies
from cloudtaser.operator.flags import manager_parser
from cloudtaser.operator.settings import Listen, Settings, bridge_pin, info_hash, join_code, log_level
from cloudtaser.secret import Secret
from cloudtaser.wire.names import SYSTEM_NAMESPACE, WEBHOOK_SERVICE

WEBHOOK: Final = Listen("", 9443)
UNSEAL: Final = Listen("", 8446)
SOURCE_RATE: Final = Rate(10, 100)
"""Announcements from one address; a node that hides its pods behind its own has a few hundred of them."""
PROBES: Final = Listen("", 8081)
METRICS: Final = Listen("", 8080)
SETTINGS: Final = "/etc/cloudtaser/settings.json"
REGISTRIES: Final = "/etc/cloudtaser/registries.json"
MOUNTED: Final = "/var/run/secrets/kubernetes.io/serviceaccount"


@dataclass(frozen=True, slots=True)
class ManagerConfig:
    """All settings of the manager. No file named here was read yet, but for the namespace."""

    apiserver: str
    apiserver_ca: str
    apiserver_token_file: str
    namespace: str = SYSTEM_NAMESPACE
    settings: str = SETTINGS
    registries: str = REGISTRIES
    sockets: str | None = SOCKETS
    """None where there is no broker: pods reach OpenBao by themselves."""
    broker_uid: int = BROKER_UID
    bridge_pin: str = ""
    info_hash: str = ""
    join_code: Secret = field(default_factory=lambda: Secret(b""))
    webhook_listen: Listen = WEBHOOK
    webhook_service: str = WEBHOOK_SERVICE
    webhook_config: str = WEBHOOK_SERVICE
    unseal_listen: Listen | None = UNSEAL
    unseal_rate: Rate = SOURCE_RATE
    webhook_lifetime: int = 0
    """Seconds that a webhook certificate is good for; 0 for what is usual."""
    lease_seconds: int = 15
    probe_addr: Listen | None = PROBES
    metrics_addr: Listen | None = METRICS
    id: str = ""
    log_level: str = "info"
    proxies: Proxies = DIRECT
    drain_seconds: float = 20.0


def read_manager(arguments: Sequence[str], environment: Mapping[str, str]) -> ManagerConfig:
    """The configuration. UsageError (exit code 2) in one line when it cannot be used."""
    settings = Settings(vars(manager_parser().parse_args(list(arguments))), environment)
    lease_seconds = settings.number("lease_seconds", 15)
    if not 3 <= lease_seconds <= 300:
        raise ConfigError(
            f"{lease_seconds} s is no time for a lease", on=settings.source("lease_seconds"), fix="3 to 300"
        )
    lifetime = settings.number("webhook_lifetime", 0)
    if 0 < lifetime < 60:
        raise ConfigError(
            f"{lifetime} s is no life for a certificate",
            on=settings.source("webhook_lifetime"),
            fix="60 or more",
        )
    sockets = settings.get("sockets") or SOCKETS
    return ManagerConfig(
        apiserver=settings.get("apiserver") or f"https://{api_server(environment)}",
        apiserver_ca=settings.get("apiserver_ca") or f"{MOUNTED}/ca.crt",
        apiserver_token_file=settings.get("apiserver_token_file") or f"{MOUNTED}/token",
        namespace=settings.get("namespace") or _mounted_namespace(),
        settings=settings.get("settings") or SETTINGS,
        registries=settings.get("registries") or REGISTRIES,
        sockets=None if sockets == "off" else sockets,
        broker_uid=settings.number("broker_uid", BROKER_UID),
        bridge_pin=bridge_pin(settings),
        info_hash=info_hash(settings),
        join_code=join_code(settings),
        webhook_listen=settings.listen("webhook_listen", WEBHOOK) or WEBHOOK,
        webhook_service=settings.get("webhook_service") or WEBHOOK_SERVICE,
        webhook_config=settings.get("webhook_config") or WEBHOOK_SERVICE,
        unseal_listen=settings.listen("unseal_listen", UNSEAL),
        unseal_rate=_rate(settings),
        webhook_lifetime=lifetime,
        lease_seconds=lease_seconds,
        probe_addr=settings.listen("probe_addr", PROBES),
        metrics_addr=settings.listen("metrics_addr", METRICS),
        id=settings.get("id") or socket.gethostname(),
        log_level=log_level(settings),
        proxies=proxies(settings, environment),
    )


def _rate(settings: Settings) -> Rate:
    text = settings.get("unseal_rate")
    try:
        return Rate.parse(text) if text else SOURCE_RATE
    except ConfigError as error:
        raise ConfigError(error.what, on=settings.source("unseal_rate"), fix=error.fix) from None


def _mounted_namespace() -> str:
    path = f"{MOUNTED}/namespace"
    try:
        with open(path, encoding="ascii") as file:
            return file.read(256).strip() or SYSTEM_NAMESPACE
    except (OSError, ValueError) as error:
        why = os.strerror(error.errno or 0).lower() if isinstance(error, OSError) else "it holds no name"
        raise ConfigError(
            f"cannot read our namespace: {why}", on=path, fix="give --namespace where no token is mounted"
        ) from None
