"""The payload, built once by the same command that a user has, and images to run it in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.payload.built import build
from tests.integration.payload.containers import Images


@pytest.fixture(scope="session")
def payload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The payload's directory, from the cache where nothing changed."""
    directory = tmp_path_factory.mktemp("payload")
    directory.chmod(0o755)  # read by the containers' user
    return build(directory)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return Images(tmp_path_factory.mktemp("images"))
