"""Images of a private registry, from the pod to the patch: a real API server with its admission, the rights
that the chart gives, a real registry with passwords."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from cloudtaser.kube.registry.image import Entrypoints
from cloudtaser.kube.registry.metrics import RegistryMetrics
from cloudtaser.kube.registry.pull_secrets import reader
from cloudtaser.kube.registry.resolver import ImageResolver
from cloudtaser.kube.registry.settings import parse_settings
from cloudtaser.operator.webhook.ports import Ports
from tests.charts import Json, beacon, only, render
from tests.cluster.accounts import account, client, namespace
from tests.cluster.admission import Admission, kubectl
from tests.cluster.control_plane import ControlPlane
from tests.image_registry import ALICE, RegistryServer, configuration
from tests.unit.operator.webhook.pods_rig import World, container, named, pod

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

SYSTEM = "images-system"
REPOSITORY = "team/app"


@dataclass
class WithImages(World):
    """A world whose images come from registries."""

    resolver: Entrypoints | None = None

    def ports(self) -> Ports:
        ports = super().ports()
        return ports if self.resolver is None else replace(ports, entrypoints=self.resolver)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def registry(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RegistryServer]:
    server = RegistryServer(tmp_path_factory.mktemp("registry"), passwords=True)
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def digest(registry: RegistryServer) -> str:
    return await registry.push(f"{REPOSITORY}:1", configuration(["/entry", "--fast"], ["run", "all"]))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def admission(
    control_plane: ControlPlane, registry: RegistryServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Admission]:
    """The webhook, which reads two granted pull secrets under the chart's rights and no others."""
    await namespace(control_plane, SYSTEM)
    granted = [{"namespace": f"img-{name}", "name": "regcred"} for name in ("ordinary", "required")]
    said = {
        "pullSecrets": granted,
        "networks": ["127.0.0.0/8"],
        "registries": [{"host": registry.host, "ca": registry.tls.ca.read_text()}],
    }
    objects = render(beacon(registry=said) | {"namespace": SYSTEM}, namespace=SYSTEM)
    data = only(objects, "ConfigMap", "cloudtaser-operator")["data"]["registries.json"]
    settings = parse_settings(data.encode(), source="registries.json")
    token = await account(control_plane, SYSTEM, "cloudtaser-operator")
    async with client(control_plane, token) as kube:
        metrics = RegistryMetrics(CollectorRegistry())
        async with ImageResolver(settings, metrics, read_secret=reader(kube)) as resolver:
            world = WithImages(resolver=resolver)
            async with Admission(control_plane, tmp_path_factory.mktemp("images"), world, "img") as running:
                for name, labels in (("ordinary", {}), ("required", {"cloudtaser.io/enforce": "required"})):
                    where = await running.namespace(name, labels)
                    for secret in ("regcred", "ungranted"):
                        await _pull_secret(control_plane, where, secret, registry.host)
                roles = [one for one in objects if one["metadata"].get("namespace", "").startswith("img-")]
                await control_plane.apply(*roles)
                yield running


async def _pull_secret(plane: ControlPlane, where: str, name: str, host: str) -> None:
    await plane.kubectl(
        *("create", "secret", "docker-registry", name, "--namespace", where, "--docker-server", host),
        *("--docker-username", ALICE[0], "--docker-password", ALICE[1]),
    )


def private(registry: RegistryServer, name: str, **spec: Any) -> Json:
    """A pod whose command is in the image only."""
    app = container("app", None, image=f"{registry.host}/{REPOSITORY}:1")
    return pod(app, metadata={"name": name}, **spec)


def started(stored: Json) -> list[str]:
    """What the wrapper will start."""
    app = named(stored, "app")
    assert app["command"] == ["/cloudtaser/wrapper", "--"]
    words: list[str] = app["args"]
    return words


async def test_a_granted_pull_secret_brings_the_entrypoint_and_its_digest_into_the_pod(
    admission: Admission, registry: RegistryServer, digest: str
) -> None:
    secrets = [{"name": "ungranted"}, {"name": "regcred"}]
    subject = private(registry, "by-pod", imagePullSecrets=secrets)
    stored = (await admission.create("img-required", subject)).object()
    assert started(stored) == ["/entry", "--fast", "run", "all"]
    assert stored["metadata"]["annotations"]["cloudtaser.io/image-digest"] == f"app={digest}"


async def test_the_pull_secrets_of_the_service_account_count_for_its_pods(
    admission: Admission, registry: RegistryServer, digest: str
) -> None:
    account_of_its_own = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "puller", "namespace": "img-required"},
        "imagePullSecrets": [{"name": "regcred"}],
    }
    await admission.plane.apply(account_of_its_own)
    subject = private(registry, "by-account", serviceAccountName="puller")
    stored = (await admission.create("img-required", subject)).object()
    assert started(stored) == ["/entry", "--fast", "run", "all"]


async def test_a_secret_that_is_not_granted_refuses_or_warns_and_says_what_to_add(
    admission: Admission, registry: RegistryServer, digest: str
) -> None:
    subject = private(registry, "denied", imagePullSecrets=[{"name": "ungranted"}])
    refused = await admission.create("img-required", subject)
    assert refused.code != 0
    entry = "add {namespace: img-required, name: ungranted} to operator.registry.pullSecrets"
    assert entry in " ".join(refused.err.split())
    let = await admission.create("img-ordinary", subject)
    assert "command" not in named(let.object(), "app")
    assert any("add {namespace: img-ordinary, name: ungranted}" in line for line in let.warnings), (
        let.warnings
    )


async def test_no_secret_but_the_granted_ones_was_asked_for(
    admission: Admission, registry: RegistryServer, digest: str
) -> None:
    subject = private(registry, "again", imagePullSecrets=[{"name": "ungranted"}, {"name": "regcred"}])
    await admission.create("img-required", subject, "--dry-run=server")
    asked = {
        (event["objectRef"].get("namespace"), event["objectRef"].get("name"))
        for event in admission.plane.audited()
        if event.get("objectRef", {}).get("resource") == "secrets"
        and event["user"]["username"] == f"system:serviceaccount:{SYSTEM}:cloudtaser-operator"
    }
    assert asked == {("img-required", "regcred")}
    said = await kubectl(admission.plane, "get", "pods", "-n", "img-required", "-o", "name")
    assert "pod/again" not in said.out
