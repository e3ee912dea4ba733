"""The operator is killed with SIGKILL at each step of making and bringing a token. Whatever the moment, the
pod gets its token from who comes next, and when the pod is gone no token of it is left that anybody held."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from cloudtaser.errors import CloudtaserError
from cloudtaser.operator.tokens.ledger import PREFIX
from tests.chain_tools import eventually
from tests.cluster.tokens.api_proxy import ApiProxy
from tests.cluster.tokens.stand_in_node import StandInNode, Wrapper
from tests.cluster.tokens.world import PATIENCE, Replica, TokenPod, TokenWorld

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(600),
]

MOMENTS = [
    ("review", False), ("review", True), ("pod", False), ("status", False), ("status", True),
    ("record", False), ("record", True), ("unseal", False), ("unseal", True), ("annotate", False),
    ("annotate", True),
]  # fmt: skip
"""A step, and whether it was done when the operator died."""


class Scene:
    """One replica behind a proxy, one node, and the trap that kills the replica's manager once."""

    def __init__(self, world: TokenWorld, replica: Replica, node: StandInNode) -> None:
        self.world = world
        self.replica = replica
        self.node = node
        self.trap: tuple[str, bool] | None = None
        self.pod: TokenPod | None = None
        self.sprung = asyncio.Event()

    async def seen(self, step: str, done: bool) -> None:
        """A step of the operator's; the trap springs at the one that is wanted."""
        if self.trap == (step, done):
            self.trap = None
            await self.replica.manager.kill()
            self.sprung.set()

    async def at_api(self, method: str, path: str, body: bytes, status: int) -> None:
        pod, done = self.pod, status > 0
        if pod is None or status >= 300:
            return
        if method == "POST" and path.endswith("/tokenreviews"):
            await self.seen("review", done)
        elif method == "GET" and path == f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}":
            await self.seen("pod", done)
        elif method in ("PATCH", "POST") and "/configmaps" in path and pod.uid.encode() in body:
            if PREFIX in path or PREFIX.encode() in body:
                await self.seen("record", done)
        elif method == "PATCH" and f"/pods/{pod.name}/status" in path:
            await self.seen("annotate", done)

    async def at_node(self, wrapper: Wrapper, path: str, done: bool) -> None:
        await self.seen(path.removeprefix("/v1/"), done)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def scene(
    world: TokenWorld, node: StandInNode, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Scene]:
    async with ApiProxy(world.plane, tmp_path_factory.mktemp("proxy")) as proxy:
        replica = world.replica(apiserver=proxy.url, apiserver_ca=proxy.ca)
        await world.start(replica)
        made = Scene(world, replica, node)
        proxy.hook, node.hook = made.at_api, made.at_node
        yield made
        node.hook = None
        await asyncio.gather(replica.manager.kill(), replica.broker.kill())


@pytest.mark.parametrize(("step", "done"), MOMENTS)
async def test_killed_at_any_step_the_next_one_completes_it_and_nothing_is_left_behind(
    scene: Scene, step: str, done: bool
) -> None:
    world, node, replica = scene.world, scene.node, scene.replica
    pod = scene.pod = await world.add_pod(port=node.port)
    wrapper = node.run(pod)
    jwt = await world.jwt(pod)
    scene.sprung.clear()
    scene.trap = (step, done)

    async def announce() -> None:
        with contextlib.suppress(CloudtaserError):  # it dies
            await node.announce(wrapper, jwt, replica.unseal_port)

    async def killed() -> bool:
        await announce()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2.0):
                await scene.sprung.wait()
        return scene.sprung.is_set()

    await eventually(killed, f"the operator was killed at {step}", timeout=PATIENCE)
    await world.start(replica)

    async def served() -> bool:
        if wrapper.token is None:
            await announce()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await wrapper.unsealed.wait()
        return wrapper.token is not None

    await eventually(served, "the pod has its token", timeout=PATIENCE)
    held = await world.tokens_of(pod)
    entries = {entry.accessor for entry in await world.ledger() if entry.pod.uid == pod.uid}
    unknown = held.keys() - entries
    # a token that was made and not written down: nobody had it, and it ends by itself
    assert len(unknown) <= (1 if (step, done) in (("status", True), ("record", False)) else 0)
    await world.delete(pod)
    await world.until_gone(pod, but=len(unknown))
    assert (await world.tokens_of(pod)).keys() <= unknown
