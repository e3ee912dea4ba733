"""What the bridge was told: flags, their environment twins, and the first words about a bad value.

Read once by `app`; everything after it works on a checked `Config`. Each flag `--some-name` has the twin
`CLOUDTASER_BRIDGE_SOME_NAME`; a flag wins over its twin, the twin over OpenBao's own variables (`VAULT_ADDR`,
`VAULT_CACERT`, `VAULT_TOKEN`). Implements spec/bridge.md, beacon mode with a registry.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NoReturn, TypeVar

from cloudtaser.bridge import config_admin, config_brokers, config_files, config_login, config_pods
from cloudtaser.bridge.config_admin import AdminConfig
from cloudtaser.bridge.config_brokers import Brokers
from cloudtaser.bridge.config_files import PairFiles
from cloudtaser.bridge.config_login import Login, boolean, readable
from cloudtaser.bridge.config_pods import PodLogins
from cloudtaser.bridge.limits import CLUSTER, PEER, TOKEN
from cloudtaser.errors import ConfigError
from cloudtaser.net.dial import Address
from cloudtaser.net.proxy import DIRECT, Proxies
from cloudtaser.net.rates import Rate
from cloudtaser.version import VERSION

ENVIRONMENT_PREFIX: Final = "CLOUDTASER_BRIDGE_"
DEFAULT_STATUS_SOCKET: Final = "/run/cloudtaser/bridge.sock"
LOG_LEVELS: Final = ("debug", "info", "warning", "error")

_FALLBACKS: Final = {"vault-addr": "VAULT_ADDR", "vault-ca-cert": "VAULT_CACERT"}
_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h)?")
_UNITS: Final = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_BRIDGE_ID: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")

_DESCRIPTION: Final = """\
OpenBao's companion to the outside: dials out to a beacon, or to the broker
(reverse mode), ends the pods' TLS, checks who they are and forwards what they
may ask. `status` asks the running bridge how it is.
"""
_EPILOG: Final = f"""\
example:
  cloudtaser-bridge --vault-addr https://127.0.0.1:8200 \\
    --vault-ca-cert /etc/cloudtaser/openbao-ca.crt --id eu-1 \\
    --vault-token-file /etc/cloudtaser/bridge.token \\
    --beacon-address beacon.example.com:443

environment:
  Each flag has a twin, --poll-interval is {ENVIRONMENT_PREFIX}POLL_INTERVAL;
  a flag wins, then the twin, then VAULT_ADDR, VAULT_CACERT and VAULT_TOKEN.

exit codes:
  0  ended by SIGTERM or SIGINT; `status`: the bridge is ready
  1  failed, the line says what; `status`: not ready, or nobody answers
  2  a setting is missing or cannot be used
