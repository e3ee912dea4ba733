"""Flags about logins of pods, and their twins."""

from __future__ import annotations

import pytest

from cloudtaser.bridge.config import Config, parse
from cloudtaser.bridge.config_pods import PodLogins
from cloudtaser.errors import ConfigError

NEEDED = {"VAULT_ADDR": "https://127.0.0.1:8200", "VAULT_TOKEN": "s.token"}


def pods(*arguments: str, **environment: str) -> PodLogins:
    config = parse(["--beacon-address", "beacon.example:443", *arguments], NEEDED | environment)
    assert isinstance(config, Config)
    return config.pods


def test_unless_told_nobody_is_asked_and_nobody_refused() -> None:
    assert pods() == PodLogins(strict=False, single=False)


def test_flags_and_twins_say_the_same() -> None:
    assert pods("--strict") == PodLogins(strict=True) == pods(CLOUDTASER_BRIDGE_STRICT="true")
    assert pods("--single-login") == PodLogins(single=True) == pods(CLOUDTASER_BRIDGE_SINGLE_LOGIN="true")


def test_a_twin_that_is_neither_true_nor_false_is_named() -> None:
    with pytest.raises(ConfigError, match="neither") as error:
        pods(CLOUDTASER_BRIDGE_STRICT="perhaps")
    assert error.value.on == "CLOUDTASER_BRIDGE_STRICT"
