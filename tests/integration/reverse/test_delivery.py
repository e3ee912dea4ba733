"""Reverse mode from nothing: no beacon, the bridge dials the broker, a secret arrives in a program."""

from __future__ import annotations

import pytest

from tests.reverse_chain import reverse_chain

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]


async def test_a_first_start_without_any_beacon_delivers_a_secret() -> None:
    async with reverse_chain() as chain:
        await chain.start(*chain.bridge_flags())
        await chain.value_arrives("by grpc")