"""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Config:
    """Everything the bridge needs to run. Times are seconds."""

    vault_addr: str
    vault_ca_cert: str | None
    login: Login
    beacon_addresses: tuple[Address, ...]
    beacon_ca: str | None
    beacon_insecure: bool
    poll_interval: float
    bridge_id: str
    status_socket: str
    metrics_addr: Address | None
    certificate_ttl: float
    drain: float
    rate_peer: Rate
    rate_token: Rate
    rate_cluster: Rate
    admin: AdminConfig
    log_level: str
    brokers: Brokers = field(default_factory=Brokers)
    proxies: Proxies = DIRECT
    files: PairFiles | None = None
    pods: PodLogins = field(default_factory=PodLogins)


@dataclass(frozen=True, slots=True)
class StatusRequest:
    """`cloudtaser-bridge status`: ask the running bridge and print what it says."""

    status_socket: str


def parse(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Config | StatusRequest:
    """Flags and environment to a checked configuration. ConfigError names the source and the fix."""
    asks = arguments[:1] == ["status"]
    found = _parser().parse_args(list(arguments)[asks:])
    values = _Values(vars(found), environment)
    if asks:
        return StatusRequest(values.take("status-socket", DEFAULT_STATUS_SOCKET, _text))
    return Config(
        vault_addr=values.required("vault-addr", _vault_addr, "URL of OpenBao, as https://127.0.0.1:8200"),
        vault_ca_cert=values.optional("vault-ca-cert", readable),
        login=config_login.read(values, environment),
        beacon_addresses=values.optional("beacon-address", Address.parse_list) or (),
        beacon_ca=values.optional("beacon-ca", readable),
        beacon_insecure=values.take("beacon-insecure", "false", boolean),
        poll_interval=values.take("poll-interval", "5s", _seconds(0.05, 3600)),
        bridge_id=values.take("id", _host_id(), _bridge_id),
        status_socket=values.take("status-socket", DEFAULT_STATUS_SOCKET, _text),
        metrics_addr=values.optional("metrics-addr", _metrics_addr),
        certificate_ttl=values.take("certificate-ttl", "24h", _seconds(10, 24 * 3600)),
        drain=values.take("drain", "30s", _seconds(0, 3600)),
        rate_peer=values.take("rate-peer", str(PEER), Rate.parse),
        rate_token=values.take("rate-token", str(TOKEN), Rate.parse),
        admin=config_admin.read(values),
        rate_cluster=values.take("rate-cluster", str(CLUSTER), Rate.parse),
        log_level=values.take("log-level", "info", _log_level),
        brokers=config_brokers.read(values),
        proxies=values.proxies(),
        files=config_files.read(values),
        pods=config_pods.read(values),
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message, on="command line", fix="see --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="cloudtaser-bridge",
        usage="%(prog)s --vault-addr URL --beacon-address LIST [...]\n"
        "       %(prog)s --vault-addr URL --broker-address LIST [...]\n"
        "       %(prog)s status [--status-socket PATH]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cloudtaser-bridge {VERSION}")
    _openbao_flags(parser)
    config_login.add_flags(parser)
    _beacon_flags(parser)
    config_brokers.add_flags(parser)
    config_files.add_flags(parser)
    config_admin.add_flags(parser)
    config_pods.add_flags(parser)
    _operations_flags(parser)
    return parser


def _openbao_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("OpenBao").add_argument
    add("--vault-addr", metavar="URL", help="OpenBao; http:// for loopback only (VAULT_ADDR)")
    add(
        "--vault-ca-cert",
        metavar="FILE",
        help="checks OpenBao's certificate (VAULT_CACERT, else system roots)",
    )
    add("--poll-interval", metavar="TIME", help="between looks at the registrations (5s)")
    add("--id", metavar="ID", help="this bridge's name in records and certificates (host name)")
    add("--certificate-ttl", metavar="TIME", help="life of what it signs (24h)")


def _beacon_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("beacons").add_argument
    add(
        "--beacon-address",
        metavar="LIST",
        help="host:port, comma separated: parked at all; *.host:port is a fleet",
    )
    add("--beacon-ca", metavar="FILE", help="checks the beacon's certificate (else system roots)")
    add(
        "--beacon-insecure",
        action="store_const",
        const="true",
        help="do not check it: shows the room hash only",
    )
    add("--proxy", metavar="URL", help="HTTP proxy for every connection, or off (else HTTPS_PROXY, NO_PROXY)")
    add("--proxy-ca", metavar="FILE", help="checks an https:// proxy's certificate (else system roots)")


def _operations_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("limits and operations").add_argument
    add(
        "--rate-peer",
        metavar="RATE",
        help=f"a pod's requests without a proven token, a second/at once ({PEER})",
    )
    add("--rate-token", metavar="RATE", help=f"requests under one token ({TOKEN})")
    add("--rate-cluster", metavar="RATE", help=f"requests of one cluster ({CLUSTER})")
    add("--drain", metavar="TIME", help="how long open streams may take at SIGTERM (30s)")
    add("--status-socket", metavar="PATH", help=f"Unix socket ({DEFAULT_STATUS_SOCKET})")
    add("--metrics-addr", metavar="ADDR", help="opens loopback metrics, as 127.0.0.1:9091")
    add("--log-level", metavar="LEVEL", help=", ".join(LOG_LEVELS) + " (info)")


class _Values:
    """Where each setting's text comes from, so that a complaint can name it."""

    def __init__(self, flags: Mapping[str, str | None], environment: Mapping[str, str]) -> None:
        self._flags = flags
        self._environment = environment

    def required(self, name: str, check: Callable[[str], T], fix: str) -> T:
        text, source = self._find(name)
        if text is None:
            raise ConfigError("a setting is missing", on=f"--{name} or {_twin(name)}", fix=fix)
        return self._checked(text, source, check)

    def optional(self, name: str, check: Callable[[str], T]) -> T | None:
        text, source = self._find(name)
        return None if text is None else self._checked(text, source, check)

    def take(self, name: str, default: str, check: Callable[[str], T]) -> T:
        text, source = self._find(name)
        return self._checked(default if text is None else text, source, check)

    def proxies(self) -> Proxies:
        given, source = self._find("proxy")
        ca_file = self.optional("proxy-ca", readable)
        return Proxies.read(self._environment, given, source=source, ca_file=ca_file)

    def _find(self, name: str) -> tuple[str | None, str]:
        flag = self._flags.get(name.replace("-", "_"))
        if flag is not None:
            return flag, f"--{name}"
        for variable in (_twin(name), _FALLBACKS.get(name)):
            if variable and self._environment.get(variable):
                return self._environment[variable], variable
        return None, f"--{name}"

    @staticmethod
    def _checked(text: str, source: str, check: Callable[[str], T]) -> T:
        try:
            return check(text.strip())
        except ConfigError as error:
            raise ConfigError(error.what, on=source, fix=error.fix) from None


def _twin(name: str) -> str:
    return ENVIRONMENT_PREFIX + name.upper().replace("-", "_")


def _text(text: str) -> str:
    if not text:
        raise ConfigError("empty value", fix="give a path")
    return text


def _vault_addr(text: str) -> str:
    from cloudtaser.openbao.client import check_address  # brings an HTTP client, which `status` does without

    return check_address(text)


def _metrics_addr(text: str) -> Address:
    from cloudtaser.openbao.client import is_loopback

    address = Address.parse(text)
    if not is_loopback(address.host):
        raise ConfigError(f"{address.host} is not loopback", fix="as 127.0.0.1:9091")
    return address


def _seconds(least: float, most: float) -> Callable[[str], float]:
    def check(text: str) -> float:
        match = _DURATION.fullmatch(text)
        if match is None:
            raise ConfigError(f"{text!r} is not a time", fix="as 30s, 5m or 24h")
        seconds = float(match[1]) * _UNITS[match[2]]
        if not least <= seconds <= most:
            raise ConfigError(f"{text!r} is out of range", fix=f"from {least:g}s to {most:g}s")
        return seconds

    return check


def _bridge_id(text: str) -> str:
    if _BRIDGE_ID.fullmatch(text) is None:
        raise ConfigError(f"{text!r} is not an id", fix="lower-case letters, digits and hyphens, 63 at most")
    return text


def _host_id() -> str:
    """The host's first label in the characters of an id."""
    label = re.sub(r"[^a-z0-9-]", "-", socket.gethostname().split(".", 1)[0].lower()).strip("-")
    return label[:63].strip("-") or "bridge"


def _log_level(text: str) -> str:
    if text not in LOG_LEVELS:
        raise ConfigError(f"{text!r} is not a level", fix="one of " + ", ".join(LOG_LEVELS))
    return text
