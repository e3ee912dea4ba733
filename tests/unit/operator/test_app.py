"""The program says in one line what is wrong, with the exit status that the documentation names."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudtaser.demo.certificates import write_server_certificate
from cloudtaser.operator.app import main
from tests.unit.operator.parties import FINGERPRINT


def test_without_standalone_it_ends_with_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "--standalone" in lines[0]


def test_help_names_every_setting_and_the_twins(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "--bridge-pin" in text
    assert "CLOUDTASER_OPERATOR_BEACON_ADDRESS" in text


@pytest.mark.parametrize("flag", ["--apiserver-ca", "--beacon-ca"])
def test_a_file_that_cannot_be_used_is_one_line(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = write_server_certificate(tmp_path, "any", ["127.0.0.1"])
    settings = {
        "--fingerprint": FINGERPRINT,
        "--apiserver": "https://127.0.0.1:1",
        "--apiserver-ca": str(files.ca),
        "--apiserver-token-file": "/nowhere/token",
        "--beacon-address": "127.0.0.1:1",
        flag: "/nowhere/ca.crt",
    }
    assert main(["--standalone", *(f"{name}={value}" for name, value in settings.items())]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "/nowhere/ca.crt" in line]
    assert len(lines) == 1
    assert "Traceback" not in lines[0]
