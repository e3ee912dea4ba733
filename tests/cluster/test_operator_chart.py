"""Helm installs the chart on a real API server, which takes every object; what runs has these rights."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from cloudtaser.wire.names import OPERATOR_SUBJECT
from tests.charts import NAMESPACE, Helm, beacon
from tests.cluster.control_plane import ControlPlane

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

NAME = "cloudtaser-operator-webhook"
BUNDLE = "LS0tCg=="


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def plane(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ControlPlane]:
    """An API server in which nothing of ours is yet."""
    async with ControlPlane(tmp_path_factory.mktemp("chart")) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def helm(plane: ControlPlane) -> AsyncIterator[Helm]:
    """With the chart installed, its CRDs and its namespace included, and removed again at the end."""
    helm = Helm(plane.kubeconfig)
    await helm.install(beacon())
    yield helm
    await helm.uninstall()


async def may(plane: ControlPlane, verb: str, resource: str, *more: str) -> bool:
    """Whether the operator may, as the API server's own authoriser says."""
    group, _, name = resource.partition("/")
    attributes = {"verb": verb, "group": group, "resource": name}
    attributes |= dict(zip(("namespace", "name", "subresource"), more, strict=False))
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": OPERATOR_SUBJECT, "resourceAttributes": attributes},
    }
    answer = json.loads(await plane.kubectl("create", "-f", "-", "-o", "json", given=json.dumps(review)))
    return bool(answer["status"]["allowed"])


async def test_every_object_is_taken_and_namespace_and_crds_are_made(plane: ControlPlane, helm: Helm) -> None:
    objects = await plane.kubectl("get", "deploy,svc,sa,role,cm,networkpolicy", "-n", NAMESPACE, "-o", "name")
    assert "deployment.apps/cloudtaser-operator" in objects
    assert "service/cloudtaser-broker" in objects
    for kind in ("mutating", "validating"):
        assert await plane.kubectl("get", f"{kind}webhookconfiguration", NAME, "-o", "name")
    assert "cloudtaserconfigs" in await plane.kubectl("api-resources", "--api-group=api.cloudtaser.io")
    assert (await plane.get("secrets", "-A"))["items"] == []


async def test_the_operator_may_what_it_needs_and_reads_no_secret(plane: ControlPlane, helm: Helm) -> None:
    for resource in ("/secrets", "/configmaps", "/pods"):
        for verb in ("create", "update", "patch", "delete"):
            assert not await may(plane, verb, resource, "shop")
    for verb in ("get", "list", "watch", "create", "update", "delete"):
        assert not await may(plane, verb, "/secrets", "shop")
        assert not await may(plane, verb, "/secrets", NAMESPACE)
        assert not await may(plane, verb, "/secrets")
    api = "admissionregistration.k8s.io/mutatingwebhookconfigurations"
    assert await may(plane, "patch", api, "", NAME)
    assert not await may(plane, "patch", api, "", "another")
    assert not await may(plane, "update", api, "", NAME)
    assert await may(plane, "create", "/serviceaccounts", NAMESPACE, "cloudtaser-reviewer", "token")
    assert not await may(plane, "create", "/serviceaccounts", NAMESPACE, "cloudtaser-admin", "token")
    assert not await may(plane, "create", "/serviceaccounts", "kube-system", "cloudtaser-operator", "token")
    assert await may(plane, "update", "coordination.k8s.io/leases", NAMESPACE, "cloudtaser-operator-leader")
    assert not await may(plane, "update", "coordination.k8s.io/leases", "kube-system", "anything")


async def test_an_upgrade_leaves_the_ca_bundle_that_the_operator_keeps(
    plane: ControlPlane, helm: Helm
) -> None:
    kind = "mutatingwebhookconfiguration"
    names = [one["name"] for one in (await plane.get(kind, NAME))["webhooks"]]
    patch = {"webhooks": [{"name": name, "clientConfig": {"caBundle": BUNDLE}} for name in names]}
    await plane.kubectl(
        "patch",
        kind,
        NAME,
        "--type=strategic",
        "--field-manager=cloudtaser-operator",
        "-p",
        json.dumps(patch),
    )
    for values in (beacon(), beacon(webhook={"timeoutSeconds": 5}), beacon(ha=True)):
        await helm.upgrade(values)
        webhooks = (await plane.get(kind, NAME))["webhooks"]
        assert [one["clientConfig"]["caBundle"] for one in webhooks] == [BUNDLE, BUNDLE]
    assert [one["failurePolicy"] for one in webhooks] == ["Fail", "Fail"]
    assert (await plane.get("deployment", "cloudtaser-operator", "-n", NAMESPACE))["spec"]["replicas"] == 3
