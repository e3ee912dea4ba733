"""One OpenBao in memory for all tests of this folder; each test has its own corner of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cloudtaser.cli.app import main
from cloudtaser.demo.openbao import DevServer, start_dev
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.layout import Layout
from tests.integration.openbao.support import RegisteredCluster, Run, new_layout, registered_cluster


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevServer]:
    running = start_dev(Path(tmp_path_factory.mktemp("openbao")))
    yield running
    running.stop()


@pytest.fixture
async def root(server: DevServer) -> AsyncIterator[OpenBao]:
    async with OpenBao(server.address, token=server.root_token) as client:
        yield client


@pytest.fixture
def layout() -> Layout:
    return new_layout()


@pytest.fixture
async def cluster(server: DevServer, root: OpenBao, layout: Layout) -> RegisteredCluster:
    return await registered_cluster(server, root, layout)


@pytest.fixture
def run(server: DevServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    for name in ("VAULT_ADDR", "BAO_ADDR", "VAULT_TOKEN", "BAO_TOKEN", "VAULT_CACERT", "BAO_CACERT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VAULT_ADDR", server.address)
    monkeypatch.setenv("VAULT_TOKEN", "root")

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(["source", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call
