"""The broker's configuration, alone in its container or with a manager in one process: read once at start.

Used by `app`. A bad value names itself, where it came from and the fix. (The manager's own is
`manager_config`.)
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from cloudtaser.errors import ConfigError, UsageError
from cloudtaser.net.dial import Address
from cloudtaser.net.proxy import DIRECT, Proxies
from cloudtaser.operator.flags import PREFIX, broker_parser, build_parser
from cloudtaser.operator.settings import Listen, Settings, bridge_pin, info_hash, join_code, log_level
from cloudtaser.secret import Secret
from cloudtaser.wire.hashes import check_fingerprint
from cloudtaser.wire.names import SYSTEM_NAMESPACE

_IN_CLUSTER: Final = ("kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
LISTEN: Final = Listen("", 8443)
PROBES: Final = Listen("127.0.0.1", 8081)
METRICS: Final = Listen("127.0.0.1", 8080)
IN_POD: Final = Listen("", 8082)
"""Probes and metrics of the broker's container; the manager's have 8081 and 8080."""
SOCKETS: Final = "/run/cloudtaser"
MANAGER_UID: Final = 65532
BROKER_UID: Final = 65533
API_HOST: Final = "KUBERNETES_SERVICE_HOST"
API_PORT: Final = "KUBERNETES_SERVICE_PORT"


@dataclass(frozen=True, slots=True)
class BrokerLimits:
    """What one broker carries at most; everything beyond is refused at once."""

    connections: int = 4096
    connections_per_pod: int = 128
    first_bytes_seconds: float = 10.0
    idle_seconds: float = 3600.0
    apiserver_streams: int = 32


ADMIN_LIMITS: Final = BrokerLimits(connections=32, connections_per_pod=32, idle_seconds=600.0)
"""For administrators, who all come through a port-forward and so from one address."""


@dataclass(frozen=True, slots=True)
class Config:
    """All settings. Files named here were not read yet, but for the join code."""

    fingerprint: str
    """Empty in a container of its own, where the manager tells it."""
    apiserver: str
    apiserver_ca: str
    apiserver_token_file: str
    beacons: tuple[Address, ...]
    listen: Listen = LISTEN
    admin_listen: Listen | None = None
    reverse_listen: Listen | None = None
    reverse_tls_cert: str | None = None
    reverse_tls_key: str | None = None
    beacon_ca: str | None = None
    beacon_insecure: bool = False
    bridge_pin: str = ""
    beacon_info_hash: str = ""
    join_code: Secret = field(default_factory=lambda: Secret(b""))
    namespace: str = SYSTEM_NAMESPACE
    probe_addr: Listen | None = PROBES
    metrics_addr: Listen | None = METRICS
    id: str = ""
    log_level: str = "info"
    proxies: Proxies = DIRECT
    drain_seconds: float = 20.0
    limits: BrokerLimits = BrokerLimits()
    admin_limits: BrokerLimits = ADMIN_LIMITS


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """The broker in a container of its own: how it carries, where its manager is, and who that has to be."""

    carrier: Config
    apiserver: Address
    sockets: str
    manager_uid: int


def read(arguments: Sequence[str], environment: Mapping[str, str]) -> Config:
    """Manager and broker in one process. UsageError (exit code 2) in one line when it cannot be used."""
    settings = Settings(vars(build_parser().parse_args(list(arguments))), environment)
    if not settings.flag("standalone"):
        raise UsageError(
            "it is not said what to run",
            fix="`cloudtaser-operator manager` and `broker` in a pod, --standalone outside a cluster",
        )
    config = Config(
        fingerprint=_fingerprint(settings),
        apiserver=settings.need("apiserver"),
        apiserver_ca=settings.need("apiserver_ca"),
        apiserver_token_file=settings.need("apiserver_token_file"),
        beacons=_beacons(settings),
        namespace=settings.get("namespace") or SYSTEM_NAMESPACE,
        probe_addr=settings.listen("probe_addr", PROBES),
        metrics_addr=settings.listen("metrics_addr", METRICS),
    )
    return _carrying(config, settings, environment)


def read_broker(arguments: Sequence[str], environment: Mapping[str, str]) -> BrokerConfig:
    """The broker's container. UsageError as above."""
    settings = Settings(vars(broker_parser().parse_args(list(arguments))), environment)
    config = Config(
        fingerprint="",
        apiserver="",
        apiserver_ca="",
        apiserver_token_file="",
        beacons=_beacons(settings),
        probe_addr=settings.listen("probe_addr", IN_POD),
        metrics_addr=settings.listen("metrics_addr", IN_POD),
    )
    return BrokerConfig(
        carrier=_carrying(config, settings, environment),
        apiserver=api_server(environment),
        sockets=settings.get("sockets") or SOCKETS,
        manager_uid=settings.number("manager_uid", MANAGER_UID),
    )


