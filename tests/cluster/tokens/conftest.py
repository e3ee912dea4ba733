"""One world for all tests of this folder, with one replica of the operator and a stand-in for the nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from cloudtaser.wire import names
from tests.cluster.control_plane import ControlPlane
from tests.cluster.tokens.stand_in_node import StandInNode
from tests.cluster.tokens.world import Replica, TokenWorld, token_world


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def world(control_plane: ControlPlane) -> AsyncIterator[TokenWorld]:
    """OpenBao, beacon, bridge and the API server."""
    async with token_world(control_plane) as made:
        yield made


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def replica(world: TokenWorld) -> Replica:
    """The operator. Who stops it starts it again."""
    made = world.replica()
    await world.start(made)
    return made


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def node(world: TokenWorld, replica: Replica) -> AsyncIterator[StandInNode]:
    """Where pods run."""
    found = await world.kube.get_config_map(names.SYSTEM_NAMESPACE, names.POD_CA_CONFIGMAP)
    assert found is not None
    async with StandInNode(world.fingerprint, found.data["pod-ca.crt"]) as made:
        yield made
