"""docs/cli.md names every command and flag that `--help` shows."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from cloudtaser.cli.app import main

DOCUMENT = (Path(__file__).parents[3] / "docs" / "cli.md").read_text()
SOURCE = [
    *("register", "deregister", "list", "show", "allow", "deny", "grants", "bridge-token"),
    *("bridge-login", "pairs"),
    *("rotate", "suspend", "resume", "reset", "accept-keys", "move", "status"),
]


@pytest.mark.parametrize(
    "command", [["source", name] for name in SOURCE] + [["version"], ["demo"], ["completion"]]
)
def test_every_flag_of_a_command_is_documented(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["cloudtaser-cli"])
    assert f"`{' '.join(command)}" in DOCUMENT
    assert main([*command, "--help"]) == 0
    options = capsys.readouterr().out.split("Options:")[1].split("Examples:")[0]
    for flag in set(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", options, re.MULTILINE)) - {"--help"}:
        assert flag in DOCUMENT, flag
