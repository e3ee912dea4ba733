"""One answer, three forms; what a person should know besides goes elsewhere."""

from __future__ import annotations

import json

import pytest
from ruamel.yaml import YAML

from cloudtaser.cli.output import Format, Printer, actions_text, pairs
from cloudtaser.openbao.steps import Action

DATA = {"name": "grüße", "list": ["a", "b"], "empty": "", "flag": True}


@pytest.mark.parametrize("form", [Format.JSON, Format.YAML])
def test_programs_get_the_data_as_it_is(form: Format, capsys: pytest.CaptureFixture[str]) -> None:
    Printer(form, quiet=True).answer(DATA, text=["for people"], value=["value"])
    out = capsys.readouterr().out
    read = json.loads(out) if form is Format.JSON else YAML(typ="safe").load(out)
    assert read == DATA
    assert list(read) == list(DATA)


def test_quiet_leaves_the_value_and_no_notes(capsys: pytest.CaptureFixture[str]) -> None:
    printer = Printer(quiet=True)
    printer.answer(DATA, text=["for people"], value=["value"])
    printer.note("by the way")
    assert capsys.readouterr() == ("value\n", "")


def test_notes_do_not_mix_with_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    Printer().note("by the way")
    assert capsys.readouterr() == ("", "by the way\n")


def test_a_table_is_aligned_and_has_no_escapes_when_piped() -> None:
    assert Printer().table(("A", "LONG"), [["xxx", "y"]]) == ["A    LONG", "xxx  y"]
    assert pairs({"a": "1", "bbb": "2", "left out": ""}) == ["a    1", "bbb  2"]


def test_only_what_changes_is_listed_and_a_dry_run_shows_the_body() -> None:
    done = Action("GET", "n", "p", "fine", False)
    write = Action("POST", "n", "sys/policies/acl/x", "why", True, {"policy": '{"path": {}}'})
    assert actions_text([done, write], dry_run=False) == ["  why", "    POST n/sys/policies/acl/x"]
    assert actions_text([write], dry_run=True)[2:] == ['      {"path": {}}']


def test_a_note_fits_a_terminal_and_a_command_in_it_stays_whole(capsys: pytest.CaptureFixture[str]) -> None:
    command = "  cloudtaser-cli source resume " + "f" * 60
    Printer().note(f"{'many words ' * 12}:\n{command}")
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == command
    assert len(lines) == 3
    assert max(map(len, lines[:-1])) <= 80


def test_a_long_reason_is_continued_under_itself() -> None:
    action = Action("POST", "", "sys/x", "because " * 20, True)
    lines = actions_text([action], dry_run=False)
    assert max(map(len, lines)) <= 80
    assert [line.startswith("  because") for line in lines] == [True, True, True, False]
