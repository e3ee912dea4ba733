"""What the bridge was told about logins of pods: whether the API server is asked, and how often each may.

Used by `config`, which reads flags and twins, and by `service`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from cloudtaser.bridge.config_login import boolean

T = TypeVar("T")


class Values(Protocol):
    """As `config` reads one setting: None where it is not given, ConfigError naming its source when bad."""

    def optional(self, name: str, check: Callable[[str], T]) -> T | None:
        """The checked value."""


@dataclass(frozen=True, slots=True)
class PodLogins:
    """`strict`: a TokenReview at every login. `single`: no second login while a pod's first token lives."""

    strict: bool = False
    single: bool = False


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags about logins of pods."""
    add = parser.add_argument_group("logins of pods").add_argument
    add(
        "--strict",
        action="store_const",
        const="true",
        help="at each login also ask the cluster's API server (TokenReview): no deleted pod logs in",
    )
    add(
        "--single-login",
        action="store_const",
        const="true",
        help="refuse a pod's second login while its first token lives (else it is audited)",
    )


def read(values: Values) -> PodLogins:
    """What they say. ConfigError names the source and the fix."""
    return PodLogins(
        strict=values.optional("strict", boolean) or False,
        single=values.optional("single-login", boolean) or False,
    )