def api_server(environment: Mapping[str, str]) -> Address:
    """Where the kubelet says that the API server is. ConfigError outside a pod."""
    host, port = environment.get(API_HOST, ""), environment.get(API_PORT, "443")
    if not host or not port.isdecimal():
        raise ConfigError(
            f"{API_HOST} and {API_PORT} do not name an API server",
            fix="run this in a pod, or `cloudtaser-operator --standalone`",
        )
    return Address(host, int(port))


def _carrying(config: Config, settings: Settings, environment: Mapping[str, str]) -> Config:
    """What a broker needs wherever it runs."""
    return replace(
        config,
        listen=settings.listen("listen", LISTEN) or LISTEN,
        admin_listen=_admin_listen(settings),
        reverse_listen=settings.listen("reverse_listen", None),
        reverse_tls_cert=settings.get("reverse_tls_cert") or None,
        reverse_tls_key=_reverse_key(settings),
        beacon_ca=settings.get("beacon_ca") or None,
        beacon_insecure=settings.flag("beacon_insecure"),
        proxies=proxies(settings, environment),
        bridge_pin=bridge_pin(settings),
        beacon_info_hash=info_hash(settings),
        join_code=join_code(settings),
        id=settings.get("id") or socket.gethostname(),
        log_level=log_level(settings),
    )


def _fingerprint(settings: Settings) -> str:
    text = settings.need("fingerprint")
    try:
        return check_fingerprint(text)
    except UsageError as error:
        raise ConfigError(error.what, on=settings.source("fingerprint"), fix=error.fix) from None


def _beacons(settings: Settings) -> tuple[Address, ...]:
    """None are needed where bridges dial us."""
    if not settings.get("beacon_address") and settings.get("reverse_listen"):
        return ()
    if not settings.get("beacon_address"):
        raise ConfigError(
            "--beacon-address is missing",
            fix=f"give the flag or set {PREFIX}BEACON_ADDRESS, or let bridges dial us with --reverse-listen",
        )
    return Address.parse_list(settings.need("beacon_address"), source=settings.source("beacon_address"))


def _reverse_key(settings: Settings) -> str | None:
    """The certificate's key: both are given or neither, and with a port to show it on."""
    cert, key = settings.get("reverse_tls_cert"), settings.get("reverse_tls_key")
    if bool(cert) != bool(key):
        given, missing = ("cert", "key") if cert else ("key", "cert")
        raise ConfigError(
            f"--reverse-tls-{missing} is missing",
            on=settings.source(f"reverse_tls_{given}"),
            fix="give the certificate and its key, or neither behind an Ingress that ends TLS",
        )
    if key and not settings.get("reverse_listen"):
        raise ConfigError(
            "a certificate without a port to show it on",
            on=settings.source("reverse_tls_cert"),
            fix="give --reverse-listen",
        )
    return key or None


def _admin_listen(settings: Settings) -> Listen | None:
    """Loopback, which a port-forward reaches and the pods do not, unless told otherwise."""
    listen = settings.listen("admin_listen", None)
    anywhere = settings.flag("admin_listen_anywhere")
    if listen is None or anywhere or _is_loopback(listen.host):
        return listen
    raise ConfigError(
        f"{str(listen)!r} is not loopback",
        on=settings.source("admin_listen"),
        fix="use 127.0.0.1:PORT and a port-forward, or say --admin-listen-anywhere",
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def proxies(settings: Settings, environment: Mapping[str, str]) -> Proxies:
    """The proxy for outbound connections. The API server's address inside the cluster is never behind it."""
    own = [environment[name] for name in (API_HOST,) if environment.get(name)]
    return Proxies.read(
        environment,
        settings.get("proxy"),
        source=settings.source("proxy"),
        ca_file=settings.get("proxy_ca") or None,
        direct=[*_IN_CLUSTER, *own],
    )
