"""Helm installs the chart on a real API server, which takes every object; what runs has these rights."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from cloudtaser.kube.client import KubeApi
from cloudtaser.operator.ca_bundle import KNOWN_ANNOTATION, CaBundle
from cloudtaser.operator.metrics import ManagerMetrics
from cloudtaser.operator.replica import Replica
from cloudtaser.operator.serving_keys import ServingKeys, make_keys, service_names
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


async def may(plane: ControlPlane, *asked: tuple[str, ...]) -> list[bool]:
    """Whether the operator may, as the API server's own authoriser says; each question is a verb, group and
    resource, and as far as given namespace, name and subresource."""
    reviews = []
    for verb, resource, *more in asked:
        group, _, name = resource.partition("/")
        attributes = {"verb": verb, "group": group, "resource": name}
        attributes |= dict(zip(("namespace", "name", "subresource"), more, strict=False))
        review = {"user": OPERATOR_SUBJECT, "resourceAttributes": attributes}
        reviews.append(
            {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": review}
        )
    given = json.dumps({"apiVersion": "v1", "kind": "List", "items": reviews})
    said = await plane.kubectl("create", "-f", "-", "-o", 'jsonpath={.status.allowed}{"\\n"}', given=given)
    return [line == "true" for line in said.split()]


async def test_every_object_is_taken_and_namespace_and_crds_are_made(plane: ControlPlane, helm: Helm) -> None:
    objects = await plane.kubectl("get", "deploy,svc,sa,role,cm,networkpolicy", "-n", NAMESPACE, "-o", "name")
    assert "deployment.apps/cloudtaser-operator" in objects
    assert "service/cloudtaser-broker" in objects
    for kind in ("mutating", "validating"):
        assert await plane.kubectl("get", f"{kind}webhookconfiguration", NAME, "-o", "name")
    assert "cloudtaserconfigs" in await plane.kubectl("api-resources", "--api-group=api.cloudtaser.io")
    assert (await plane.get("secrets", "-A"))["items"] == []


async def test_the_operator_may_what_it_needs_and_reads_no_secret(plane: ControlPlane, helm: Helm) -> None:
    verbs = ("get", "list", "watch", "create", "update", "patch", "delete")
    nobody = [("/secrets", "shop"), ("/secrets", NAMESPACE), ("/secrets",)]
    never = [(verb, *where) for verb in verbs for where in nobody]
    never += [(verb, f"/{one}", "shop") for verb in verbs[3:] for one in ("configmaps", "pods")]
    api, leases = "admissionregistration.k8s.io/mutatingwebhookconfigurations", "coordination.k8s.io/leases"
    never += [
        ("patch", api, "", "another"),
        ("update", api, "", NAME),
        ("get", api, "", NAME),
        ("create", "/serviceaccounts", NAMESPACE, "cloudtaser-admin", "token"),
        ("create", "/serviceaccounts", "kube-system", "cloudtaser-operator", "token"),
        ("update", leases, "kube-system", "anything"),
    ]
    assert [one for one, allowed in zip(never, await may(plane, *never), strict=True) if allowed] == []
    needed = [
        ("patch", api, "", NAME),
        ("create", "/serviceaccounts", NAMESPACE, "cloudtaser-reviewer", "token"),
        ("update", leases, NAMESPACE, "cloudtaser-operator-leader"),
    ]
    assert await may(plane, *needed) == [True] * len(needed)


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


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def operator(plane: ControlPlane, helm: Helm) -> AsyncIterator[KubeApi]:
    """The API server as the operator may use it."""
    file = plane.directory / "operator.token"
    file.write_text(await plane.kubectl("create", "token", "cloudtaser-operator", "-n", NAMESPACE))
    async with KubeApi(plane.server, ca_file=str(plane.identities.ca), token_file=str(file)) as kube:
        yield kube


def keys() -> ServingKeys:
    return make_keys(service_names(NAME, NAMESPACE), time.time(), 3600)


async def bundles(plane: ControlPlane) -> list[str]:
    """Each entry's, of both configurations."""
    found = [await plane.get(f"{kind}webhookconfiguration", NAME) for kind in ("mutating", "validating")]
    texts = [one["clientConfig"].get("caBundle", "") for each in found for one in each["webhooks"]]
    return [base64.b64decode(text).decode() for text in texts]


async def versions(plane: ControlPlane) -> list[str]:
    found = [await plane.get(f"{kind}webhookconfiguration", NAME) for kind in ("mutating", "validating")]
    return [one["metadata"]["resourceVersion"] for one in found]


async def test_the_bundle_is_the_union_of_what_replicas_publish_and_is_kept_by_patches_alone(
    plane: ControlPlane, operator: KubeApi
) -> None:
    told: dict[str, str] = {}
    metrics = ManagerMetrics(CollectorRegistry())
    bundle = CaBundle(operator, NAMESPACE, NAME, told.__setitem__, metrics)
    await bundle.look()  # nobody there: the configurations are left as they are
    assert told == {}
    one, two = keys(), keys()
    first, second = Replica(operator, NAMESPACE, "pod-1"), Replica(operator, NAMESPACE, "pod-2")
    await first.say(one.ca_pem)
    await second.say(two.ca_pem + one.ca_pem)
    await bundle.look()
    wanted = "".join(ca for _, ca in sorted([(one.ca_id, one.ca_pem), (two.ca_id, two.ca_pem)]))
    assert await bundles(plane) == [wanted] * 5
    assert told[KNOWN_ANNOTATION] == ",".join(sorted([one.ca_id, two.ca_id]))

    before = await versions(plane)
    await bundle.look()
    assert await versions(plane) == before  # to look is to patch, and leaves no trace

    await second.leave()
    await Replica(operator, NAMESPACE, "pod-1").say(one.ca_pem)  # a container that was restarted in its pod
    await bundle.look()
    assert await bundles(plane) == [one.ca_pem] * 5

    junk = {"webhooks": [{"name": "validate.cloudtaser.io", "clientConfig": {"caBundle": BUNDLE}}]}
    resource = "validatingwebhookconfiguration"
    await plane.kubectl("patch", resource, NAME, "--type=strategic", "-p", json.dumps(junk))
    await bundle.look()
    assert await bundles(plane) == [one.ca_pem] * 5
    await first.leave()
    await first.leave()
