"""The webhook, asked by a real API server."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from cloudtaser.operator.webhook.patch import difference
from tests.cluster.admission import Admission, Said, Served, kubectl, registered_elsewhere
from tests.cluster.control_plane import ControlPlane
from tests.unit.operator.webhook.pods_rig import Json, World, container, environment, named, pod, review

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session")]

COMMAND = ["/cloudtaser/wrapper", "--"]
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "seccompProfile": {"type": "RuntimeDefault"},
}
S3 = {"cloudtaser.io/s3proxy": "true", "cloudtaser.io/s3proxy-transit-key": "objects"}
TOKEN = {"cloudtaser.io/vault-auth-method": "token"}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def admission(
    control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Admission]:
    """The webhook, registered, with an image that it knows and no other."""
    world = World()
    world.images.add("registry.example.com/known:1", ["/entry"], ["run"])
    async with Admission(control_plane, tmp_path_factory.mktemp("admission"), world, "wh") as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def ordinary(admission: Admission) -> str:
    """A namespace in which a pod starts whatever becomes of the webhook."""
    return await admission.namespace("ordinary")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def required(admission: Admission) -> str:
    """A namespace in which a pod gets its secrets or does not start."""
    return await admission.namespace("required", {"cloudtaser.io/enforce": "required"})


def called(name: str, subject: Json) -> Json:
    """The pod under another name."""
    return subject | {"metadata": subject["metadata"] | {"name": name}}


async def unchanged(admission: Admission, namespace: str, stored: Json) -> bool:
    """Whether mutating the pod as it is stored changes nothing; None of the API server's additions may."""
    fresh = called(stored["metadata"]["name"], stored)
    answer = await admission.webhook.mutate(review(fresh, namespace=namespace), 5.0, required=True)
    return answer.allowed and answer.patch == ()


VARIANTS: dict[str, Json] = {
    "plain": pod(container()),
    "image": pod(container("known", None)),
    "token": pod(container(livenessProbe={"exec": {"command": ["x"]}}), container("two"), annotations=TOKEN),
    "s3": pod(container(), annotations=S3),
    "inits": pod(
        container(),
        inits=[container("migrate"), container("log", restartPolicy="Always")],
        annotations={"cloudtaser.io/init-containers": "true"},
    ),
    "exec": pod(
        container(
            livenessProbe={"exec": {"command": ["check"]}},
            lifecycle={"preStop": {"exec": {"command": ["bye"]}}},
        ),
        annotations={"cloudtaser.io/wrap-exec": "true"},
    ),
    "imports": pod(
        container(envFrom=[{"configMapRef": {"name": "x"}}], env=[{"name": "VAULT_ADDR", "value": "x"}])
    ),
    "templates": pod(
        container(), annotations={"cloudtaser.io/template-URL": "x://{{password}}@db?a=$(HOME)"}
    ),
    "privileged": pod(container(securityContext={"capabilities": {"add": ["SYS_ADMIN"]}})),
}


@pytest.mark.parametrize("variant", VARIANTS)
async def test_the_api_server_takes_what_we_make_and_a_second_mutation_changes_nothing(
    admission: Admission, ordinary: str, variant: str
) -> None:
    said = await admission.create(ordinary, called(f"v-{variant}", VARIANTS[variant]))
    stored = said.object()
    assert stored["spec"]["containers"][0]["command"] == COMMAND
    assert await unchanged(admission, ordinary, stored)
    assert said.warnings == [
        "cloudtaser: container app: its VAULT_ADDR is replaced, that is for annotations to say"
    ] * (variant == "imports")


async def test_a_dry_run_shows_the_pod_and_stores_nothing(admission: Admission, ordinary: str) -> None:
    before = len(admission.world.occurrences)
    said = await admission.create(ordinary, called("dry", pod(hostPID=True)), "--dry-run=server")
    assert said.code == 0
    assert "a pod with hostPID gets no secrets" in said.warnings[0]
    assert len(admission.world.occurrences) == before
    said = await admission.create(ordinary, called("dry", pod()), "--dry-run=server")
    assert named(said.object(), "app")["command"] == COMMAND
    assert (await kubectl(admission.plane, "get", "pod", "dry", "-n", ordinary)).code != 0


