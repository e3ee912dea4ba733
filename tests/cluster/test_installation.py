"""The operator in a real cluster, as Helm installed it: it gets in by itself, with little to its name."""

from __future__ import annotations

import json

import pytest

from cloudtaser.wire.names import POD_CA_CONFIGMAP, SYSTEM_NAMESPACE
from tests.cluster.europe import Europe
from tests.cluster.installation import Installation
from tests.cluster.node import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(900)]


async def test_it_gets_in_with_nothing_but_the_beacons_address(
    cluster: Cluster, europe: Europe, operator: Installation
) -> None:
    path = f"/api/v1/namespaces/{SYSTEM_NAMESPACE}/configmaps/{POD_CA_CONFIGMAP}"
    kept = await cluster.control_plane.read(path)
    shown = json.loads((await europe.chain.cli("source", "show", europe.fingerprint, "-o", "json")).output)
    assert kept["data"]["pod-ca.crt"].strip() == shown["pod_ca_certificate"].strip()


async def test_its_two_containers_share_no_identity(cluster: Cluster, operator: Installation) -> None:
    for pod in await operator.pods():
        containers = {one["name"]: one for one in pod["spec"]["containers"]}
        tokens = {
            name: [
                mount["mountPath"] for mount in one["volumeMounts"] if "serviceaccount" in mount["mountPath"]
            ]
            for name, one in containers.items()
        }
        assert {name: bool(found) for name, found in tokens.items()} == {"manager": True, "broker": False}
        users = {one["securityContext"]["runAsUser"] for one in containers.values()}
        assert len(users) == len(containers)
