"""What was probably meant otherwise is said, and nothing else is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cloudtaser.wrapper.config import load
from cloudtaser.wrapper.oversights import oversights


def oversights_of(environ: dict[str, str]) -> list[str]:
    raw = {name.encode(): value.encode() for name, value in environ.items()}
    return [name for name, _ in oversights(raw, load(raw))]


def test_a_misspelt_setting_is_noticed() -> None:
    assert oversights_of({"CLOUDTASER_SECRETS_PATHS": "secret/data/app"}) == ["CLOUDTASER_SECRETS_PATHS"]


def test_what_the_kubelet_sets_for_a_service_is_no_setting() -> None:
    link = {
        "CLOUDTASER_BROKER_SERVICE_HOST": "10.0.0.1",
        "CLOUDTASER_BROKER_PORT": "tcp://10.0.0.1:8443",
        "CLOUDTASER_BROKER_PORT_8443_TCP_ADDR": "10.0.0.1",
    }
    assert oversights_of(link) == []


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({"VAULT_ADDR": "broker://b:8443", "CLOUDTASER_CA": "x"}, ["VAULT_ADDR"]),
        ({"CLOUDTASER_CA": "x"}, ["CLOUDTASER_CA"]),
        ({"VAULT_ADDR": "https://vault", "VAULT_TOKEN": "t"}, []),  # the application's own
        ({}, []),
    ],
)
def test_a_place_to_fetch_from_without_paths_is_noticed(environ: dict[str, str], found: list[str]) -> None:
    assert oversights_of(environ) == found


def test_every_setting_of_the_document_is_known() -> None:
    document = (Path(__file__).parents[3] / "docs" / "wrapper.md").read_text()
    named = set(re.findall(r"CLOUDTASER_[A-Z_]*[A-Z]", document)) - {"CLOUDTASER_TEMPLATE"}
    assert len(named) > 15
    assert oversights_of(dict.fromkeys(named, "")) == []