async def test_in_a_restricted_namespace_all_that_we_put_in_passes(admission: Admission) -> None:
    namespace = await admission.namespace("restricted", {"pod-security.kubernetes.io/enforce": "restricted"})
    for variant in ("plain", "token", "s3", "inits", "exec"):
        subject = json.loads(json.dumps(VARIANTS[variant]))
        for one in [*subject["spec"].get("initContainers", []), *subject["spec"]["containers"]]:
            one["securityContext"] = RESTRICTED
        said = await admission.create(namespace, called(f"r-{variant}", subject))
        assert named(said.object(), "app")["command"] == COMMAND, variant
    open_pod = pod(container(securityContext={"runAsNonRoot": True, "capabilities": {"drop": ["ALL"]}}))
    hardened = await admission.create(namespace, called("open", open_pod))
    assert named(hardened.object(), "app")["securityContext"]["allowPrivilegeEscalation"] is False


async def test_a_pod_that_does_not_ask_never_reaches_us(admission: Admission, ordinary: str) -> None:
    def asked() -> float:
        name = "cloudtaser_operator_admission_duration_seconds_count"
        paths = ("mutate-v1-pod", "validate-v1-pod")
        return sum(admission.world.count(name, webhook=path) for path in paths)

    before = asked()
    stored = (await admission.create(ordinary, called("silent", pod(inject=False)))).object()
    assert named(stored, "app")["command"] == ["app", "--serve"]
    assert asked() == before
    stored = (await admission.create(ordinary, called("loud", pod()))).object()
    assert asked() == before + 2  # one mutation, one validation
    mounted = [mount["name"] for mount in named(stored, "cloudtaser-init")["volumeMounts"]]
    assert set(mounted) == {"cloudtaser-payload"}  # not the API server's token


async def test_without_its_images_entrypoint_a_pod_starts_with_a_warning_or_not_at_all(
    admission: Admission, ordinary: str, required: str
) -> None:
    subject = called("no-image", pod(container(command=None)))
    said = await admission.create(ordinary, subject)
    assert "this pod gets no secrets: container app names no command" in said.warnings[0]
    assert "command" not in named(said.object(), "app")
    refused = await admission.create(required, subject)
    assert refused.code != 0
    assert 'admission webhook "inject-required.cloudtaser.io" denied the request' in refused.err
    assert "there is no such image" in refused.err


@pytest.mark.parametrize(
    ("annotation", "value", "says"),
    [
        ("cloudtaser.io/secret-path", "x", "did you mean cloudtaser.io/secret-paths?"),
        ("cloudtaser.io/injct", "true", "did you mean cloudtaser.io/inject?"),
        ("cloudtaser.io/env-map", "a=1b", "'1b' is not a variable name"),
        (
            "cloudtaser.io/vault-address",
            "https://169.254.169.254",
            "metadata address, which is never allowed",
        ),
        ("cloudtaser.io/vault-address", "https://evil.example.com", "is not on the operator's list"),
    ],
)
async def test_what_could_never_work_is_refused_everywhere_with_the_reason(
    admission: Admission, ordinary: str, required: str, annotation: str, value: str, says: str
) -> None:
    for namespace in (ordinary, required):
        said = await admission.create(namespace, called("never", pod(annotations={annotation: value})))
        assert said.code != 0
        assert says in said.err
        assert annotation in said.err


async def test_a_path_outside_of_the_namespaces_policy_is_refused(admission: Admission) -> None:
    policy = {"cloudtaser.io/allowed-paths": "secret/data/mine/*"}
    namespace = await admission.namespace("policy", annotations=policy)
    said = await admission.create(namespace, pod())
    assert "'secret/data/shop/db' is outside of what this namespace's pods may name" in said.err


