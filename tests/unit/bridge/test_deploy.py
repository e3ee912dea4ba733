"""The systemd units name settings that the bridge has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cloudtaser.bridge.config import ENVIRONMENT_PREFIX, Config, _parser, parse

UNITS = Path(__file__).parents[3] / "deploy" / "systemd"
SERVICES = [UNITS / f"{name}.service" for name in ("cloudtaser-bridge", "vault-bridge")]
FILES = sorted([*SERVICES, *(UNITS / "cloudtaser-bridge.service.d").iterdir()])


@pytest.mark.parametrize("unit", FILES, ids=lambda path: path.name)
def test_every_variable_of_a_unit_is_the_twin_of_a_flag(unit: Path) -> None:
    flags = {option for action in _parser()._actions for option in action.option_strings}
    named = re.findall(rf"{ENVIRONMENT_PREFIX}([A-Z_]+)", unit.read_text())
    assert named
    for name in named:
        assert f"--{name.lower().replace('_', '-')}" in flags, name


@pytest.mark.parametrize("unit", SERVICES, ids=lambda path: path.name)
def test_a_unit_starts_with_the_settings_that_it_names(unit: Path, tmp_path: Path) -> None:
    text = unit.read_text()
    settings = dict(re.findall(rf"^#   ({ENVIRONMENT_PREFIX}[A-Z_]+)=(\S+)", text, re.MULTILINE))
    settings |= dict(re.findall(rf"^Environment=({ENVIRONMENT_PREFIX}[A-Z_]+)=(\S+)", text, re.MULTILINE))
    for name, value in settings.items():
        if "/" in value and "//" not in value:  # a file that the service is given
            file = tmp_path / name
            file.write_text("s.0123456789abcdef01234567")
            settings[name] = str(file)
    (command,) = re.findall(r"^ExecStart=(.+)$", text, re.MULTILINE)
    program, *flags = command.split()
    assert program.startswith("/opt/cloudtaser/bin/")
    assert isinstance(parse(flags, settings), Config)


def test_the_units_of_the_bridge_differ_in_nothing_but_what_they_start() -> None:
    def fenced(unit: Path) -> list[str]:
        return unit.read_text().partition("\n[Service]\n")[2].replace("vault-", "cloudtaser-").splitlines()

    assert fenced(SERVICES[0]) == fenced(SERVICES[1])
