"""Settings that would make every pod fail are found at the start."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cloudtaser.errors import ConfigError
from tests.unit.operator.webhook.pods_rig import SETTINGS, World


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fingerprint", "shop"),
        ("wrapper_image", ""),
        ("vault_address", "vault.example.com"),
        ("vault_address", "https://"),
        ("rotation_grace", "soon"),
        ("rotation_debounce", "1 s"),
        ("poll_interval", "-1s"),
        ("rotation", "sighup"),
        ("allowed_addresses", ("ftp://x",)),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        World().webhook(**{name: value})
    assert name.replace("_", " ") in str(caught.value).replace("_", " ")


def test_without_a_broker_nobody_brings_tokens() -> None:
    direct = replace(SETTINGS, vault_address="https://vault.example.com", vault_auth_method="token")
    with pytest.raises(ConfigError, match="'token' needs a broker"):
        direct.check()
