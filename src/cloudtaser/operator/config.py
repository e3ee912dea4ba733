"""The operator's configuration: flags and their environment twins, read and checked once at start.

Used by `app`. Each flag `--some-name` has the twin `CLOUDTASER_OPERATOR_SOME_NAME`; the flag wins. A bad
value names itself, where it came from and the fix.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from cloudtaser.errors import ConfigError, UsageError
from cloudtaser.net.dial import Address
from cloudtaser.net.proxy import DIRECT, Proxies
from cloudtaser.operator.flags import PREFIX, build_parser
from cloudtaser.secret import Secret
from cloudtaser.wire.hashes import check_fingerprint
from cloudtaser.wire.names import SYSTEM_NAMESPACE

_PIN: Final = re.compile(r"spki-sha256:[0-9a-f]{64}", re.ASCII)
_IN_CLUSTER: Final = ("kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
_HASH: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_TRUE: Final = ("1", "true", "yes", "on")
_FALSE: Final = ("", "0", "false", "no", "off")


@dataclass(frozen=True, slots=True)
class Listen:
    """An address of our own to listen on; an empty host means every interface, port 0 any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


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
    apiserver: str
    apiserver_ca: str
    apiserver_token_file: str
    beacons: tuple[Address, ...]
    listen: Listen = Listen("", 8443)
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
    probe_addr: Listen | None = Listen("127.0.0.1", 8081)
    metrics_addr: Listen | None = Listen("127.0.0.1", 8080)
    id: str = ""
    log_level: str = "info"
    proxies: Proxies = DIRECT
    drain_seconds: float = 20.0
    limits: BrokerLimits = BrokerLimits()
    admin_limits: BrokerLimits = ADMIN_LIMITS


def read(arguments: Sequence[str], environment: Mapping[str, str]) -> Config:
    """The configuration. UsageError (exit code 2) in one line when it cannot be used."""
    flags = vars(build_parser().parse_args(list(arguments)))
    settings = _Settings(flags, environment)
    if not settings.flag("standalone"):
        raise UsageError(
            "cloudtaser-operator runs only outside a cluster so far", fix="start it with --standalone"
        )
    insecure = settings.flag("beacon_insecure")
    return Config(
        fingerprint=_fingerprint(settings),
        apiserver=settings.need("apiserver"),
        apiserver_ca=settings.need("apiserver_ca"),
        apiserver_token_file=settings.need("apiserver_token_file"),
        beacons=_beacons(settings),
        listen=settings.listen("listen", Listen("", 8443)) or Listen("", 8443),
        admin_listen=_admin_listen(settings),
        reverse_listen=settings.listen("reverse_listen", None),
        reverse_tls_cert=settings.get("reverse_tls_cert") or None,
        reverse_tls_key=_reverse_key(settings),
        beacon_ca=settings.get("beacon_ca") or None,
        beacon_insecure=insecure,
        proxies=_proxies(settings, environment),
        bridge_pin=_pin(settings),
        beacon_info_hash=_info_hash(settings),
        join_code=_join_code(settings),
        namespace=settings.get("namespace") or SYSTEM_NAMESPACE,
        probe_addr=settings.listen("probe_addr", Listen("127.0.0.1", 8081)),
        metrics_addr=settings.listen("metrics_addr", Listen("127.0.0.1", 8080)),
        id=settings.get("id") or socket.gethostname(),
        log_level=_log_level(settings),
    )


