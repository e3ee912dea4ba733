"""A real OpenBao for the tests of this folder: in memory where that will do, with Raft and TLS where not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from cloudtaser.demo.openbao import DevServer, OpenBaoServer, start_dev
from cloudtaser.openbao.client import OpenBao


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevServer]:
    running = start_dev(tmp_path_factory.mktemp("openbao"))
    try:
        yield running
    finally:
        running.stop()


@pytest_asyncio.fixture
async def root(server: DevServer) -> AsyncIterator[OpenBao]:
    async with OpenBao(server.address, token=server.root_token) as client:
        yield client


@pytest.fixture(scope="session")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBaoServer]:
    """Keeps its data across restarts, and asks for client certificates."""
    running = OpenBaoServer(Path(tmp_path_factory.mktemp("openbao-tls")))
    running.start()
    try:
        yield running
    finally:
        running.stop()


@pytest_asyncio.fixture
async def tls_root(tls_server: OpenBaoServer) -> AsyncIterator[OpenBao]:
    address, ca = tls_server.address, tls_server.ca_file
    async with OpenBao(address, ca_file=ca, token=tls_server.root_token) as client:
        yield client
