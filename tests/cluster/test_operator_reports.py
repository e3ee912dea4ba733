"""The operator tells of itself: reports over the real way to OpenBao, events where people look."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import pytest_asyncio

from cloudtaser.kube.client import KubeApi
from cloudtaser.kube.kinds import DEPLOYMENTS, Kind
from cloudtaser.kube.resources import CLOUDTASER_CONFIGS, DEBUG_REPORTS
from tests.chain_tools import eventually
from tests.charts import NAMESPACE
from tests.cluster.accounts import EVERYTHING, account, client, namespace
from tests.cluster.operator_world import OperatorWorld

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

WHERE: Final = "reports"
REVIEWS: Final = Kind(
    "authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", namespaced=False
)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def user(operator_world: OperatorWorld) -> AsyncIterator[KubeApi]:
    await namespace(operator_world.plane, WHERE, {"cloudtaser.io/enforce": "required"})
    token = await account(operator_world.plane, WHERE, "user", EVERYTHING)
    async with client(operator_world.plane, token) as kube:
        yield kube


async def report(user: KubeApi, *checks: str) -> dict[str, Any]:
    """What the operator says, once it has said it."""
    body = {
        "metadata": {"generateName": "test-", "namespace": NAMESPACE},
        "spec": {"checks": list(checks), "ttl": "1h"},
    }
    name = (await user.create_object(DEBUG_REPORTS, body))["metadata"]["name"]
    status: dict[str, Any] = {}

    async def made() -> bool:
        status.update((await user.get_object(DEBUG_REPORTS, NAMESPACE, name)).get("status") or {})
        return status.get("phase") in ("Complete", "Failed")

    await eventually(made, "the report is made", timeout=240, every=0.3)
    await user.delete_object(DEBUG_REPORTS, NAMESPACE, name)
    return status


def broken(status: dict[str, Any]) -> list[str]:
    return [hop["name"] for hop in status["report"].get("hops", ()) if hop.get("ok") is False]


async def test_a_report_goes_the_whole_way_to_openbao(operator_world: OperatorWorld, user: KubeApi) -> None:
    status: dict[str, Any] = {}

    async def whole() -> bool:
        status.clear()
        status.update(await report(user))
        return broken(status) == []

    await eventually(whole, "every hop works", timeout=240, every=1)
    found = status["report"]
    assert [hop["name"] for hop in found["hops"]] == [
        "API server",
        "broker",
        "beacon",
        "bridge",
        "OpenBao",
        "logins",
    ]
    assert all(hop["ok"] for hop in found["hops"])
    assert "failed" not in found
    assert found["webhook"]["caBundleTrusts"] is True
    assert "problem" not in found["webhook"]
    ends = {one["name"]: one.get("problem") for one in found["certificates"]}
    assert ends == {"pod CA": None, "webhook": None, "tunnel certificate": None}
    assert any(name.startswith("bridge ") for name in found["versions"])
    assert operator_world.chain.beacon_address in found["hops"][2]["detail"]


async def test_a_bridge_that_is_away_is_named_and_so_are_the_errors_it_left(
    operator_world: OperatorWorld, user: KubeApi
) -> None:
    async with operator_world.without_bridge():
        status: dict[str, Any] = {}

        async def noticed() -> bool:
            status.clear()
            status.update(await report(user, "hops", "errors"))
            return broken(status) == ["beacon"]

        await eventually(noticed, "the report names the hop", timeout=240, every=1)
        assert "no bridge comes" in status["message"]
        errors = status["report"]["errors"]
        assert {"tunnel"} <= {one["part"] for one in errors}
        assert all(one["code"] and one["time"] for one in errors)

    async def works() -> bool:
        return broken(await report(user, "hops")) == []

    await eventually(works, "every hop works again", timeout=240, every=1)


async def test_who_may_edit_a_namespace_may_say_what_its_pods_get(
    operator_world: OperatorWorld, user: KubeApi
) -> None:
    plane = operator_world.plane
    for role in ("edit", "view"):
        await plane.kubectl("create", "rolebinding", role, "-n", WHERE, "--clusterrole", role, "--user", role)

    async def may(who: str, verb: str, what: str, where: str = WHERE) -> bool:
        resource, _, part = what.partition("/")
        asked = {"group": "api.cloudtaser.io", "resource": resource, "subresource": part, "verb": verb}
        spec = {"user": who, "resourceAttributes": asked | {"namespace": where}}
        answer = await user.create_object(REVIEWS, {"spec": spec})
        return bool(answer["status"]["allowed"])

    async def taken_up() -> bool:
        return await may("edit", "create", "cloudtaserconfigs") and await may(
            "view", "list", "secretmappings"
        )

    await eventually(taken_up, "the rights are taken up into Kubernetes' roles", timeout=180, every=0.3)
    assert await may("edit", "delete", "debugreports")
    for who, verb, what, where in (
        ("view", "create", "cloudtaserconfigs", WHERE),
        ("view", "get", "debugreports", WHERE),
        ("edit", "create", "debugreports", NAMESPACE),
        ("edit", "patch", "cloudtaserconfigs/status", WHERE),
    ):
        assert not await may(who, verb, what, where), (who, verb, what)


async def test_what_keeps_a_workload_from_its_pods_is_an_event_on_it(
    operator_world: OperatorWorld, user: KubeApi
) -> None:
    annotations = {"cloudtaser.io/inject": "true", "cloudtaser.io/config": "nowhere"}
    template = {
        "metadata": {"labels": {"app": "web"}, "annotations": annotations},
        "spec": {"containers": [{"name": "app", "image": "tests.invalid/x", "command": ["/x"]}]},
    }
    body = {
        "metadata": {"namespace": WHERE, "name": "web"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": template},
    }
    await user.create_object(DEPLOYMENTS, body)

    async def told() -> bool:
        described = await operator_world.plane.kubectl("describe", "deployment", "web", "-n", WHERE)
        return "SecretInjectionRefused" in described and "no CloudTaserConfig 'nowhere'" in described

    await eventually(told, "an event on the Deployment", timeout=240, every=0.5)
    kinds = {
        item["regarding"]["kind"]
        for item in (await operator_world.plane.get("events.events.k8s.io", "-n", WHERE))["items"]
        if item["reason"] == "SecretInjectionRefused"
    }
    assert kinds == {"ReplicaSet", "Deployment"}
    # once it is there the pod comes, and is counted
    config = {"metadata": {"namespace": WHERE, "name": "nowhere"}, "spec": {"secretPaths": ["secret/data/a"]}}
    await user.create_object(CLOUDTASER_CONFIGS, config)

    async def counted() -> bool:
        status = (await user.get_object(CLOUDTASER_CONFIGS, WHERE, "nowhere")).get("status") or {}
        return bool(status.get("ready")) and status.get("injectedPods") == 1

    await eventually(counted, "the pod is injected and counted", timeout=180, every=0.5)
