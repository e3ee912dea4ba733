"""Pods of the token method: without a login of their own they wait until the operator unseals them."""

from __future__ import annotations

import pytest

from cloudtaser.errors import CloudtaserError
from tests.chain_tools import eventually
from tests.cluster.europe import Europe
from tests.cluster.node import Cluster
from tests.cluster.pods import PATIENCE, Pods, is_ready
from tests.cluster.shop import PATIENT, PREFIX, SEALED, SHOP, Shop

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(900)]

ACCESSOR = f"{PREFIX}token-accessor"


async def test_a_sealed_pod_gets_its_secret_by_a_token_that_ends_with_it(
    cluster: Cluster, europe: Europe, shop: Shop
) -> None:
    pods = Pods(cluster.control_plane)
    await pods.says(SEALED, f"PASSWORD={shop.password}", namespace=SHOP)
    found = await pods.until(
        SEALED,
        lambda one: is_ready(one) and ACCESSOR in one["metadata"]["annotations"],
        "is unsealed",
        namespace=SHOP,
    )
    container, _, accessor = found["metadata"]["annotations"][ACCESSOR].partition("=")
    assert container == "app"
    assert not [one for one in europe.requests() if one["pod"] == SEALED and "login" in one["path"]]
    async with europe.administrator() as openbao:
        body = {"accessor": accessor}
        token = (await openbao.request("POST", "auth/token/lookup-accessor", body=body))["data"]
        assert token["meta"]["pod_uid"] == found["metadata"]["uid"]
        assert token["orphan"]
        await cluster.control_plane.kubectl("delete", "pod", "-n", SHOP, SEALED, "--now")

        async def revoked() -> bool:
            try:
                await openbao.request("POST", "auth/token/lookup-accessor", body=body)
            except CloudtaserError:
                return True
            return False

        await eventually(revoked, "the token is revoked", timeout=PATIENCE, every=0.5)


async def test_a_pod_without_a_grant_says_what_is_missing_and_is_not_ready_before(
    cluster: Cluster, europe: Europe, shop: Shop
) -> None:
    pods = Pods(cluster.control_plane)
    told: list[str] = []

    async def explained() -> bool:
        found = await cluster.control_plane.get(
            "events", "-n", SHOP, "--field-selector", f"involvedObject.name={PATIENT}"
        )
        told[:] = [one["message"] for one in found["items"] if one["reason"] == "NotUnsealed"]
        return bool(told)

    await eventually(explained, "an event says why", timeout=PATIENCE, every=1.0)
    assert "source allow" in told[0]
    waiting = await pods.until(PATIENT, lambda one: True, "is there", namespace=SHOP)
    assert not is_ready(waiting)
    await europe.allow(SHOP, PATIENT, f"secret/data/{SHOP}/db")
    await pods.ready(PATIENT, namespace=SHOP)
    await pods.says(PATIENT, f"PASSWORD={shop.password}", namespace=SHOP)
