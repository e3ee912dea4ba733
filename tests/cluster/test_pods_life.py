"""Pods that run: new values reach them, and the operator may go without them noticing."""

from __future__ import annotations

import pytest

from tests.cluster.europe import Europe
from tests.cluster.installation import Installation
from tests.cluster.node import Cluster
from tests.cluster.pods import Pods, is_injected, lives
from tests.cluster.shop import SHOP, Shop

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(900)]

STAYING = ("static", "speaking", "ledger-0", "ledger-1", "probed", "asking", "migrated", "two", "rotating")


async def test_a_new_value_reaches_the_pod_that_runs(cluster: Cluster, europe: Europe, shop: Shop) -> None:
    pods = Pods(cluster.control_plane)
    before = await pods.ready("rotating", namespace=SHOP)
    await pods.says("rotating", f"DB_PASSWORD={shop.rotating[0]}", namespace=SHOP)
    await europe.write(f"{SHOP}/rotating", {"password": shop.rotating[1]})
    await pods.says("rotating", f"DB_PASSWORD={shop.rotating[1]}", namespace=SHOP)
    assert lives(await pods.ready("rotating", namespace=SHOP)) == lives(before)


async def test_pods_run_on_without_the_operator_and_get_new_values_once_it_is_back(
    cluster: Cluster, europe: Europe, installation: Installation, shop: Shop
) -> None:
    pods = Pods(cluster.control_plane)
    before = {name: lives(await pods.ready(name, namespace=SHOP)) for name in STAYING}
    await installation.uninstall()
    try:
        await europe.write(f"{SHOP}/rotating", {"password": shop.rotating[2]})
        await pods.says("rotating", "the application runs on", namespace=SHOP)
        running = await pods.running(SHOP)
        assert {name: running.get(name) for name in STAYING} == before
        # a probe of one of them asks PostgreSQL under its password, every five seconds
        assert shop.rotating[2] not in await pods.log("rotating", namespace=SHOP)
    finally:
        await installation.install()
        await installation.injects()
    await pods.says("rotating", f"DB_PASSWORD={shop.rotating[2]}", namespace=SHOP)
    await pods.admitted(shop.static("late"))
    assert is_injected(await pods.ready("late", namespace=SHOP))
    running = await pods.running(SHOP)
    assert {name: running.get(name) for name in STAYING} == before
