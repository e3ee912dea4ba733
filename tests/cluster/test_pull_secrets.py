"""Pull secrets under the rights that the chart gives, at a real API server: what is granted, and no more."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from cloudtaser.kube.client import KubeApi
from cloudtaser.kube.registry.credentials import matching
from cloudtaser.kube.registry.pull_secrets import PullSecrets, reader
from tests.charts import beacon, render
from tests.cluster.accounts import account, client, namespace
from tests.cluster.control_plane import ControlPlane

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

SHOP, SYSTEM = "pull-shop", "pull-system"
GRANTED = {"namespace": SHOP, "name": "regcred"}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def kube(control_plane: ControlPlane) -> AsyncIterator[KubeApi]:
    """The operator's ServiceAccount, with what the chart says of pull secrets."""
    for name in (SHOP, SYSTEM):
        await namespace(control_plane, name)
    token = await account(control_plane, SYSTEM, "cloudtaser-operator")
    values = beacon(registry={"pullSecrets": [GRANTED]}) | {"namespace": SYSTEM}
    roles = [one for one in render(values, namespace=SYSTEM) if one["metadata"].get("namespace") == SHOP]
    assert {one["kind"] for one in roles} == {"Role", "RoleBinding"}
    await control_plane.apply(*roles)
    for name in ("regcred", "other"):
        await control_plane.kubectl(
            *("create", "secret", "docker-registry", name, "--namespace", SHOP),
            *("--docker-server", "registry.example.com", "--docker-username", "user"),
            *("--docker-password", f"password-of-{name}"),
        )
    async with client(control_plane, token) as kube:
        yield kube


async def test_a_granted_secret_is_read_and_used_for_its_registry(kube: KubeApi) -> None:
    secrets = PullSecrets(reader(kube), frozenset({(SHOP, "regcred")}), seconds=30.0, clock=time.monotonic)
    found = await secrets.read(SHOP, "regcred")
    assert found.problem == ""
    (credential,) = matching(found.entries, "registry.example.com/team/app")
    assert credential.password is not None
    assert (credential.username, credential.password.reveal_text()) == ("user", "password-of-regcred")
    assert matching(found.entries, "other.example.com/team/app") == ()


async def test_what_is_listed_without_a_role_is_forbidden_and_said_to_be_so(kube: KubeApi) -> None:
    listed = frozenset({(SHOP, "other"), (SYSTEM, "regcred")})
    secrets = PullSecrets(reader(kube), listed, seconds=30.0, clock=time.monotonic)
    for where, name in sorted(listed):
        found = await secrets.read(where, name)
        assert found.entries == ()
        assert "no Role of its namespace grants get on it" in found.problem


async def test_what_is_not_listed_leaves_no_trace_in_the_audit_log(
    kube: KubeApi, control_plane: ControlPlane
) -> None:
    secrets = PullSecrets(reader(kube), frozenset({(SHOP, "regcred")}), seconds=30.0, clock=time.monotonic)
    found = await secrets.read(SHOP, "never-asked-for")
    assert f"add {{namespace: {SHOP}, name: never-asked-for}}" in found.problem
    await secrets.read(SHOP, "regcred")  # after it, so that the log holds what came before
    asked = {
        event["objectRef"].get("name")
        for event in control_plane.audited()
        if event.get("objectRef", {}).get("resource") == "secrets"
        and event["user"]["username"] == f"system:serviceaccount:{SYSTEM}:cloudtaser-operator"
    }
    assert "never-asked-for" not in asked
    assert "regcred" in asked