def workload(kind: str, template: Json, annotations: dict[str, str] | None = None) -> Json:
    """A workload of that kind whose pods are as `template`."""
    inner = {"metadata": {"labels": {"a": "b"}, **template["metadata"]}, "spec": template["spec"]}
    inner["metadata"] = {
        key: value for key, value in inner["metadata"].items() if key in ("labels", "annotations")
    }
    spec: Json = {"selector": {"matchLabels": {"a": "b"}}, "template": inner}
    if kind == "StatefulSet":
        spec["serviceName"] = "x"
    if kind in ("Job", "CronJob"):
        inner["spec"] = inner["spec"] | {"restartPolicy": "Never"}
        spec = {"template": inner}
    if kind == "CronJob":
        spec = {"schedule": "0 0 1 1 *", "suspend": True, "jobTemplate": {"spec": spec}}
    group = "batch/v1" if kind in ("Job", "CronJob") else "apps/v1"
    metadata: Json = {"name": f"w-{kind.lower()}", "annotations": annotations or {}}
    return {"apiVersion": group, "kind": kind, "metadata": metadata, "spec": spec}


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"])
async def test_a_workload_whose_pods_could_never_work_is_taken_with_a_warning(
    admission: Admission, ordinary: str, kind: str
) -> None:
    bad = workload(kind, pod(annotations={"cloudtaser.io/env-map": "a=1b"}))
    said = await admission.create(ordinary, bad, "--dry-run=server")
    assert said.code == 0, said.err
    assert any("'1b' is not a variable name" in warning for warning in said.warnings)
    good = await admission.create(ordinary, workload(kind, pod()), "--dry-run=server")
    assert (good.code, good.warnings) == (0, [])


@pytest.mark.parametrize("kind", ["Deployment", "CronJob"])
async def test_an_annotation_on_the_workload_itself_is_said_to_be_in_the_wrong_place(
    admission: Admission, ordinary: str, kind: str
) -> None:
    misplaced = workload(kind, pod(inject=False), {"cloudtaser.io/inject": "true"})
    said = await admission.create(ordinary, misplaced, "--dry-run=server")
    assert any("belongs into the pod template's metadata" in warning for warning in said.warnings)


class Others:
    """Mutating webhooks of somebody else's: what they do to a pod, and how often they were asked."""

    def __init__(self) -> None:
        self.calls = 0
        self.change: Callable[[Json], None] = lambda pod: None

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_post("/other", self._answer)
        return application

    async def _answer(self, request: web.Request) -> web.Response:
        self.calls += 1
        asked = (await request.json())["request"]
        after = json.loads(json.dumps(asked["object"]))
        self.change(after)
        patch = difference(asked["object"], after)
        response: Json = {"uid": asked["uid"], "allowed": True}
        if patch:
            response |= {
                "patchType": "JSONPatch",
                "patch": base64.b64encode(json.dumps(patch).encode()).decode(),
            }
        return web.json_response(
            {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}
        )


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def others(admission: Admission) -> AsyncIterator[Others]:
    """Asked after us, whose name comes first; of namespaces with a label of their own."""
    other = Others()
    served = Served(other.application(), admission.identities, "other")
    await served.start()
    made = registered_elsewhere("zz-other-wh", served, "/other", {"others": "yes"})
    await admission.register(made)
    yield other
    await served.stop()


async def until_others_are_asked(admission: Admission, namespace: str, others: Others) -> None:
    while not others.calls:
        await admission.create(namespace, called("probe", pod(inject=False)), "--dry-run=server")


def add_container(subject: Json) -> None:
    if not any(one["name"] == "late" for one in subject["spec"]["containers"]):
        subject["spec"]["containers"].insert(0, container("late"))


def spoil(subject: Json) -> None:
    for one in subject["spec"].get("initContainers", []):
        if one["name"] == "cloudtaser-init":
            one["image"] = "evil.example.com/x"


async def test_a_container_that_another_webhook_puts_in_later_gets_the_wrapper_too(
    admission: Admission, others: Others
) -> None:
    namespace = await admission.namespace("reinvoked", {"others": "yes"})
    await until_others_are_asked(admission, namespace, others)
    others.change = add_container
    stored = (await admission.create(namespace, called("two", pod(annotations=TOKEN)))).object()
    assert [one["name"] for one in stored["spec"]["containers"]] == ["late", "app"]
    assert named(stored, "late")["command"] == named(stored, "app")["command"] == COMMAND
    assert {environment(stored, name)["CLOUDTASER_LISTEN_ADDR"] for name in ("late", "app")} == {
        ":8199",
        ":8200",
    }
    assert await unchanged(admission, namespace, stored)


