"""One cluster for all tests of this folder: it takes a while to start, and nothing here wants it empty.

`control_plane` is an API server with all that belongs to it, for the tests that need no pod to run; `cluster`
another one with a node. `europe` is the other half of the latter, `installation` the product in it, and
`shop` a company that uses it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.cluster import custom_resources
from tests.cluster.applications import client_image, static_image
from tests.cluster.control_plane import ControlPlane
from tests.cluster.europe import Europe
from tests.cluster.existing import VARIABLE, ExistingControlPlane
from tests.cluster.installation import Installation
from tests.cluster.node import Cluster
from tests.cluster.operator_world import OperatorWorld
from tests.cluster.shop import SHOW, Images, Shop


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def control_plane(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ControlPlane]:
    """A control plane without a node. Who restarts a part of it waits until it is ready again.

    For the tests that may run `anywhere` it is somebody else's, where one is named.
    """
    directory, named = tmp_path_factory.mktemp("control-plane"), os.environ.get(VARIABLE)
    async with ExistingControlPlane(directory, Path(named)) if named else ControlPlane(directory) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def resources(control_plane: ControlPlane) -> ControlPlane:
    """The control plane, with our custom resources."""
    await custom_resources.install(control_plane)
    return control_plane


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def operator_world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OperatorWorld]:
    """The operator's programs without a node: one replica, which got in from nothing but the beacon's
    address, and in which more may be started."""
    async with OperatorWorld(tmp_path_factory.mktemp("operator")) as world:
        first = world.replica()
        await first.start()
        await first.up()
        yield world


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """A control plane, and a node that runs pods."""
    async with Cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def europe(cluster: Cluster) -> AsyncIterator[Europe]:
    """OpenBao, bridge, beacon and PostgreSQL outside the cluster, which is registered there."""
    async with Europe(cluster) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def operator(
    cluster: Cluster, europe: Europe, tmp_path_factory: pytest.TempPathFactory
) -> Installation:
    """The chart, installed, with the operator's pods Ready."""
    installed = Installation(cluster, europe, tmp_path_factory.mktemp("images"))
    await installed.prepare()
    await installed.install()
    return installed


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def installation(operator: Installation) -> Installation:
    """The same once pods are injected. Who takes a part of it away brings it back."""
    await operator.injects()
    return operator


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shop(cluster: Cluster, europe: Europe, installation: Installation) -> Shop:
    """Pods of every kind, applied just now."""
    registry = cluster.registry
    images = Images(
        static=await registry.push("shop/static:1", static_image()),
        speaking=await registry.push("shop/speaking:1", static_image(*SHOW)),
        client=await registry.push("shop/client:15", client_image()),
    )
    opened = Shop(images, europe.postgres.port)
    await opened.open(cluster.control_plane, europe)
    return opened
