"""Who a pod is, is its ServiceAccount's token: checked by the bridge, by the cluster's own API server through
the tunnel, and by OpenBao's role.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Final

import pytest

from cloudtaser.wire.names import SYSTEM_NAMESPACE
from tests.chain_tools import eventually
from tests.cluster.europe import Europe
from tests.cluster.node import Cluster
from tests.cluster.pods import PATIENCE, Pods, exit_code
from tests.cluster.shop import AUDITOR, FINANCE, SHOP, Shop

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

REVIEWER: Final = f"system:serviceaccount:{SYSTEM_NAMESPACE}:cloudtaser-reviewer"
REFUSED: Final = 77
LOGIN = """
import json, sys
from cloudtaser.demo.timing import PodClient
from cloudtaser.errors import UnavailableError
given = json.load(sys.stdin)
client = PodClient(given["broker"], given["ca"])
try:
    client.login(given["jwt"])
    print("ok")
except UnavailableError as error:
    print(error.on)
"""


async def test_a_pods_login_names_its_serviceaccount_and_is_reviewed_by_the_api_server(
    cluster: Cluster, europe: Europe, shop: Shop
) -> None:
    await Pods(cluster.control_plane).ready("static", namespace=SHOP)
    login = {"pod": "static", "namespace": SHOP, "serviceaccount": "default", "status": 200}
    (found,) = [
        one for one in europe.requests() if one["path"] == "/v1/auth/jwt/login" and one["pod"] == "static"
    ]
    assert found | login == found

    async def reviewed() -> bool:
        return any(
            event["user"]["username"] == REVIEWER and event["responseStatus"]["code"] == 201
            for event in cluster.control_plane.audited()
            if event.get("objectRef", {}).get("resource") == "tokenreviews"
        )

    await eventually(reviewed, "the API server was asked, through the tunnel")


async def test_what_one_serviceaccount_may_read_is_refused_to_another(
    cluster: Cluster, europe: Europe, shop: Shop
) -> None:
    pods = Pods(cluster.control_plane)
    assert exit_code(await pods.ended("auditing", namespace=SHOP)) == 0
    assert f"PASSWORD={shop.finance}" in (await pods.log("auditing", namespace=SHOP)).splitlines()
    assert exit_code(await pods.ended("curious", namespace=SHOP)) == REFUSED
    told = await pods.log("curious", namespace=SHOP)
    assert FINANCE in told
    assert AUDITOR not in told
    assert shop.finance not in told


async def test_the_token_of_a_pod_that_is_gone_opens_nothing(
    cluster: Cluster, europe: Europe, shop: Shop
) -> None:
    plane, pods = cluster.control_plane, Pods(cluster.control_plane)
    await pods.admitted(shop.static("brief"))
    uid = (await pods.ready("brief", namespace=SHOP))["metadata"]["uid"]
    bound = ("--bound-object-kind", "Pod", "--bound-object-name", "brief", "--bound-object-uid", uid)
    jwt = await plane.kubectl(
        "create", "token", "default", "-n", SHOP, "--audience", europe.chain.audience, *bound
    )
    system = f"/api/v1/namespaces/{SYSTEM_NAMESPACE}"
    service = await plane.read(f"{system}/services/cloudtaser-broker")
    given = {
        "broker": f"{service['spec']['clusterIP']}:8443",
        "ca": (await plane.read(f"{system}/configmaps/cloudtaser-ca"))["data"]["pod-ca.crt"],
        "jwt": jwt.strip(),
    }

    def log_in() -> str:
        command = [*cluster.network.inside, sys.executable, "-c", LOGIN]
        done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert await asyncio.to_thread(log_in) == "ok"
    await plane.kubectl("delete", "pod", "-n", SHOP, "brief", "--now")
    told = ""

    async def refused() -> bool:
        nonlocal told
        told = await asyncio.to_thread(log_in)
        return told != "ok"

    await eventually(
        refused, "the login is refused", timeout=PATIENCE, every=2.0
    )  # a yes counts for ten seconds
    assert "does not hold" in told
