"""The version is spelled once."""

import tomllib
from pathlib import Path

from cloudtaser.version import VERSION


def test_version_and_project_file_agree() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text())
    assert project["project"]["version"] == VERSION
