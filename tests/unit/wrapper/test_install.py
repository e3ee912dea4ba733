"""`--install` outside the payload; in containers: tests/integration/payload."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudtaser.wrapper.app import run
from cloudtaser.wrapper.install import EX_CANTCREAT, InstallError, install


def test_only_the_payloads_program_copies_itself(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InstallError, match="make payload"):
        install(str(tmp_path))
    assert run(["--install", str(tmp_path)]) == EX_CANTCREAT
    assert capfd.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [[], ["/a", "/b"]])
def test_it_takes_one_directory(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["--install", *arguments]) == 64
    assert capfd.readouterr().err.count("\n") == 1
