"""Registries that the tests of this folder share: each is named by who may read from it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.image_registry import RegistryServer, TokenServer


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def public(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RegistryServer]:
    """Anybody may read, and write."""
    server = RegistryServer(tmp_path_factory.mktemp("public"))
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def passwords(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RegistryServer]:
    """Alice and Bob may read and write, by password."""
    server = RegistryServer(tmp_path_factory.mktemp("passwords"), passwords=True)
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def tokens(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TokenServer]:
    server = TokenServer(tmp_path_factory.mktemp("tokens"))
    await server.start()
    yield server
    await server.close()
