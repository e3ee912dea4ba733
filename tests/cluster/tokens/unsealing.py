"""What the tests of the token method do with one pod."""

from __future__ import annotations

import asyncio
import contextlib

from cloudtaser.errors import CloudtaserError
from tests.chain_tools import eventually
from tests.cluster.tokens.stand_in_node import StandInNode, Wrapper
from tests.cluster.tokens.world import PATIENCE, Replica, TokenWorld


async def unseal(world: TokenWorld, node: StandInNode, wrapper: Wrapper, replica: Replica) -> None:
    """Announce as a wrapper does, again and again, until the token has come and the pod says so."""
    jwt = await world.jwt(wrapper.pod)

    async def arrived() -> bool:
        if wrapper.token is None:
            with contextlib.suppress(CloudtaserError):
                await node.announce(wrapper, jwt, replica.unseal_port)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await wrapper.unsealed.wait()
        return wrapper.token is not None and f"{wrapper.container}=" in await world.annotation(wrapper.pod)

    await eventually(arrived, f"{wrapper.pod.name} is unsealed", timeout=PATIENCE)
