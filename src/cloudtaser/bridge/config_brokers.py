"""Which brokers the bridge dials, and how: the flags of reverse mode.

Used by `config`, which reads flags and twins, and by `doors`. (spec/bridge.md, "Reverse mode".)
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from cloudtaser.bridge.config_login import boolean, readable
from cloudtaser.errors import ConfigError, UsageError
from cloudtaser.net.dial import Address
from cloudtaser.wire.hashes import check_fingerprint

TRANSPORTS: Final = ("grpc", "tls")

T = TypeVar("T")


class Values(Protocol):
    """As `config` reads one setting: None where it is not given, ConfigError naming its source when bad."""

    def optional(self, name: str, check: Callable[[str], T]) -> T | None:
        """The checked value."""


@dataclass(frozen=True, slots=True)
class Brokers:
    """Addresses by fingerprint, "" for those given without one; how they are reached."""

    addresses: tuple[tuple[str, Address], ...] = ()
    transport: str = "grpc"
    outer_ca: str | None = None
    outer_insecure: bool = False

    @property
    def grpc(self) -> bool:
        """Whether brokers are reached by gRPC."""
        return self.transport == "grpc"

    def of(self, fingerprint: str) -> tuple[Address, ...]:
        """Those given for one cluster."""
        return tuple(address for whose, address in self.addresses if whose == fingerprint)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this module."""
    group = parser.add_argument_group("reverse mode", "Brokers that are dialled, beside beacons or instead.")
    add = group.add_argument
    add(
        "--broker-address",
        metavar="LIST",
        action=_Joined,
        help="host:port, or FINGERPRINT=host:port, comma separated or repeated (else as registered)",
    )
    add("--transport", metavar="NAME", help="how to a broker: grpc (default), or tls alone")
    add("--outer-ca", metavar="FILE", help="checks the broker's outer certificate (else system roots)")
    add(
        "--outer-insecure",
        action="store_const",
        const="true",
        help="with --transport tls: do not check it; shows the room hash only",
    )


def read(values: Values) -> Brokers:
    """The checked settings. ConfigError names the source and the fix."""
    transport = values.optional("transport", _transport) or TRANSPORTS[0]
    insecure = values.optional("outer-insecure", boolean) or False
    if insecure and transport != "tls":
        raise ConfigError(
            "gRPC always checks the outer certificate",
            on="--outer-insecure",
            fix="give the certificate's CA with --outer-ca, or use --transport tls",
        )
    return Brokers(
        addresses=values.optional("broker-address", _addresses) or (),
        transport=transport,
        outer_ca=values.optional("outer-ca", readable),
        outer_insecure=insecure,
    )


class _Joined(argparse.Action):
    """A flag that may be repeated: its values become one list."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, f"{before},{values}" if before else str(values))


def _addresses(text: str) -> tuple[tuple[str, Address], ...]:
    found: dict[tuple[str, Address], None] = {}
    for part in filter(None, (each.strip() for each in text.split(","))):
        whose, equals, where = part.rpartition("=")
        try:
            fingerprint = check_fingerprint(whose.strip()) if equals else ""
        except UsageError as error:
            raise ConfigError(error.what, fix="write host:port, or FINGERPRINT=host:port") from None
        address = Address.parse(where)
        if address.wildcard:
            raise ConfigError(f"{where.strip()!r} names no broker", fix="a wildcard is for beacons")
        found[fingerprint, address] = None
    if not found:
        raise ConfigError("no address was given", fix="give host:port, or several with commas")
    return tuple(found)


def _transport(text: str) -> str:
    if text not in TRANSPORTS:
        raise ConfigError(f"{text!r} is no transport", fix="grpc or tls")
    return text
