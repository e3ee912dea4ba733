"""What a pod becomes."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudtaser.operator.webhook.ports import NamespaceView
from tests.unit.operator.webhook.pods_rig import (
    DIGEST,
    FINGERPRINT,
    PEM,
    WRAPPER_IMAGE,
    Config,
    Json,
    World,
    container,
    environment,
    mutated,
    named,
    pod,
    refusal,
    review,
)

COMMAND = ["/cloudtaser/wrapper", "--"]


def entry(subject: Json, name: str, variable: str) -> Json:
    (found,) = [one for one in named(subject, name)["env"] if one["name"] == variable]
    assert isinstance(found, dict)
    return found


async def test_a_pod_that_asks_gets_the_wrapper_before_its_own_command() -> None:
    after = await mutated(World(), pod(container(args=["-v"])))
    app = named(after, "app")
    assert app["command"] == COMMAND
    assert app["args"] == ["app", "--serve", "-v"]
    assert app["image"] == "registry.example.com/app:1"
    assert environment(after)["CLOUDTASER_SECRET_PATHS"] == "secret/data/shop/db"
    assert environment(after)["CLOUDTASER_ENV_MAP"] == "password=PGPASSWORD"


async def test_the_label_asks_as_well_as_the_annotation() -> None:
    labelled = pod(inject=False, metadata={"labels": {"cloudtaser.io/inject": "true"}})
    assert named(await mutated(World(), labelled), "app")["command"] == COMMAND


@pytest.mark.parametrize(
    "asked", [{}, {"cloudtaser.io/inject": "false"}, {"cloudtaser.io/inject": "True"}, {"inject": "true"}]
)
async def test_a_pod_that_does_not_ask_is_left_alone(asked: dict[str, str]) -> None:
    subject = pod(inject=False, metadata={"annotations": asked})
    answer = await World().webhook().mutate(review(subject), 5.0, required=True)
    assert (answer.allowed, answer.patch, answer.warnings) == (True, (), ())


async def test_the_annotation_wins_over_the_label() -> None:
    subject = pod(
        annotations={"cloudtaser.io/inject": "false"}, metadata={"labels": {"cloudtaser.io/inject": "true"}}
    )
    assert not (await World().webhook().mutate(review(subject), 5.0, required=False)).patch


@pytest.mark.parametrize(
    ("command", "args", "entrypoint", "cmd", "expected"),
    [
        (["c"], None, ["e"], ["d"], ["c"]),
        (["c"], ["a"], ["e"], ["d"], ["c", "a"]),
        (None, ["a"], ["e"], ["d"], ["e", "a"]),
        (None, None, ["e"], ["d"], ["e", "d"]),
        (None, None, [], ["d"], ["d"]),
        (None, None, ["e"], [], ["e"]),
        (None, ["a"], [], ["d"], ["a"]),
        ([], [], ["e"], ["d"], ["e", "d"]),
    ],
)
async def test_what_runs_is_what_a_runtime_would_have_run(
    command: list[str] | None,
    args: list[str] | None,
    entrypoint: list[str],
    cmd: list[str],
    expected: list[str],
) -> None:
    world = World()
    world.images.add("registry.example.com/app:1", entrypoint, cmd)
    more: dict[str, Any] = {} if args is None else {"args": args}
    subject = pod(container(command=command, **more))
    assert named(await mutated(world, subject), "app")["args"] == expected


async def test_the_registry_is_asked_only_where_the_pod_does_not_say() -> None:
    world = World()
    world.images.add("registry.example.com/bare:1", ["e"])
    subject = pod(
        container(),
        container("bare", None),
        imagePullSecrets=[{"name": "one"}, {"name": "two"}],
        nodeSelector={"kubernetes.io/arch": "arm64"},
    )
    after = await mutated(world, subject)
    (asked,) = world.images.asked
    assert (asked.image, asked.namespace, asked.pull_secrets) == (
        "registry.example.com/bare:1",
        "shop",
        ("one", "two"),
    )
    assert str(asked.platform) == "linux/arm64"
    assert after["metadata"]["annotations"]["cloudtaser.io/image-digest"] == f"bare={DIGEST}"


async def test_an_images_own_words_are_not_expanded_by_the_kubelet() -> None:
    world = World()
    world.images.add("registry.example.com/app:1", ["/bin/sh", "-c"], ["echo $$ $(date) $HOME"])
    after = await mutated(world, pod(container(command=None)))
    assert named(after, "app")["args"] == ["/bin/sh", "-c", "echo $$$$ $$(date) $$HOME"]


async def test_what_the_pod_says_is_still_expanded_by_the_kubelet() -> None:
    after = await mutated(World(), pod(container(command=["sh", "-c", "echo $(NAME) $$"])))
    assert named(after, "app")["args"] == ["sh", "-c", "echo $(NAME) $$"]


async def test_a_command_that_looks_like_an_option_is_none_of_the_wrappers() -> None:
    after = await mutated(World(), pod(container(command=["--install", "/x"])))
    assert named(after, "app")["command"] == COMMAND
    assert named(after, "app")["args"] == ["--install", "/x"]


async def test_an_image_that_starts_nothing_is_said() -> None:
    world = World()
    world.images.add("registry.example.com/app:1")
    assert "the image says nothing of what to start (container app)" in await refusal(
        world, pod(container(command=None))
    )


async def test_without_the_images_configuration_a_pod_is_refused_or_warned_about() -> None:
    world = World()
    subject = pod(container(command=None))
    assert "container app names no command" in await refusal(world, subject)
    answer = await world.webhook().mutate(review(subject), 5.0, required=False)
    assert (answer.allowed, answer.patch) == (True, ())
    assert "this pod gets no secrets: container app names no command" in answer.warnings[0]
    assert [one.reason for one in world.occurrences] == ["SecretInjectionRefused", "SecretInjectionSkipped"]
    name = "cloudtaser_operator_injection_failures_total"
    assert world.count(name, namespace="shop", reason="image_not_found") == 2


async def test_a_dry_run_has_no_effect_but_its_answer() -> None:
    world = World()
    subject = pod(container(command=None))
    answer = await world.webhook().mutate(review(subject, dry_run=True), 5.0, required=False)
    assert answer.warnings
    assert (await World().webhook().mutate(review(pod(), dry_run=True), 5.0, required=False)).patch
    assert world.occurrences == []
    assert not world.count(
        "cloudtaser_operator_injection_failures_total", namespace="shop", reason="image_not_found"
    )


# --- containers of every kind


KINDS = pod(
    container("app"),
    container("istio-proxy"),
    inits=[
        container("migrate"),
        container("log", restartPolicy="Always"),
        container("linkerd-proxy", restartPolicy="Always"),
        container("istio-init"),
    ],
    ephemeralContainers=[container("debug")],
)


def wrapped(subject: Json) -> list[str]:
    spec = subject["spec"]
    every = [*spec["initContainers"], *spec["containers"], *spec.get("ephemeralContainers", ())]
    return [one["name"] for one in every if one.get("command") == COMMAND]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, ["log", "app"]),
        ({"init-containers": "true"}, ["migrate", "log", "app"]),
        ({"containers": "app"}, ["app"]),
        ({"containers": "migrate"}, ["migrate"]),
        ({"containers": "istio-proxy,app"}, ["app", "istio-proxy"]),
        ({"skip-containers": "log"}, ["app"]),
        ({"skip-containers": "log", "init-containers": "true"}, ["migrate", "app"]),
    ],
)
async def test_each_kind_of_container_is_decided_on_purpose(
    asked: dict[str, str], expected: list[str]
) -> None:
    subject = pod(metadata={"annotations": {f"cloudtaser.io/{key}": value for key, value in asked.items()}})
    subject["metadata"]["annotations"] |= KINDS["metadata"]["annotations"]
    subject["spec"] = KINDS["spec"]
    after = await mutated(World(), subject)
    assert wrapped(after) == expected
    assert after["spec"]["initContainers"][0]["name"] == "cloudtaser-init"
    assert after["spec"]["ephemeralContainers"] == KINDS["spec"]["ephemeralContainers"]


async def test_a_container_that_is_not_there_gets_the_nearest_name() -> None:
    message = await refusal(
        World(), pod(container("server"), annotations={"cloudtaser.io/containers": "sever"})
    )
    assert message == "cloudtaser.io/containers: the pod has no container sever; did you mean server?"


# --- the payload and the tokens


async def test_the_payload_comes_by_a_container_that_passes_restricted() -> None:
    after = await mutated(World(), pod())
    init = named(after, "cloudtaser-init")
    assert init["image"] == WRAPPER_IMAGE
    assert init["args"] == ["--install", "/target"]
    assert init["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert init["resources"].keys() == {"requests", "limits"}
    assert {"name": "cloudtaser-payload", "emptyDir": {"medium": "Memory", "sizeLimit": "32Mi"}} in after[
        "spec"
    ]["volumes"]
    assert {"name": "cloudtaser-payload", "mountPath": "/cloudtaser", "readOnly": True} in named(
        after, "app"
    )["volumeMounts"]


async def test_where_the_pod_is_of_another_user_our_container_is_of_its_own() -> None:
    after = await mutated(World(), pod(securityContext={"runAsUser": 0}))
    context = named(after, "cloudtaser-init")["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"], context["runAsNonRoot"]) == (65532, 65532, True)


async def test_where_images_can_be_mounted_there_is_no_init_container() -> None:
    after = await mutated(World(), pod(), image_volumes=True)
    assert "initContainers" not in after["spec"]
    assert {"name": "cloudtaser-payload", "image": {"reference": WRAPPER_IMAGE}} in after["spec"]["volumes"]
    mount = named(after, "app")["volumeMounts"][0]
    assert mount == {
        "name": "cloudtaser-payload",
        "mountPath": "/cloudtaser",
        "readOnly": True,
        "subPath": "cloudtaser",
    }


async def test_the_pods_token_has_the_clusters_audience() -> None:
    after = await mutated(World(), pod())
    (volume,) = [one for one in after["spec"]["volumes"] if one["name"] == "cloudtaser-token"]
    assert volume["projected"]["sources"] == [
        {
            "serviceAccountToken": {
                "audience": "cloudtaser:0ad50c05",
                "expirationSeconds": 600,
                "path": "token",
            }
        }
    ]
    assert {
        "name": "cloudtaser-token",
        "mountPath": "/var/run/secrets/cloudtaser.io",
        "readOnly": True,
    } in named(after, "app")["volumeMounts"]


@pytest.mark.parametrize(
    "path", ["/cloudtaser", "/cloudtaser/", "//cloudtaser/x", "/var/run/secrets/cloudtaser.io"]
)
async def test_a_mount_in_our_place_is_refused(path: str) -> None:
    subject = pod(
        container(volumeMounts=[{"name": "mine", "mountPath": path}]),
        volumes=[{"name": "mine", "emptyDir": {}}],
    )
    assert f"mounts a volume of its own at {path}" in await refusal(World(), subject)


async def test_without_the_pod_ca_nothing_is_injected() -> None:
    world = World(ca="")
    assert "does not know the pod CA yet" in await refusal(world, pod())


# --- the environment


async def test_where_the_wrapper_goes_is_not_for_the_container_to_say() -> None:
    own = {
        "VAULT_ADDR": "https://evil.example.com",
        "VAULT_SKIP_VERIFY": "true",
        "VAULT_NAMESPACE": "x",
        "CLOUDTASER_ALLOW_HTTP": "true",
        "CLOUDTASER_CA": "x",
        "CLOUDTASER_ALLOW_PLAIN_UNSEAL": "true",
        "CLOUDTASER_AGENT_SOCKET": "@mine",
        "PGHOST": "db",
    }
    subject = pod(container(env=[{"name": name, "value": value} for name, value in own.items()]))
    found = environment(await mutated(World(), subject))
    assert found["VAULT_ADDR"] == "broker://cloudtaser-broker.cloudtaser-system.svc:8443"
    assert found["VAULT_SKIP_VERIFY"] == "false"
    assert found["CLOUDTASER_CA"] == PEM
    assert found["PGHOST"] == "db"
    assert (
        not {
            "VAULT_NAMESPACE",
            "CLOUDTASER_ALLOW_HTTP",
            "CLOUDTASER_ALLOW_PLAIN_UNSEAL",
            "CLOUDTASER_AGENT_SOCKET",
        }
        & found.keys()
    )
    answer = await World().webhook().mutate(review(subject), 5.0, required=False)
    assert "container app: its VAULT_ADDR is replaced, that is for annotations to say" in answer.warnings


async def test_a_variable_set_twice_is_not_a_way_round() -> None:
    own = [
        {"name": "VAULT_ADDR", "value": "https://a"},
        {"name": "X"},
        {"name": "VAULT_ADDR", "value": "https://b"},
    ]
    after = await mutated(World(), pod(container(env=own)))
    assert entry(after, "app", "VAULT_ADDR")["value"].startswith("broker://")


async def test_imported_configmaps_cannot_say_it_either() -> None:
    after = await mutated(World(), pod(container(envFrom=[{"configMapRef": {"name": "mine"}}])))
    found = environment(after)
    assert (
        found["VAULT_CACERT"]
        == found["CLOUDTASER_ALLOW_PLAIN_UNSEAL"]
        == found["CLOUDTASER_AGENT_SOCKET"]
        == ""
    )


async def test_a_container_may_have_secrets_of_its_own() -> None:
    own = [
        {"name": "CLOUDTASER_SECRET_PATHS", "value": "secret/data/shop/mail"},
        {"name": "CLOUDTASER_ENV_MAP", "value": "pw=MAIL"},
    ]
    after = await mutated(World(), pod(container(), container("mail", env=own)))
    assert environment(after)["CLOUDTASER_SECRET_PATHS"] == "secret/data/shop/db"
    assert environment(after, "mail")["CLOUDTASER_SECRET_PATHS"] == "secret/data/shop/mail"
    assert environment(after, "mail")["CLOUDTASER_ENV_MAP"] == "pw=MAIL"


async def test_a_containers_own_paths_are_checked_too() -> None:
    own = [{"name": "CLOUDTASER_SECRET_PATHS", "value": "secret//x"}]
    assert "container app: CLOUDTASER_SECRET_PATHS" in await refusal(World(), pod(container(env=own)))


async def test_a_template_means_what_it_says() -> None:
    asked = {"cloudtaser.io/template-URL": "x://{{password}}@db?a=$(HOME)&b=$$"}
    after = await mutated(World(), pod(annotations=asked))
    assert entry(after, "app", "CLOUDTASER_TEMPLATE_URL")["value"] == "x://{{password}}@db?a=$$(HOME)&b=$$$$"


async def test_a_job_waits_five_minutes_and_is_not_restarted() -> None:
    job = pod(
        metadata={"ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "u"}]}
    )
    job["metadata"]["annotations"] = pod()["metadata"]["annotations"]
    found = environment(await mutated(World(), job))
    assert found["CLOUDTASER_STARTUP_TIMEOUT"] == "5m"
    assert found["CLOUDTASER_ROTATION"] == "none"
    plain = environment(await mutated(World(), pod()))
    assert "CLOUDTASER_STARTUP_TIMEOUT" not in plain
    assert plain["CLOUDTASER_ROTATION"] == "restart"


async def test_what_the_chart_says_of_rotation_reaches_the_wrapper() -> None:
    found = environment(
        await mutated(
            World(),
            pod(),
            rotation_grace="20s",
            rotation_debounce="1s",
            poll_interval="10s",
            delivery="memory",
            ebpf="required",
        )
    )
    assert found["CLOUDTASER_ROTATION_GRACE"] == "20s"
    assert found["CLOUDTASER_ROTATION_DEBOUNCE"] == "1s"
    assert found["CLOUDTASER_ROTATION_INTERVAL"] == "10s"
    assert found["CLOUDTASER_DELIVERY"] == "memory"
    assert found["CLOUDTASER_EBPF"] == "required"


async def test_sighup_with_env_delivery_is_refused() -> None:
    assert "'sighup' cannot bring new values" in await refusal(
        World(), pod(annotations={"cloudtaser.io/rotation": "sighup"})
    )


# --- the token method


TOKEN = {"cloudtaser.io/vault-auth-method": "token"}


async def test_a_sealed_pod_knows_itself_and_its_operator() -> None:
    after = await mutated(World(), pod(annotations=TOKEN))
    found = environment(after)
    assert found["VAULT_AUTH_METHOD"] == "token"
    assert found["CLOUDTASER_FINGERPRINT"] == FINGERPRINT
    assert found["CLOUDTASER_OPERATOR_ADDR"] == "cloudtaser-operator.cloudtaser-system.svc:8446"
    assert found["CLOUDTASER_CONTAINER"] == "app"
    assert entry(after, "app", "CLOUDTASER_POD_UID")["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.uid"
    (volume,) = [one for one in after["spec"]["volumes"] if one["name"] == "cloudtaser-token"]
    assert [one["serviceAccountToken"]["audience"] for one in volume["projected"]["sources"]] == [
        "cloudtaser:0ad50c05",
        "cloudtaser-unseal:0ad50c05",
    ]


async def test_each_sealed_container_listens_at_a_port_that_is_free() -> None:
    subject = pod(
        container(),
        container("two", ports=[{"containerPort": 8200}]),
        inits=[container("log", restartPolicy="Always")],
        annotations=TOKEN,
    )
    after = await mutated(World(), subject)
    listen = [environment(after, name)["CLOUDTASER_LISTEN_ADDR"] for name in ("log", "app", "two")]
    assert listen == [":8199", ":8201", ":8202"]


async def test_a_sealed_pod_is_ready_once_its_application_runs_and_lives_until_then() -> None:
    live = {"httpGet": {"path": "/", "port": 80}}
    after = await mutated(
        World(), pod(container(livenessProbe=live), container("own", readinessProbe=live), annotations=TOKEN)
    )
    app = named(after, "app")
    assert app["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": 8199, "scheme": "HTTP"}
    assert app["startupProbe"]["httpGet"]["path"] == "/readyz"
    assert app["livenessProbe"] == live
    assert named(after, "own")["readinessProbe"] == live
    assert "startupProbe" not in named(after, "own")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"hostNetwork": True}, "'token' cannot be used with hostNetwork"),
        (
            {"annotations": {**TOKEN, "cloudtaser.io/wrap-exec": "true"}},
            "each command would wait for a token",
        ),
    ],
)
async def test_what_a_sealed_pod_cannot_do_is_refused(more: dict[str, Any], says: str) -> None:
    assert says in await refusal(World(), pod(**({"annotations": TOKEN} | more)))


# --- direct mode


async def test_direct_mode_goes_to_an_allowed_address_and_nowhere_else() -> None:
    asked = {
        "cloudtaser.io/vault-address": "https://vault.example.com",
        "cloudtaser.io/vault-namespace": "team",
        "cloudtaser.io/vault-audience": "vault",
        "cloudtaser.io/vault-role": "web",
        "cloudtaser.io/vault-auth-mount": "auth/k8s",
        "cloudtaser.io/vault-client-cert": "/etc/client",
    }
    world = World()
    assert "is not on the operator's list" in await refusal(world, pod(annotations=asked))
    after = await mutated(world, pod(annotations=asked), allowed_addresses=("https://vault.example.com",))
    found = environment(after)
    assert found["VAULT_ADDR"] == "https://vault.example.com:443"
    assert found["VAULT_NAMESPACE"] == "team"
    assert found["VAULT_AUTH_ROLE"] == "web"
    assert found["VAULT_AUTH_MOUNT_PATH"] == "auth/k8s"
    assert (found["VAULT_CLIENT_CERT"], found["VAULT_CLIENT_KEY"]) == (
        "/etc/client/tls.crt",
        "/etc/client/tls.key",
    )
    assert "CLOUDTASER_CA" not in found
    (volume,) = [one for one in after["spec"]["volumes"] if one["name"] == "cloudtaser-token"]
    assert volume["projected"]["sources"][0]["serviceAccountToken"]["audience"] == "vault"


async def test_an_operator_without_a_broker_is_direct_for_everybody() -> None:
    found = environment(
        await mutated(
            World(ca=""),
            pod(),
            vault_address="https://vault.example.com:8200",
            vault_ca=PEM,
            vault_namespace="ns",
        )
    )
    assert found["VAULT_ADDR"] == "https://vault.example.com:8200"
    assert found["CLOUDTASER_CA"] == PEM
    assert found["VAULT_NAMESPACE"] == "ns"


async def test_in_direct_mode_the_container_knows_its_own_files() -> None:
    own = [{"name": "VAULT_CACERT", "value": "/etc/ca.pem"}]
    after = await mutated(World(), pod(container(env=own)), vault_address="https://vault.example.com")
    assert environment(after)["VAULT_CACERT"] == "/etc/ca.pem"
    assert "VAULT_CACERT" not in environment(await mutated(World(), pod(container(env=own))))


@pytest.mark.parametrize(
    "name", ["vault-namespace", "vault-audience", "vault-skip-verify", "vault-client-cert"]
)
async def test_what_only_direct_mode_has_is_refused_behind_the_broker(name: str) -> None:
    value = {"vault-skip-verify": "true", "vault-client-cert": "/etc/client"}.get(name, "x")
    assert f"cloudtaser.io/{name}: behind the broker" in await refusal(
        World(), pod(annotations={f"cloudtaser.io/{name}": value})
    )


async def test_skip_verify_counts_only_when_the_operator_allows_it() -> None:
    asked = {"cloudtaser.io/vault-skip-verify": "true"}
    direct: dict[str, Any] = {"vault_address": "https://vault.example.com"}
    assert "the operator does not allow it" in await refusal(World(), pod(annotations=asked), **direct)
    after = await mutated(World(), pod(annotations=asked), allow_skip_verify=True, **direct)
    assert environment(after)["VAULT_SKIP_VERIFY"] == "true"


# --- hardening, probes, hooks


async def test_only_what_the_author_left_open_is_hardened() -> None:
    mine = {"allowPrivilegeEscalation": True, "seccompProfile": {"type": "Unconfined"}, "runAsUser": 0}
    subject = pod(
        container("open"),
        container("own", securityContext=mine),
        container("all", securityContext={"privileged": True}),
        container("admin", securityContext={"capabilities": {"add": ["SYS_ADMIN"]}}),
    )
    after = await mutated(World(), subject)
    runtime = {"type": "RuntimeDefault"}
    assert named(after, "open")["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "seccompProfile": runtime,
    }
    assert named(after, "own")["securityContext"] == mine
    assert named(after, "all")["securityContext"] == {"privileged": True}
    assert named(after, "admin")["securityContext"] == {
        "capabilities": {"add": ["SYS_ADMIN"]},
        "seccompProfile": runtime,
    }
    quiet = await mutated(World(), pod(securityContext={"seccompProfile": {"type": "Unconfined"}}))
    assert named(quiet, "app")["securityContext"] == {"allowPrivilegeEscalation": False}


EXECS: dict[str, Any] = {
    "livenessProbe": {"exec": {"command": ["check"]}},
    "readinessProbe": {"tcpSocket": {"port": 1}},
    "lifecycle": {"preStop": {"exec": {"command": ["bye"]}}, "postStart": {"httpGet": {"port": 1}}},
}


async def test_probes_and_hooks_see_the_environment_where_that_is_asked() -> None:
    plain = named(await mutated(World(), pod(container(**EXECS))), "app")
    assert plain["livenessProbe"] == EXECS["livenessProbe"]
    assert plain["lifecycle"] == EXECS["lifecycle"]
    after = named(
        await mutated(World(), pod(container(**EXECS), annotations={"cloudtaser.io/wrap-exec": "true"})),
        "app",
    )
    assert after["livenessProbe"]["exec"]["command"] == [*COMMAND, "check"]
    assert after["lifecycle"]["preStop"]["exec"]["command"] == [*COMMAND, "bye"]
    assert after["lifecycle"]["postStart"] == EXECS["lifecycle"]["postStart"]
    assert after["readinessProbe"] == EXECS["readinessProbe"]


# --- pods that get none


async def test_a_pod_with_hostpid_is_skipped_with_an_event_and_a_warning() -> None:
    world = World()
    owners = [
        {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": "u1", "controller": True}
    ]
    subject = pod(hostPID=True)
    subject["metadata"]["ownerReferences"] = owners
    answer = await world.webhook().mutate(review(subject), 5.0, required=False)
    assert (answer.allowed, answer.patch) == (True, ())
    assert "a pod with hostPID gets no secrets" in answer.warnings[0]
    (told,) = world.occurrences
    assert (told.kind, told.name, told.uid, told.reason) == (
        "ReplicaSet",
        "web-1",
        "u1",
        "SecretInjectionSkipped",
    )
    assert "a pod with hostPID gets no secrets" in await refusal(world, subject)


async def test_a_static_pod_is_skipped() -> None:
    mirror = pod(annotations={"kubernetes.io/config.mirror": "x"})
    assert "a static pod is the kubelet's own" in await refusal(World(), mirror)


async def test_a_pod_without_a_name_has_nobody_to_be_told() -> None:
    world = World()
    nameless = pod(hostPID=True, metadata={"name": "", "generateName": "web-"})
    nameless["metadata"]["annotations"] = pod()["metadata"]["annotations"]
    assert (await world.webhook().mutate(review(nameless), 5.0, required=False)).warnings
    assert world.occurrences == []


async def test_a_windows_pod_is_skipped() -> None:
    assert "no wrapper for Windows" in await refusal(World(), pod(os={"name": "windows"}))


@pytest.mark.parametrize(
    ("subject", "says"),
    [
        (pod(shareProcessNamespace=True), "shareProcessNamespace"),
        (pod(hostNetwork=True), "dnsPolicy ClusterFirstWithHostNet"),
        (pod(dnsPolicy="Default"), "dnsPolicy ClusterFirstWithHostNet"),
        (pod(container(env=[{"name": "VAULT_TOKEN", "value": "s.x"}])), "lies in etcd"),
        (
            pod(inject=False, metadata={"annotations": {"cloudtaser.io/inject": "true"}}),
            "no secret is asked for",
        ),
        (pod(annotations={"cloudtaser.io/skip-containers": "app"}), "no container is left"),
    ],
)
async def test_what_may_surprise_is_a_warning(subject: Json, says: str) -> None:
    answer = await World().webhook().mutate(review(subject), 5.0, required=True)
    assert answer.allowed
    assert says in " ".join(answer.warnings)


# --- CloudTaserConfig, and which source counts


async def test_annotation_then_config_then_chart() -> None:

    world = World()
    world.configs["shop", "team"] = Config(
        vault_role="team",
        secret_paths=("secret/data/shop/a", "secret/data/shop/b"),
        env_map="x=X;y=Y",
        vault_auth_path="auth/team",
        wrapper_image="registry.example.com/other:1",
        wrapper_resources={"limits": {"memory": "128Mi"}},
    )
    asked = {"cloudtaser.io/inject": "true", "cloudtaser.io/config": "team"}
    after = await mutated(world, pod(inject=False, metadata={"annotations": asked}))
    found = environment(after)
    assert found["CLOUDTASER_SECRET_PATHS"] == "secret/data/shop/a,secret/data/shop/b"
    assert found["CLOUDTASER_ENV_MAP"] == "x=X;y=Y"
    assert (found["VAULT_AUTH_ROLE"], found["VAULT_AUTH_MOUNT_PATH"]) == ("team", "auth/team")
    assert named(after, "cloudtaser-init")["image"] == "registry.example.com/other:1"
    assert named(after, "cloudtaser-init")["resources"] == {"limits": {"memory": "128Mi"}}
    over = asked | {
        "cloudtaser.io/vault-role": "mine",
        "cloudtaser.io/secret-paths": "secret/data/shop/c",
        "cloudtaser.io/env-map": "z=Z",
    }
    found = environment(await mutated(world, pod(inject=False, metadata={"annotations": over})))
    assert (found["VAULT_AUTH_ROLE"], found["CLOUDTASER_SECRET_PATHS"]) == ("mine", "secret/data/shop/c")
    assert environment(await mutated(World(), pod()))["VAULT_AUTH_ROLE"] == "default"


@pytest.mark.parametrize(
    ("selector", "fits"),
    [
        ({"matchLabels": {"team": "web"}}, True),
        ({"matchLabels": {"team": "mail"}}, False),
        ({"matchExpressions": [{"key": "team", "operator": "In", "values": ["web"]}]}, True),
        ({"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["web"]}]}, False),
        ({"matchExpressions": [{"key": "team", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "other", "operator": "DoesNotExist"}]}, True),
        ({"matchExpressions": [{"key": "team", "operator": "Nonsense"}]}, False),
        ({}, True),
    ],
)
async def test_a_config_is_for_the_namespaces_that_it_selects(
    selector: Mapping[str, Any], fits: bool
) -> None:

    world = World()
    world.spaces["shop"] = NamespaceView(labels={"team": "web"})
    world.configs["shop", "team"] = Config(namespace_selector=selector)
    subject = pod(annotations={"cloudtaser.io/config": "team"})
    answer = await world.webhook().mutate(review(subject), 5.0, required=True)
    assert answer.allowed is fits


async def test_a_config_that_comes_too_late_lets_no_pod_start_without_its_secrets() -> None:
    subject = pod(annotations={"cloudtaser.io/config": "late"})
    answer = await World().webhook().mutate(review(subject), 5.0, required=False)
    assert not answer.allowed
    assert "there is no CloudTaserConfig 'late' here" in answer.message


async def test_a_configs_address_passes_the_same_list() -> None:

    world = World()
    world.configs["shop", "team"] = Config(vault_address="https://169.254.169.254")
    message = await refusal(
        world, pod(annotations={"cloudtaser.io/config": "team"}), allowed_addresses=("0.0.0.0/0",)
    )
    assert "CloudTaserConfig team: '169.254.169.254' is a metadata address, which is never allowed" in message


async def test_a_config_of_which_nothing_is_known_yet_is_not_said_to_be_missing() -> None:
    world = World(configs_known=False)
    subject = pod(annotations={"cloudtaser.io/config": "team"})
    message = await refusal(world, subject)
    assert "CloudTaserConfigs are not known yet, 'team' among them" in message
    assert "there is no" not in message
    answer = await world.webhook().mutate(review(subject), 5.0, required=False)
    assert (answer.allowed, answer.patch) == (True, ())
    assert "not known yet" in answer.warnings[0]
    await mutated(world, pod())  # one that names none is not kept waiting


async def test_a_config_that_is_not_there_is_said() -> None:
    assert "there is no CloudTaserConfig 'team' here" in await refusal(
        World(), pod(annotations={"cloudtaser.io/config": "team"})
    )


async def test_paths_outside_of_the_namespaces_policy_are_refused() -> None:
    world = World()
    world.spaces["shop"] = NamespaceView(
        annotations={"cloudtaser.io/allowed-paths": "secret/data/shop/*, shared/data/*"}
    )
    await mutated(world, pod())
    for path in ("secret/data/other/db", "secret/data/shop", "secret/data/shop-2/db"):
        message = await refusal(world, pod(annotations={"cloudtaser.io/secret-paths": path}))
        assert f"'{path}' is outside of what this namespace's pods may name" in message
    for name, value in (
        ("CLOUDTASER_SECRET_PATHS", "secret/data/other/db"),
        ("X", "vault:secret/data/other/db#x"),
    ):
        own = pod(container(env=[{"name": name, "value": value}]))
        own["metadata"]["annotations"].pop("cloudtaser.io/env-map")
        assert "'secret/data/other/db' is outside" in await refusal(world, own)


# --- the S3 proxy


S3 = {
    "cloudtaser.io/s3proxy": "true",
    "cloudtaser.io/s3proxy-transit-key": "objects",
    "cloudtaser.io/s3proxy-endpoint": "https://s3.example.com",
    "cloudtaser.io/s3proxy-region": "eu-central-1",
    "cloudtaser.io/s3proxy-bucket": "data",
    "cloudtaser.io/s3proxy-port": "9000",
    "cloudtaser.io/s3proxy-auth": "env",
}


async def test_the_s3_proxy_is_a_native_sidecar_before_the_application() -> None:
    own = [{"name": "AWS_ACCESS_KEY_ID", "value": "a"}, {"name": "X", "value": "b"}]
    after = await mutated(World(), pod(container(env=own), annotations=S3, inits=[container("migrate")]))
    assert [one["name"] for one in after["spec"]["initContainers"]] == [
        "cloudtaser-init",
        "cloudtaser-s3proxy",
        "migrate",
    ]
    proxy = named(after, "cloudtaser-s3proxy")
    assert proxy["restartPolicy"] == "Always"
    assert proxy["securityContext"]["runAsNonRoot"] is True
    found = environment(after, "cloudtaser-s3proxy")
    assert found["CLOUDTASER_S3PROXY_LISTEN_ADDR"] == "localhost:9000"
    assert found["CLOUDTASER_S3PROXY_S3_ENDPOINT"] == "https://s3.example.com"
    assert found["CLOUDTASER_S3PROXY_S3_REGION"] == "eu-central-1"
    assert found["CLOUDTASER_S3PROXY_TRANSIT_KEY"] == "objects"
    assert found["CLOUDTASER_S3PROXY_BUCKET_ALIAS"] == "data"
    assert found["CLOUDTASER_S3PROXY_AUTH"] == "env"
    assert found["VAULT_ADDR"].startswith("broker://")
    assert found["AWS_ACCESS_KEY_ID"] == "a"
    assert "X" not in found


async def test_a_pod_that_asks_for_the_s3_proxy_alone_keeps_its_command() -> None:
    subject = pod(inject=False, metadata={"annotations": {"cloudtaser.io/inject": "true", **S3}})
    after = await mutated(World(), subject)
    assert named(after, "app") == subject["spec"]["containers"][0]
    assert [one["name"] for one in after["spec"]["initContainers"]] == ["cloudtaser-s3proxy"]


async def test_without_its_image_there_is_no_s3_proxy() -> None:
    assert "set s3proxy.image" in await refusal(World(), pod(annotations=S3), s3proxy_image="")


# --- annotations that we write


async def test_what_we_write_is_ours_alone() -> None:
    forged = {
        "cloudtaser.io/token-accessor": "app=of-somebody-else",
        "cloudtaser.io/status": "fine",
        "cloudtaser.io/image-digest": f"app={DIGEST}",
    }
    written = (await mutated(World(), pod(annotations=forged)))["metadata"]["annotations"]
    assert "cloudtaser.io/token-accessor" not in written
    assert "cloudtaser.io/image-digest" not in written
    assert written["cloudtaser.io/status"].startswith('{"injected":["app"],')


# --- again and again


VARIANTS: dict[str, Json] = {
    "plain": pod(),
    "image": pod(container(command=None)),
    "kinds": KINDS,
    "token": pod(container(livenessProbe={"exec": {"command": ["x"]}}), container("two"), annotations=TOKEN),
    "s3": pod(annotations=S3),
    "exec": pod(container(**EXECS), annotations={"cloudtaser.io/wrap-exec": "true"}),
    "imports": pod(
        container(envFrom=[{"secretRef": {"name": "x"}}], env=[{"name": "VAULT_NAMESPACE", "value": "x"}])
    ),
    "templates": pod(annotations={"cloudtaser.io/template-URL": "x://{{password}}@db?a=$(HOME)"}),
    "inits": pod(inits=[container("migrate", None)], annotations={"cloudtaser.io/init-containers": "true"}),
}


def world_of_images() -> World:
    world = World()
    for name in ("app", "migrate"):
        world.images.add(f"registry.example.com/{name}:1", ["/entry", "$$"], ["run"])
    return world


@pytest.mark.parametrize(("variant", "volumes"), list(itertools.product(VARIANTS, (False, True))))
async def test_mutating_a_mutated_pod_changes_nothing_and_asks_nobody(variant: str, volumes: bool) -> None:
    world = world_of_images()
    once = await mutated(world, VARIANTS[variant], image_volumes=volumes)
    world.images.asked.clear()
    again = await world.webhook(image_volumes=volumes).mutate(review(once), 5.0, required=True)
    assert again.allowed
    assert again.patch == ()
    assert world.images.asked == []


async def test_what_another_webhook_puts_in_gets_the_wrapper_too_and_moves_nothing() -> None:
    world = world_of_images()
    once = await mutated(world, pod(annotations=TOKEN))
    once["spec"]["containers"].insert(0, container("late"))
    once["spec"]["initContainers"].insert(0, container("later", restartPolicy="Always"))
    twice = await mutated(world, once)
    assert [one["name"] for one in twice["spec"]["initContainers"]] == ["cloudtaser-init", "later"]
    assert wrapped(twice) == ["later", "late", "app"]
    listen = [environment(twice, name)["CLOUDTASER_LISTEN_ADDR"] for name in ("app", "later", "late")]
    assert listen == [":8199", ":8200", ":8201"]
    assert (await world.webhook().mutate(review(twice), 5.0, required=True)).patch == ()


async def test_what_another_webhook_spoils_is_put_right() -> None:
    world = World()
    once = await mutated(world, pod())
    spoiled = await mutated(world, pod())
    named(spoiled, "cloudtaser-init")["image"] = "evil.example.com/x"
    named(spoiled, "cloudtaser-init")["command"] = ["sh"]
    named(spoiled, "app")["volumeMounts"][0]["readOnly"] = False
    entry(spoiled, "app", "VAULT_ADDR")["value"] = "https://evil.example.com"
    spoiled["spec"]["volumes"][0]["emptyDir"] = {}
    assert await mutated(world, spoiled) == once


async def test_a_pods_own_installer_with_a_program_of_its_authors_is_replaced() -> None:
    world = World()
    once = await mutated(world, pod())
    brought = copy.deepcopy(named(once, "cloudtaser-init"))
    brought["volumeMounts"].append({"name": "evil", "mountPath": "/cloudtaser"})
    after = await mutated(world, pod(inits=[brought]))
    assert named(after, "cloudtaser-init") == named(once, "cloudtaser-init")


async def test_a_pull_policy_and_mounts_that_others_add_to_ours_stay() -> None:
    world = World()
    once = await mutated(world, pod())
    init = named(once, "cloudtaser-init")
    init["imagePullPolicy"] = "Always"
    init["volumeMounts"].append(
        {"name": "kube-api-access-x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}
    )
    assert (await world.webhook().mutate(review(once), 5.0, required=True)).patch == ()


NAMES = st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True)


@st.composite
def pods_of_any_kind(draw: st.DrawFn) -> Json:
    def one(name: str, **more: Any) -> Json:
        command = draw(
            st.none()
            | st.just([])
            | st.lists(st.sampled_from(["run", "$$", "$(X)", "--install"]), min_size=1, max_size=2)
        )
        made = container(name, command, **more)
        if draw(st.booleans()):
            made["args"] = draw(st.lists(st.sampled_from(["-a", "$(Y)"]), max_size=2))
        if draw(st.booleans()):
            names = st.sampled_from(
                [
                    "VAULT_ADDR",
                    "VAULT_CACERT",
                    "CLOUDTASER_LISTEN_ADDR",
                    "CLOUDTASER_LOG_LEVEL",
                    "PATH",
                    "URL",
                ]
            )
            made["env"] = [
                {"name": name, "value": draw(st.sampled_from(["", "x", ":9000"]))}
                for name in draw(st.lists(names, max_size=4))
            ]
        if draw(st.booleans()):
            made["envFrom"] = [{"configMapRef": {"name": "x"}}]
        if draw(st.booleans()):
            made["livenessProbe"] = {"exec": {"command": ["check"]}}
        if draw(st.booleans()):
            made["ports"] = [{"containerPort": draw(st.sampled_from([80, 8199, 8200]))}]
        return made

    apps = [one(name) for name in draw(NAMES)]
    inits = [
        one(f"i{name}", **({"restartPolicy": "Always"} if draw(st.booleans()) else {}))
        for name in draw(NAMES)
    ]
    asked: dict[str, str] = {}
    if draw(st.booleans()):
        asked |= TOKEN
    if draw(st.booleans()):
        asked |= S3
    if draw(st.booleans()):
        asked["cloudtaser.io/init-containers"] = "true"
    if draw(st.booleans()) and "cloudtaser.io/vault-auth-method" not in asked:
        asked["cloudtaser.io/wrap-exec"] = "true"
    return pod(*apps, inits=inits, annotations=asked)


@given(pods_of_any_kind(), st.booleans())
@settings(deadline=None)
async def test_any_pod_is_the_same_after_one_mutation_and_after_two(subject: Json, volumes: bool) -> None:
    world = World()
    for one in [*subject["spec"]["containers"], *subject["spec"]["initContainers"]]:
        world.images.add(one["image"], ["/entry", "$$"], ["run"])
    untouched = copy.deepcopy(subject)
    once = await mutated(world, subject, image_volumes=volumes)
    assert subject == untouched
    assert await mutated(world, subject, image_volumes=volumes) == once
    again = await world.webhook(image_volumes=volumes).mutate(review(once), 5.0, required=True)
    assert (again.allowed, again.patch) == (True, ())
    verdict = await world.webhook(image_volumes=volumes).validate(review(once), required=True)
    assert verdict.allowed, verdict.message
