"""How the help of every command ends, and that all of it fits a terminal."""

from __future__ import annotations

import sys

import pytest

from cloudtaser.cli.app import main
from cloudtaser.cli.manual import manual

COMMANDS = [
    *("register", "deregister", "list", "show", "allow", "deny", "grants", "bridge-token", "bridge-login"),
    *("pairs", "rotate", "suspend", "resume", "reset", "accept-keys", "move", "status"),
]


@pytest.mark.parametrize("command", [["source", name] for name in COMMANDS] + [["demo"], ["completion"], []])
def test_help_fits_80_columns_and_ends_with_examples_and_exit_codes(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", ["cloudtaser-cli"])
    assert main([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert f"\n  Examples:\n    cloudtaser-cli {' '.join(command)}".rstrip() in text
    assert "\n  Exit codes:\n    0  done" in text


def test_a_long_example_is_continued_as_a_shell_allows() -> None:
    flags = " ".join(f"--flag-{number} value" for number in range(8))
    shown = manual(f"source allow {flags}").split("\n\n")[0]
    assert shown.replace(" \\\n   ", "").endswith(f"  cloudtaser-cli source allow {flags}")
    assert max(map(len, shown.splitlines())) <= 80


def test_only_a_command_that_can_differ_mentions_exit_code_3() -> None:
    assert "3  while it waits\n" in manual("source rotate", differs="while it waits")
    assert "\n  3  " not in manual("source list")
