"""One cluster for all tests of this folder: it takes a while to start, and nothing here wants it empty.

`control_plane` is an API server with all that belongs to it, for the tests that need no pod to run; `cluster`
another one with a node.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.cluster import custom_resources
from tests.cluster.control_plane import ControlPlane
from tests.cluster.node import Cluster


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def control_plane(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ControlPlane]:
    """A control plane without a node. Who restarts a part of it waits until it is ready again."""
    async with ControlPlane(tmp_path_factory.mktemp("control-plane")) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def resources(control_plane: ControlPlane) -> ControlPlane:
    """The control plane, with our custom resources."""
    await custom_resources.install(control_plane)
    return control_plane


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """A control plane, and a node that runs pods."""
    async with Cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running
