"""`--help` of every command, word for word, and what every one of them must hold."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import typer

from cloudtaser.cli.app import app, main
from tests import golden_files


def _walk(command: typer.core.TyperCommand, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield words
    for name, child in sorted(getattr(command, "commands", {}).items()):
        if not child.hidden:
            yield from _walk(child, (*words, name))


COMMANDS = list(_walk(typer.main.get_command(app)))  # type: ignore[arg-type]  # typer's own command


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["cloudtaser-cli"])
    monkeypatch.setenv("COLUMNS", "100")


def test_every_help_reads_as_it_was_approved(capsys: pytest.CaptureFixture[str]) -> None:
    told = []
    for words in COMMANDS:
        assert main([*words, "--help"]) == 0
        told.append(f"$ {' '.join(('cloudtaser-cli', *words, '--help'))}\n{capsys.readouterr().out}")
    golden_files.check("help.txt", "\n".join(told))


@pytest.mark.parametrize("words", [words for words in COMMANDS if words], ids=" ".join)
def test_every_help_has_an_example_and_the_exit_codes(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--help"]) == 0
    shown = capsys.readouterr().out
    if "Commands:" not in shown:
        assert f"\n    cloudtaser-cli {' '.join(words)}" in shown.split("Examples:")[1]
        assert "Exit codes:" in shown
