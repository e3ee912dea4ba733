"""The break-glass at the worst moment: bridges start and restart, and pods log in without a pause."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import time

import pytest

from cloudtaser.demo.chain import Chain
from cloudtaser.errors import CloudtaserError, NotAuthorisedError
from cloudtaser.openbao.client import OpenBao
from tests.chain_attackers import administrator
from tests.chain_tools import eventually, own_chain, pod_client

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.slow,
    pytest.mark.timeout(180),
]
WITHIN = 10.0


class Knocking:
    """Pods that log in again and again, each on a connection of its own."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._stop = asyncio.Event()
        self.in_at = 0.0
        self.count = 0

    async def run(self) -> None:
        jwt = self._chain.pod("shop").token_file.read_text()
        while not self._stop.is_set():
            with pod_client(self._chain) as client:
                try:
                    await client.login(jwt)
                except (OSError, http.client.HTTPException, CloudtaserError):
                    pass
                else:
                    self.count += 1
                    self.in_at = time.monotonic()
            await asyncio.sleep(0.05)  # leaves the processor to those who have to cut it off

    def stop(self) -> None:
        self._stop.set()


async def tokens(chain: Chain, root: OpenBao) -> list[str]:
    """Accessors of all tokens in the cluster's space. One may stand in OpenBao's list whose token was revoked
    in the moment in which it was made: it belongs to nobody."""
    where, found = chain.space.namespace, []
    for accessor in await root.list("auth/token/accessors", namespace=where):
        with contextlib.suppress(NotAuthorisedError):
            await root.request(
                "POST", "auth/token/lookup-accessor", namespace=where, body={"accessor": accessor}
            )
            found.append(accessor)
    return found


async def test_whoever_starts_or_logs_in_at_that_moment_is_out_within_ten_seconds_too() -> None:
    async with own_chain() as chain:
        await chain.start_openbao()
        await chain.register()
        first = await chain.new_bridge("--poll-interval", "5")
        second = await chain.new_bridge("--poll-interval", "5")
        third = await chain.new_bridge("--poll-interval", "5")
        await asyncio.gather(chain.start_beacon(), chain.start_apiserver())
        first.start()
        second.start()
        await chain.start_operator()
        pods = [Knocking(chain) for _ in range(3)]
        knocking = [asyncio.create_task(pod.run()) for pod in pods]

        async def all_in() -> bool:
            return all(pod.count > 2 for pod in pods)

        await eventually(all_in, "pods log in")
        began = time.monotonic()
        await chain.cli("source", "list")
        starting = time.monotonic() - began  # how long such a program takes here to do little
        restart = asyncio.create_task(second.restart())
        third.start()
        began = time.monotonic()
        result = (await chain.cli("source", "suspend", chain.fingerprint, "-o", "json")).json()
        await restart
        assert result["left"] == []
        async with administrator(chain) as root:

            async def no_tunnel() -> bool:
                return await chain.tunnels() == 0

            async def no_token() -> bool:
                return not await tokens(chain, root)

            await asyncio.gather(eventually(no_tunnel, "no tunnel"), eventually(no_token, "no token"))
            took = time.monotonic() - began - starting
            print(f"nothing left after {took:.1f} s")
            assert took < WITHIN
            count = sum(pod.count for pod in pods)
            await asyncio.sleep(7.0)  # longer than a poll: whatever is late would have come
            assert await chain.tunnels() == 0
            assert await tokens(chain, root) == []
            assert sum(pod.count for pod in pods) == count
        await chain.cli("source", "resume", chain.fingerprint)

        async def in_again() -> bool:
            return sum(pod.count for pod in pods) > count

        await eventually(in_again, "pods log in again by themselves", timeout=40)
        for pod in pods:
            pod.stop()
        await asyncio.gather(*knocking)
