"""Many pods at once: hundreds of objects on a stand-in node all get a token, all are renewed, and when the
pods are gone OpenBao knows as many tokens as before. `CLOUDTASER_TOKEN_PODS=2000` tries thousands."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeVar

import pytest

from cloudtaser.errors import CloudtaserError
from cloudtaser.kube.errors import KubeUnavailableError, NotFoundError
from cloudtaser.kube.kinds import PODS
from tests.chain_tools import eventually
from tests.cluster.tokens.stand_in_node import StandInNode, Wrapper
from tests.cluster.tokens.unsealing import unseal
from tests.cluster.tokens.world import SHOP, Replica, TokenPod, TokenWorld

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(1200),
]

MANY: Final = int(os.environ.get("CLOUDTASER_TOKEN_PODS", "300"))
PERIOD: Final = 120 if MANY <= 500 else 300
PATIENCE: Final = 600.0
T = TypeVar("T")


async def each(items: Iterable[T], work: Callable[[T], Awaitable[None]], at_a_time: int) -> None:
    """`work` for each, many at a time; again where the API server has too much to do."""
    todo = iter(list(items))

    async def worker() -> None:
        for item in todo:
            while True:
                try:
                    await work(item)
                except KubeUnavailableError:
                    await asyncio.sleep(1.0)
                else:
                    break

    await asyncio.gather(*(worker() for _ in range(at_a_time)))


async def minted(replica: Replica, what: str = "minted") -> float:
    return await replica.metric("cloudtaser_operator_pod_tokens_total", what=what)


async def test_hundreds_of_pods_get_keep_and_lose_their_tokens(
    world: TokenWorld, node: StandInNode, replica: Replica
) -> None:
    took: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(what: str):  # type: ignore[no-untyped-def]
        began = time.monotonic()
        yield
        took[what] = round(time.monotonic() - began, 1)

    role = f"auth/token/roles/{world.chain.space.pod_token_role}"
    settings = (await world.admin.request("GET", role))["data"]
    first = await world.add_pod(port=node.port)  # with it the operator logs in, whose token stays
    await unseal(world, node, node.run(first), replica)
    await world.delete(first)
    await world.until_gone(first)
    before = await world.accessors()
    counts = {what: await minted(replica, what) for what in ("minted", "renewed", "revoked")}
    await world.admin.request("POST", role, body=settings | {"token_period": PERIOD})
    wrappers: list[Wrapper] = []
    jwts: dict[str, str] = {}

    async def add(_: int) -> None:
        pod: TokenPod = await world.add_pod(port=node.port)
        jwts[pod.uid] = await world.jwt(pod)
        wrappers.append(node.run(pod))

    async def remove(name: str) -> None:
        with contextlib.suppress(NotFoundError):
            await world.kube.delete_object(PODS, SHOP, name, grace_seconds=0)

    async def announce(wrapper: Wrapper) -> None:
        """As a wrapper does, which comes again when it is not heard."""
        while wrapper.token is None:
            status = 0
            with contextlib.suppress(CloudtaserError):
                status = await node.announce(wrapper, jwts[wrapper.pod.uid], replica.unseal_port)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(15.0 if status == 202 else 0.5):
                    await wrapper.unsealed.wait()

    try:
        with timed("created"):
            await each(range(MANY), add, 8)
        with timed("unsealed"):
            await each(wrappers, announce, 48)
        made = await minted(replica) - counts["minted"]
        assert made >= MANY
        tokens = {wrapper.token.value.reveal_text() for wrapper in wrappers if wrapper.token is not None}
        assert len(tokens) == MANY, "each has one of its own"

        async def settled() -> bool:
            return len(await world.ledger()) == MANY and len(await world.accessors() - before) == MANY

        with timed("settled"):
            await eventually(settled, "one token a pod, all written down", timeout=PATIENCE, every=1.0)
        pods = await world.kube.list_objects(PODS, SHOP, metadata_only=True)
        annotated = [(pod["metadata"].get("annotations") or {}).values() for pod in pods.items]
        assert sum(any(value.startswith("app=") for value in values) for values in annotated) == MANY

        async def renewed() -> bool:
            return await minted(replica, "renewed") - counts["renewed"] >= MANY

        with timed("renewed"):
            await eventually(renewed, "all are renewed", timeout=PATIENCE, every=1.0)
        assert len(await world.accessors() - before) == MANY, "none has ended"
    finally:
        with timed("deleted"):
            there = await world.kube.list_objects(PODS, SHOP, metadata_only=True)
            await each([pod["metadata"]["name"] for pod in there.items], remove, 8)

        async def revoked() -> bool:
            return not await world.ledger()

        with timed("revoked"):
            await eventually(revoked, "all are revoked", timeout=PATIENCE, every=1.0)
        await world.admin.request("POST", role, body=settings)
    print(f"{MANY} pods, seconds: {took}, minted {made:.0f}")
    assert await world.accessors() <= before
