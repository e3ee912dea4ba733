"""Addresses that come from others: what they are, and which spellings are refused.

Used for everything that a pod's author or a server can make us connect to: annotations, registries, token
realms, redirects. A name is checked as it is written, and again by what it resolves to. Pure.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from collections.abc import Iterable
from typing import Final

from cloudtaser.errors import ConfigError, ProtocolError

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Scope(enum.StrEnum):
    """What kind of place an address is."""

    PUBLIC = "public"
    PRIVATE = "private"
    """RFC 1918, RFC 6598 (100.64.0.0/10), RFC 4193: allowed where an administrator lists it."""
    LOOPBACK = "loopback"
    LINK_LOCAL = "link-local"
    METADATA = "metadata"
    """A cloud's service that hands out credentials to whoever asks from inside."""
    OTHER = "reserved"
    """Unspecified, multicast, broadcast, documentation and the like: nobody's address."""


_METADATA: Final = frozenset(
    map(
        ipaddress.ip_address,
        (
            "169.254.169.254",  # AWS, Azure, Google, OpenStack and others
            "169.254.170.2",  # AWS, containers' credentials
            "169.254.170.23",  # AWS, EKS Pod Identity
            "100.100.100.200",  # Alibaba
            "168.63.129.16",  # Azure, the host's agent
            "192.0.0.192",  # Oracle, older
            "fd00:ec2::254",  # AWS
            "fd00:ec2::23",  # AWS, EKS Pod Identity
            "fd20:ce::254",  # Google
        ),
    )
)
_PRIVATE: Final = tuple(
    map(
        ipaddress.ip_network,
        ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"),
    )
)
_THIS_NETWORK: Final = ipaddress.ip_network("0.0.0.0/8")
"""Linux takes 0.0.0.0 for itself."""
_NAT64: Final = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))
_COMPATIBLE: Final = ipaddress.ip_network("::/96")
_LOCAL_NAMES: Final = frozenset(("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"))
_METADATA_NAMES: Final = frozenset(
    ("metadata", "metadata.google.internal", "instance-data", "instance-data.ec2.internal")
)
_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*", re.ASCII)


def scope(address: IPAddress) -> Scope:
    """What `address` is; an IPv6 address that carries an IPv4 one is what that one is."""
    inner = embedded(address)
    if inner is not None:
        return scope(inner)
    if address in _METADATA:
        return Scope.METADATA
    if address.is_loopback or (address.version == 4 and address in _THIS_NETWORK):
        return Scope.LOOPBACK
    if address.is_link_local:
        return Scope.LINK_LOCAL
    if any(address in network for network in _PRIVATE):
        return Scope.PRIVATE
    if address.is_unspecified:
        return Scope.LOOPBACK
    if address.is_multicast or not address.is_global:
        return Scope.OTHER
    return Scope.PUBLIC


def embedded(address: IPAddress) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 one leads to: mapped, 6to4, Teredo, NAT64 (RFC 6052, RFC 8215)."""
    if not isinstance(address, ipaddress.IPv6Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    low = int(address) & 0xFFFFFFFF
    if any(address in network for network in _NAT64) or (address in _COMPATIBLE and low > 1):
        return ipaddress.IPv4Address(low)
    return None


def parse_host(text: str) -> IPAddress | str:
    """The one address, or the name in lower case, that every reader of `text` must understand by it.

    An IPv6 address stands without brackets. ProtocolError, one phrase, for anything that resolvers read in
    different ways: numbers that are no dotted quad (`127.1`, `0x7f.0.0.1`, `2130706433`, `0177.0.0.1`),
    zones, characters outside a host name, a final stop.
    """
    if ":" in text:
        if "%" in text:
            raise ProtocolError(f"{text[:80]!r} names a zone of this machine")
        try:
            return ipaddress.IPv6Address(text)
        except ValueError:
            raise ProtocolError(f"{text[:80]!r} is not an IPv6 address") from None
    labels = text.split(".")
    if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ProtocolError(f"{text[:80]!r} is not a host name")
    if _NUMBER.fullmatch(labels[-1]):  # WHATWG URL, "ends in a number": meant as an IPv4 address
        try:
            return ipaddress.IPv4Address(text)
        except ValueError:
            raise ProtocolError(f"{text[:80]!r} is not a plain IPv4 address") from None
    return text.lower()


def scope_of_name(name: str) -> Scope | None:
    """What a name means by itself, before anybody is asked for it; None when only its addresses say."""
    lowered = name.lower().rstrip(".")
    if lowered in _LOCAL_NAMES or lowered.endswith(".localhost"):
        return Scope.LOOPBACK
    if lowered in _METADATA_NAMES:
        return Scope.METADATA
    return None


_SPECIAL: Final = tuple(
    map(
        ipaddress.ip_network,
        ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "::1/128", "::/128", "fe80::/10"),
    )
)


def permitted(address: IPAddress, networks: Iterable[Network] = ()) -> bool:
    """Whether we may connect to `address`, which is public or in one of the listed `networks`.

    A wide network lists private addresses only: loopback and link-local ones need a network that lies within
    them, a cloud's metadata service its one address, everything else that is not public cannot be listed.
    """
    address = embedded(address) or address
    kind = scope(address)
    if kind is Scope.PUBLIC:
        return True
    if kind is Scope.OTHER:
        return False
    containing = [network for network in networks if address in network]
    if kind is Scope.PRIVATE:
        return bool(containing)
    if kind is Scope.METADATA:
        return any(network.prefixlen == network.max_prefixlen for network in containing)
    return any(
        network.version == special.version and network.subnet_of(special)  # type: ignore[arg-type]
        for network in containing
        for special in _SPECIAL
    )


def parse_network(text: str, *, source: str) -> Network:
    """`10.0.0.0/8`, or one address. ConfigError names the text and its `source`."""
    try:
        return ipaddress.ip_network(text.strip())
    except ValueError:
        raise ConfigError(
            f"{text[:80]!r} is no network", on=source, fix="write it as 10.0.0.0/8, without host bits"
        ) from None