async def test_where_another_webhook_has_the_last_word_the_final_pod_is_looked_at(
    admission: Admission, others: Others
) -> None:
    labels = {"others": "yes", "cloudtaser.io/enforce": "required"}
    namespace = await admission.namespace("spoiled", labels)
    await until_others_are_asked(admission, namespace, others)
    others.change = lambda subject: None
    assert (await admission.create(namespace, called("good", pod()))).code == 0
    others.change = spoil
    said = await admission.create(namespace, called("bad", pod()))
    assert said.code != 0
    assert 'admission webhook "validate-required.cloudtaser.io" denied the request' in said.err
    assert "cloudtaser-init runs evil.example.com/x, not the operator's image" in said.err
    others.change = lambda subject: None


async def test_nobody_debugs_his_way_to_the_wrappers_program(admission: Admission, required: str) -> None:
    assert (await admission.create(required, called("debugged", pod()))).code == 0

    async def debug(**mount: Any) -> Said:
        ephemeral = {
            "name": "d",
            "image": "x",
            "volumeMounts": [{"name": "cloudtaser-payload", "mountPath": "/x", **mount}],
        }
        return await kubectl(
            admission.plane, "patch", "pod", "debugged", "-n", required, "--subresource=ephemeralcontainers",
            "--patch", json.dumps({"spec": {"ephemeralContainers": [ephemeral]}}),
        )  # fmt: skip

    refused = await debug()
    assert refused.code != 0
    assert "ephemeral container d could write to the wrapper's program" in refused.err
    assert (await debug(readOnly=True)).code == 0


async def test_the_program_of_a_pod_that_waits_is_not_exchanged(admission: Admission, required: str) -> None:
    gated = pod(schedulingGates=[{"name": "example.com/wait"}])
    assert (await admission.create(required, called("gated", gated))).code == 0

    async def change(kind: str, patch: object) -> Said:
        return await kubectl(
            admission.plane,
            "patch",
            "pod",
            "gated",
            "-n",
            required,
            f"--type={kind}",
            "--patch",
            json.dumps(patch),
        )

    def image(part: str, name: str) -> list[Json]:
        return [{"op": "replace", "path": f"/spec/{part}/0/image", "value": name}]

    plain = {"metadata": {"annotations": None, "finalizers": ["example.com/kept"]}}
    assert (await change("merge", plain)).code == 0
    refused = await change("json", image("initContainers", "evil.example.com/x"))
    assert refused.code != 0
    assert "cloudtaser-init would run evil.example.com/x, not the operator's image" in refused.err
    assert (await change("json", image("containers", "registry.example.com/app:2"))).code == 0
    await admission.served.stop()
    try:
        refused = await change("json", image("initContainers", "evil.example.com/x"))
        assert 'failed calling webhook "validate-required.cloudtaser.io"' in refused.err
        freed = await change("merge", {"metadata": {"finalizers": None}})
        assert freed.code == 0, freed.err
    finally:
        await admission.served.start()


async def test_while_we_are_down_an_ordinary_pod_starts_and_a_required_one_waits(
    admission: Admission, ordinary: str, required: str
) -> None:
    await admission.served.stop()
    try:
        stored = (await admission.create(ordinary, called("down", pod()))).object()
        assert named(stored, "app")["command"] == ["app", "--serve"]
        refused = await admission.create(required, called("down", pod()))
        assert refused.code != 0
        assert 'failed calling webhook "inject-required.cloudtaser.io"' in refused.err
        silent = await admission.create(required, called("silent", pod(inject=False)))
        assert silent.code == 0, silent.err
    finally:
        await admission.served.start()
    assert (await admission.create(required, called("up", pod()))).code == 0


async def test_the_systems_own_namespaces_are_never_asked_about(admission: Admission) -> None:
    await kubectl(admission.plane, "label", "namespace", "kube-system", "webhook-tests=wh")
    try:
        said = await admission.create("kube-system", called("never-here", pod()), "--dry-run=server")
        assert named(said.object(), "app")["command"] == ["app", "--serve"]
    finally:
        await kubectl(admission.plane, "label", "namespace", "kube-system", "webhook-tests-")
