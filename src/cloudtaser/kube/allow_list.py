"""The allow list: which OpenBao a pod may name instead of the operator's own (spec/operator.md
"Annotations").

Used by the webhook for `cloudtaser.io/vault-address` and a CloudTaserConfig's `vaultAddress`, both of which
whoever may make pods can write. Default deny. Whatever the list says, an address never is link-local, a
cloud's metadata service, loopback or reserved, and is never spelled in a way that two readers could take
for two places. Pure: names are not looked up, since what they resolve to when a pod starts is not what they
resolve to now.

    https://vault.example.com         that name, port 443
    https://vault.example.com:8200    that name and port
    https://*.vault.example.com:8200  any name under it, at any depth
    https://10.1.2.3:8200             that address; a private one only in this way or the next
    https://10.1.0.0/16:8200          any address in it
    http://…                          the same without TLS, which every secret then lies open to
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cloudtaser.errors import ConfigError, ProtocolError, RefusedError
from cloudtaser.net.addresses import IPAddress, Network, Scope, parse_host, scope, scope_of_name

_PORTS: Final = {"https": 443, "http": 8200}
_NEVER: Final = (Scope.LOOPBACK, Scope.LINK_LOCAL, Scope.METADATA, Scope.OTHER)
_URL: Final = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<rest>.*)", re.DOTALL
)
_AUTHORITY: Final = re.compile(
    r"(?P<host>\[[^\[\]]*\]|[^\[\]:]*)(?::(?P<port>[1-9][0-9]{0,4}))?", re.ASCII | re.DOTALL
)
_MAX_ADDRESS: Final = 512


@dataclass(frozen=True, slots=True)
class VaultAddress:
    """An address of OpenBao as it is handed to the wrapper."""

    scheme: str
    host: IPAddress | str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if isinstance(self.host, ipaddress.IPv6Address) else str(self.host)
        return f"{self.scheme}://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class _Entry:
    scheme: str
    port: int
    name: str = ""
    """Empty for a network; `*.` in front for any name under it."""
    network: Network | None = None

    def admits(self, address: VaultAddress) -> bool:
        if (self.scheme, self.port) != (address.scheme, address.port):
            return False
        if isinstance(address.host, str):
            if self.name.startswith("*."):
                return address.host.endswith(self.name[1:])
            return bool(self.name) and address.host == self.name
        return self.network is not None and address.host in self.network


class AllowList:
    """Which addresses a pod may name. ConfigError at an entry that is none."""

    def __init__(self, entries: Iterable[str], *, source: str = "the list of allowed addresses") -> None:
        self._entries = tuple(_parse_entry(entry.strip(), source) for entry in entries if entry.strip())

    def check(self, text: str) -> VaultAddress:
        """The address in one spelling. RefusedError with one phrase when a pod may not name it."""
        address = _parse(text)
        where = scope_of_name(address.host) if isinstance(address.host, str) else scope(address.host)
        if where in _NEVER:
            raise RefusedError(f"{str(address.host)!r} is a {where} address, which is never allowed")
        if any(entry.admits(address) for entry in self._entries):
            return address
        kind = "private " if where is Scope.PRIVATE else ""
        raise RefusedError(
            f"the {kind}address {address} is not on the operator's list of allowed addresses",
            fix="ask the cluster's administrator for it, or leave it out to use the operator's own",
        )


def _parse(text: str) -> VaultAddress:
    if len(text) > _MAX_ADDRESS:
        raise RefusedError(f"an address of more than {_MAX_ADDRESS} letters")
    match = _URL.fullmatch(text)
    if match is None or match["scheme"].lower() not in _PORTS:
        raise RefusedError("it is no address of the form https://HOST[:PORT]")
    if match["rest"] not in ("", "/"):
        raise RefusedError("an address holds no path, query or fragment")
    if "@" in match["authority"]:
        raise RefusedError("an address holds no user")
    scheme = match["scheme"].lower()
    host, port = _split(match["authority"], scheme)
    try:
        return VaultAddress(scheme, parse_host(host), port)
    except ProtocolError as error:
        raise RefusedError(error.what) from None


def _split(authority: str, scheme: str) -> tuple[str, int]:
    match = _AUTHORITY.fullmatch(authority)
    if match is None or (match["port"] and int(match["port"]) > 65535):
        raise RefusedError("it is no address of the form https://HOST[:PORT]")
    host = match["host"]
    if host.startswith("["):
        host = host[1:-1]
        if ":" not in host:
            raise RefusedError("brackets stand round IPv6 addresses only")
    return host, int(match["port"] or _PORTS[scheme])


def _parse_entry(text: str, source: str) -> _Entry:
    def bad(why: str) -> ConfigError:
        return ConfigError(f"{text!r} cannot be allowed: {why}", on=source, fix="write https://HOST[:PORT]")

    scheme, mark, rest = text.partition("://")
    if not mark:
        scheme, rest = "https", text
    if scheme not in _PORTS:
        raise bad("its scheme is neither https nor http")
    network = re.fullmatch(r"\[?([0-9A-Fa-f:.]+/[0-9]{1,3})\]?(?::([1-9][0-9]{0,4}))?", rest, re.ASCII)
    if network is not None:
        try:
            return _Entry(scheme, int(network[2] or _PORTS[scheme]), network=ipaddress.ip_network(network[1]))
        except ValueError as error:
            raise bad(str(error)) from None
    wildcard = rest.startswith("*.")
    try:
        address = _parse(f"{scheme}://{rest.removeprefix('*.')}")
    except RefusedError as error:
        raise bad(error.what) from None
    if isinstance(address.host, str):
        return _Entry(scheme, address.port, name=("*." if wildcard else "") + address.host)
    if wildcard:
        raise bad("there are no names under an address")
    return _Entry(scheme, address.port, network=ipaddress.ip_network(address.host))
