"""One whole chain for the tests of this folder: real processes, a real OpenBao, recorded on the way."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from cloudtaser.demo import setup
from cloudtaser.demo.chain import Chain
from cloudtaser.openbao.client import OpenBao
from tests.chain_tools import MANY_LOGINS


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chain() -> AsyncIterator[Chain]:
    """Registered, bootstrapped, with a tunnel. Tests leave it whole."""
    chain = Chain(record=True)
    try:
        await chain.start(*MANY_LOGINS)
        yield chain
    finally:
        await chain.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def admin(chain: Chain) -> AsyncIterator[OpenBao]:
    """OpenBao's administrator in the cluster's space."""
    async with setup.administrator(chain) as client:
        yield client
