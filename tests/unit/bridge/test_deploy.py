"""The systemd units name settings that the bridge has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cloudtaser.bridge.config import ENVIRONMENT_PREFIX, _parser

UNITS = Path(__file__).parents[3] / "deploy" / "systemd"
FILES = sorted([UNITS / "cloudtaser-bridge.service", *(UNITS / "cloudtaser-bridge.service.d").iterdir()])


@pytest.mark.parametrize("unit", FILES, ids=lambda path: path.name)
def test_every_variable_of_a_unit_is_the_twin_of_a_flag(unit: Path) -> None:
    flags = {option for action in _parser()._actions for option in action.option_strings}
    named = re.findall(rf"{ENVIRONMENT_PREFIX}([A-Z_]+)", unit.read_text())
    assert named
    for name in named:
        assert f"--{name.lower().replace('_', '-')}" in flags, name
