"""What makes a CloudTaserConfig unusable: the same as what an admission would refuse."""

from __future__ import annotations

import dataclasses

import pytest

from cloudtaser.kube.allow_list import AllowList
from cloudtaser.kube.resources import CloudTaserConfig, Metadata
from cloudtaser.operator.controllers.config_controller import problems

OWN = "broker://cloudtaser-broker.cloudtaser-system.svc:8443"
ALLOWED = AllowList(["https://vault.example.com:8200"])
CONFIG = CloudTaserConfig(Metadata("shop", "db"), ("secret/data/a", "secret/data/b"), "x=X;y=Y")


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"env_map": ""},
        {"env_map": "x=X"},
        {"env_map": "x=LD_PRELOAD"},
        {"secret_paths": ("pki/issue/web?common_name=a&ttl=1h", "secret/data/a#3")},
        {"vault_address": "https://vault.example.com:8200"},
        {"vault_address": "https://vault.example.com:8200/"},
        {"vault_address": OWN},
    ],
)
def test_what_can_be_used_has_no_problem(change: dict[str, object]) -> None:
    assert problems(dataclasses.replace(CONFIG, **change), OWN, ALLOWED) == []  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"env_map": "x=X;y=Y;z=Z"}, "spec.envMap: 3 groups for 2 paths"),
        ({"env_map": "x=X,y=X"}, "spec.envMap: X is set twice"),
        ({"env_map": "x"}, "spec.envMap: 'x' is not field=NAME"),
        ({"secret_paths": ("a", "a")}, "spec.secretPaths: a is listed twice"),
        ({"secret_paths": ("a/../b",)}, "spec.secretPaths"),
        ({"vault_address": "https://vault.example.com"}, "spec.vaultAddress"),
        ({"vault_address": "https://127.0.0.1:8200"}, "never allowed"),
        ({"vault_address": "https://169.254.169.254"}, "never allowed"),
        ({"vault_address": "https://0x7f.1:8200"}, "spec.vaultAddress"),
    ],
)
def test_what_cannot_be_used_names_the_field(change: dict[str, object], words: str) -> None:
    found = problems(dataclasses.replace(CONFIG, **change), OWN, ALLOWED)  # type: ignore[arg-type]
    assert words in "; ".join(map(str, found))