class _Settings:
    """One setting at a time: the flag, else its twin, and the name to blame."""

    def __init__(self, flags: Mapping[str, object], environment: Mapping[str, str]) -> None:
        self._flags = flags
        self._environment = environment

    def get(self, name: str) -> str:
        value = self._flags.get(name)
        return value if isinstance(value, str) else self._environment.get(PREFIX + name.upper(), "")

    def source(self, name: str) -> str:
        """The flag or the variable that the value came from; the flag when there is neither."""
        twin = PREFIX + name.upper()
        if self._flags.get(name) is None and self._environment.get(twin):
            return twin
        return "--" + name.replace("_", "-")

    def need(self, name: str) -> str:
        value = self.get(name)
        if not value:
            raise ConfigError(
                f"--{name.replace('_', '-')} is missing", fix=f"give the flag or set {PREFIX}{name.upper()}"
            )
        return value

    def flag(self, name: str) -> bool:
        if self._flags.get(name) is True:
            return True
        text = self._environment.get(PREFIX + name.upper(), "").strip().lower()
        if text in _TRUE:
            return True
        if text in _FALSE:
            return False
        raise ConfigError(
            f"{text!r} is neither true nor false", on=self.source(name), fix="use true or false"
        )

    def listen(self, name: str, default: Listen | None) -> Listen | None:
        text = self.get(name).strip()
        if not text:
            return default
        if text == "off" and name != "listen":
            return None
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            colon = ""
        if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
            raise ConfigError(
                f"{text!r} is not an address to listen on", on=self.source(name), fix="use HOST:PORT or :PORT"
            )
        return Listen(host, int(port))


def _fingerprint(settings: _Settings) -> str:
    text = settings.need("fingerprint")
    try:
        return check_fingerprint(text)
    except UsageError as error:
        raise ConfigError(error.what, on=settings.source("fingerprint"), fix=error.fix) from None


def _beacons(settings: _Settings) -> tuple[Address, ...]:
    """None are needed where bridges dial us."""
    if not settings.get("beacon_address") and settings.get("reverse_listen"):
        return ()
    if not settings.get("beacon_address"):
        raise ConfigError(
            "--beacon-address is missing",
            fix=f"give the flag or set {PREFIX}BEACON_ADDRESS, or let bridges dial us with --reverse-listen",
        )
    return Address.parse_list(settings.need("beacon_address"), source=settings.source("beacon_address"))


def _reverse_key(settings: _Settings) -> str | None:
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


def _admin_listen(settings: _Settings) -> Listen | None:
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


def _pin(settings: _Settings) -> str:
    pin = settings.get("bridge_pin").strip()
    if pin and not _PIN.fullmatch(pin):
        raise ConfigError(
            f"{pin!r} is not a bridge pin",
            on=settings.source("bridge_pin"),
            fix="use spki-sha256: and 64 hex digits, as `cloudtaser-cli source register` prints it",
        )
    return pin


def _proxies(settings: _Settings, environment: Mapping[str, str]) -> Proxies:
    # the API server's address inside the cluster, which no proxy outside of it can reach
    own = [environment[name] for name in ("KUBERNETES_SERVICE_HOST",) if environment.get(name)]
    return Proxies.read(
        environment,
        settings.get("proxy"),
        source=settings.source("proxy"),
        ca_file=settings.get("proxy_ca") or None,
        direct=[*_IN_CLUSTER, *own],
    )


def _info_hash(settings: _Settings) -> str:
    text = settings.get("beacon_info_hash").strip().lower()
    if text and not _HASH.fullmatch(text):
        raise ConfigError(
            "that is not an info hash",  # not repeated: it is the way into the room
            on=settings.source("beacon_info_hash"),
            fix="use the 64 hex digits that `cloudtaser-cli source register` prints",
        )
    return text


def _join_code(settings: _Settings) -> Secret:
    path = settings.get("join_code_file")
    if not path:
        return Secret(b"")
    try:
        with open(path, "rb") as file:
            code = file.read(4096).strip()
    except OSError as error:
        raise ConfigError(
            f"cannot read the join code: {os.strerror(error.errno or 0)}", on=path, fix="check that file"
        ) from None
    if not code or not code.isascii():
        raise ConfigError("the join code file holds no join code", on=path, fix="write the code into it")
    return Secret(code)


def _log_level(settings: _Settings) -> str:
    level = (settings.get("log_level") or "info").lower()
    if level not in ("debug", "info", "warning", "error"):
        raise ConfigError(
            f"{level!r} is no log level", on=settings.source("log_level"), fix="debug, info, warning or error"
        )
    return level
