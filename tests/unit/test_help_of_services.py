"""`--help` of bridge, operator, beacon and wrapper: fits a terminal, ends with an example and exit codes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = ["bridge", "operator", "operator manager", "operator broker", "beacon", "wrapper"]
DOCS = Path(__file__).parents[2] / "docs"


def help_of(program: str) -> str:
    name, *part = program.split()
    script = (
        f"import sys; sys.argv = [{f'cloudtaser-{name}'!r}, *{part!r}, '--help']; "
        f"from cloudtaser.{name}.app import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_fits_80_columns_and_names_what_a_person_needs(program: str) -> None:
    text = help_of(program)
    assert [line for line in text.splitlines() if len(line) > 80] == []
    for head in ("example:", "environment", "exit codes:"):
        assert re.search(rf"^{head}", text, re.MULTILINE), head


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_flag_stands_under_a_heading_of_its_own_and_in_the_document(program: str) -> None:
    text = help_of(program)
    document = (DOCS / f"{program.split()[0]}.md").read_text() + (DOCS / "reverse.md").read_text()
    document += (DOCS / "admin.md").read_text()
    flags = set(re.findall(r"^  (--[a-z-]+)", text, re.MULTILINE)) - {"--help", "--version"}
    if program == "wrapper":
        assert flags == {"--install"}  # everything else is a variable
        flags = set(re.findall(r"^  ((?:VAULT|CLOUDTASER)_[A-Z_]+)", text, re.MULTILINE))
    assert {flag for flag in flags if not re.search(rf"{flag}\b(?!-)", document)} == set()
    general = text.partition("\noptions:\n")[2].split("\n\n")[0]
    assert set(re.findall(r"--[a-z-]+", general)) <= {"--help", "--version"}
