"""One OpenBao in memory for the commands of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudtaser.demo.openbao import DevServer, start_dev


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DevServer]:
    running = start_dev(tmp_path)
    yield running
    running.stop()
