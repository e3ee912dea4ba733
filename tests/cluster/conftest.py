"""One cluster for all tests of this folder: it takes a while to start, and nothing here wants it empty."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.cluster.node import Cluster


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """A control plane, and a node that runs pods."""
    async with Cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running
