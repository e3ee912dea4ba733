"""Parts of the cluster die and come back: pods that run notice nothing, pods that come get their secrets, and
where it is demanded none starts without.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from cloudtaser.wire.names import SYSTEM_NAMESPACE
from tests.cluster.installation import Installation
from tests.cluster.node import Cluster
from tests.cluster.pods import Pods, is_injected, lives
from tests.cluster.shop import GUARDED, Shop

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(900)]

WITNESS = "witness"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def witness(cluster: Cluster, shop: Shop) -> AsyncIterator[dict[str, tuple[str, int]]]:
    """A pod that runs through all of it; at the end it is still the same."""
    pods = Pods(cluster.control_plane)
    await pods.admitted(shop.static(WITNESS, namespace=GUARDED))
    before = lives(await pods.ready(WITNESS, namespace=GUARDED))
    yield before
    assert lives(await pods.ready(WITNESS, namespace=GUARDED)) == before


async def comes_up(cluster: Cluster, shop: Shop, name: str) -> None:
    """A new pod, where nothing may start without its secrets."""
    pods = Pods(cluster.control_plane)
    await pods.admitted(shop.static(name, namespace=GUARDED))
    assert is_injected(await pods.ready(name, namespace=GUARDED))
    await pods.says(name, f"DB_PASSWORD={shop.closed_password}", namespace=GUARDED)


async def test_the_api_server_is_killed_and_comes_back(
    cluster: Cluster, shop: Shop, witness: dict[str, tuple[str, int]]
) -> None:
    plane = cluster.control_plane
    await plane.apiserver.restart()
    await plane.apiserver.wait_until(plane.is_ready, "ready again", 120)
    await comes_up(cluster, shop, "after-the-api-server")
    assert lives(await Pods(plane).ready(WITNESS, namespace=GUARDED)) == witness


async def test_the_kubelet_is_killed_and_comes_back(
    cluster: Cluster, shop: Shop, witness: dict[str, tuple[str, int]]
) -> None:
    await cluster.kubelet.restart()
    await comes_up(cluster, shop, "after-the-kubelet")
    assert lives(await Pods(cluster.control_plane).ready(WITNESS, namespace=GUARDED)) == witness


async def test_the_webhooks_pod_is_killed_and_nothing_starts_without_its_secrets(
    cluster: Cluster, installation: Installation, shop: Shop, witness: dict[str, tuple[str, int]]
) -> None:
    pods = Pods(cluster.control_plane)
    killed = {one["metadata"]["name"] for one in await installation.pods()}
    await cluster.control_plane.kubectl(
        "delete", "pod", "-n", SYSTEM_NAMESPACE, "--force", "--grace-period=0", *killed
    )
    await comes_up(cluster, shop, "after-the-webhook")
    assert not killed & {one["metadata"]["name"] for one in await installation.pods()}
    assert lives(await pods.ready(WITNESS, namespace=GUARDED)) == witness
