"""Every flag of every long-running program has its twin in the environment and stands in the documents."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cloudtaser.beacon.config import _parser as beacon_parser
from cloudtaser.beacon.config import parse as beacon_parse
from cloudtaser.bridge.config import _parser as bridge_parser
from cloudtaser.bridge.config import parse as bridge_parse
from cloudtaser.operator.config import read as operator_read
from cloudtaser.operator.config import read_broker
from cloudtaser.operator.flags import broker_parser, manager_parser
from cloudtaser.operator.flags import build_parser as operator_parser
from cloudtaser.operator.manager_config import read_manager

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {
    "beacon": ("beacon.md",),
    "bridge": ("bridge.md", "reverse.md", "admin.md", "proxy.md"),
    "operator": ("operator.md", "reverse.md", "admin.md", "proxy.md"),
    "operator manager": ("operator.md", "proxy.md"),
    "operator broker": ("operator.md", "reverse.md", "admin.md", "proxy.md"),
}
PARSERS = {
    "beacon": beacon_parser,
    "bridge": bridge_parser,
    "operator": operator_parser,
    "operator manager": manager_parser,
    "operator broker": broker_parser,
}
IN_A_POD = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
OF_EVERY_PROGRAM = {"--help", "--version"}


def flags(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    return (action for action in parser._actions if not OF_EVERY_PROGRAM & set(action.option_strings))


@pytest.mark.parametrize("program", PAGES)
def test_every_flag_stands_in_the_programs_documents(program: str) -> None:
    text = "\n".join((DOCS / page).read_text() for page in PAGES[program])
    told = set(re.findall(r"--[a-z][a-z0-9-]*", text))
    missing = {
        name
        for action in flags(PARSERS[program]())
        for name in action.option_strings
        if name.startswith("--") and name not in told
    }
    assert not missing


@pytest.mark.parametrize("program", PAGES)
def test_no_default_of_a_parser_hides_a_variable(program: str) -> None:
    hiding = [action.option_strings for action in flags(PARSERS[program]()) if action.default is not None]
    assert not hiding


class Asked(dict[str, str]):
    """An environment that remembers which variables were looked at."""

    def __init__(self, given: dict[str, str]) -> None:
        super().__init__(given)
        self.names: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)


GIVEN: dict[str, dict[str, str]] = {
    "beacon": {"CLOUDTASER_BEACON_DEV": "true"},
    "bridge": {
        "CLOUDTASER_BRIDGE_VAULT_ADDR": "http://127.0.0.1:8200",
        "CLOUDTASER_BRIDGE_BEACON_ADDRESS": "beacon.example.com:443",
        "VAULT_TOKEN": "s.token",
    },
    "operator": {
        "CLOUDTASER_OPERATOR_STANDALONE": "true",
        "CLOUDTASER_OPERATOR_FINGERPRINT": "0ad50c05-1153-4508-9237-4cb2912e2c23",
        "CLOUDTASER_OPERATOR_APISERVER": "https://10.0.0.1:6443",
        "CLOUDTASER_OPERATOR_APISERVER_CA": "/ca.crt",
        "CLOUDTASER_OPERATOR_APISERVER_TOKEN_FILE": "/token",
        "CLOUDTASER_OPERATOR_BEACON_ADDRESS": "beacon.example.com:443",
    },
    "operator manager": IN_A_POD | {"CLOUDTASER_OPERATOR_NAMESPACE": "cloudtaser-system"},
    "operator broker": IN_A_POD | {"CLOUDTASER_OPERATOR_BEACON_ADDRESS": "beacon.example.com:443"},
}
READS: dict[str, Callable[[Mapping[str, str]], object]] = {
    "beacon": lambda environment: beacon_parse([], environment),
    "bridge": lambda environment: bridge_parse([], environment),
    "operator": lambda environment: operator_read([], environment),
    "operator manager": lambda environment: read_manager([], environment),
    "operator broker": lambda environment: read_broker([], environment),
}


@pytest.mark.parametrize("program", PAGES)
def test_every_flag_has_a_twin_that_is_read(program: str) -> None:
    asked = Asked(GIVEN[program])
    READS[program](asked)
    prefix = f"CLOUDTASER_{program.upper().split()[0]}_"
    twins = {prefix + action.dest.upper() for action in flags(PARSERS[program]())}
    assert twins <= asked.names
