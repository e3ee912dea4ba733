"""What the bridge was told about administrators: its second token, what their own tokens reach, how fast they
may.

Used by `config`, which reads flags and twins, and by `service`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from cloudtaser.bridge.admin_rules import DEFAULT, AdminRules
from cloudtaser.bridge.config_login import readable
from cloudtaser.bridge.limits import ADMIN
from cloudtaser.net.rates import Rate

T = TypeVar("T")


class Values(Protocol):
    """As `config` reads one setting: None where it is not given, ConfigError naming its source when bad."""

    def optional(self, name: str, check: Callable[[str], T]) -> T | None:
        """The checked value."""


@dataclass(frozen=True, slots=True)
class AdminConfig:
    """`token_file` is None where the bridge stores nothing for administrators."""

    token_file: str | None
    rules: AdminRules
    rate: Rate


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags about administrators."""
    add = parser.add_argument_group("administrators").add_argument
    add("--admin-token-file", metavar="FILE", help="second token, to store what administrators migrate")
    add(
        "--admin-allow",
        metavar="LIST",
        help="paths that admin streams reach beside a pod's, PATH[/*][:write]",
    )
    add("--rate-admin", metavar="RATE", help=f"migrations of one cluster ({ADMIN})")


def read(values: Values) -> AdminConfig:
    """What they say. ConfigError names the source and the fix."""
    return AdminConfig(
        token_file=values.optional("admin-token-file", readable),
        rules=values.optional("admin-allow", AdminRules.parse) or DEFAULT,
        rate=values.optional("rate-admin", Rate.parse) or ADMIN,
    )
