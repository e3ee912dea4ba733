"""The chart: what a bare install says, what every render holds, who may do what, and who gets a token."""

from __future__ import annotations

import base64
import itertools
import re
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest

from cloudtaser.operator.config import SOCKETS
from cloudtaser.operator.seam import BROKER_SOCKET, MANAGER_SOCKET
from cloudtaser.operator.tokens.ledger import NAMES as LEDGER
from cloudtaser.operator.webhook.configuration import Registration, mutating, validating
from cloudtaser.wire.names import (
    ADMIN_SERVICE_ACCOUNT,
    OPERATOR_SERVICE_ACCOUNT,
    POD_CA_CONFIGMAP,
    REVIEWER_SERVICE_ACCOUNT,
    TRUST_CONFIGMAP,
)
from tests.charts import CHARTS, NAMESPACE, Json, beacon, lint, merged, notes, only, render

DIGEST = "sha256:" + "a" * 64
WAYS: dict[str, Json] = {
    "beacon": beacon(),
    "beacon, older values": {
        "operator": {"broker": {"beacon": {"enabled": True, "address": "b.example:443"}}}
    },
    "reverse": {"broker": {"enabled": True}},
    "reverse, own certificate": {"broker": {"enabled": True, "service": {"tlsSecret": "outer"}}},
    "reverse, ingress": {
        "broker": {
            "enabled": True,
            "externalHost": "b.example",
            "ingress": {"enabled": True, "tlsSecret": "t"},
        }
    },
    "direct": {"operator": {"secretstore": {"address": "https://bao.example:8200"}}},
}
MORE: dict[str, Json] = {
    "nothing": {},
    "ha": {"operator": {"ha": True}},
    "air-gapped": {
        "global": {"registry": "registry.internal:5000"},
        "imagePullSecrets": ["a", {"name": "b"}],
    },
    "another namespace": {"namespace": "elsewhere"},
    "everything": {
        "commonLabels": {"team": "x"},
        "operator": {
            "image": {"digest": DIGEST},
            "bridgePin": "spki-sha256:" + "b" * 64,
            "joinCode": "ABCD",
            "proxy": "http://proxy:3128",
            "priorityClassName": "",
            "podAnnotations": {"a": "b"},
            "podLabels": {"c": "d"},
            "nodeSelector": {"e": "f"},
            "tolerations": [{"operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "podDisruptionBudget": {"enabled": True},
            "networkPolicy": {"enabled": False},
            "metrics": {"serviceMonitor": {"enabled": True, "labels": {"g": "h"}}},
            "registry": {"pullSecrets": [{"namespace": "shop", "name": "regcred"}]},
            "webhook": {
                "objectSelector": {"matchLabels": {"i": "j"}},
                "namespaceSelector": {
                    "matchLabels": {"k": "l"},
                    "matchExpressions": [{"key": "m", "operator": "Exists"}],
                },
            },
        },
        "wrapper": {"rotation": "sighup", "ebpf": "required", "resources": {"limits": {"cpu": "1"}}},
    },
}
MATRIX = [
    pytest.param(merged(way, more), id=f"{name}, {other}")
    for (name, way), (other, more) in itertools.product(WAYS.items(), MORE.items())
]


def containers(objects: list[Json]) -> dict[str, Json]:
    pod = only(objects, "Deployment", "cloudtaser-operator")["spec"]["template"]["spec"]
    return {one["name"]: one for one in pod["containers"]}


@pytest.mark.parametrize("values", MATRIX)
def test_every_render_is_sound_holds_no_secret_and_no_cluster_role_that_reads_any(values: Json) -> None:
    objects = render(values)
    assert not [one for one in objects if one["kind"] == "Secret"]
    names = [(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in objects]
    assert len(set(names)) == len(names)
    namespace = values.get("namespace") or NAMESPACE
    assert {where for _, where, _ in names if where} <= {namespace, "shop"}
    pod = only(objects, "Deployment", "cloudtaser-operator")["spec"]["template"]
    selector = only(objects, "Deployment", "cloudtaser-operator")["spec"]["selector"]["matchLabels"]
    for service in (one for one in objects if one["kind"] == "Service"):
        assert service["spec"]["selector"] == selector
        ports = {port["name"] for one in pod["spec"]["containers"] for port in one["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    assert selector.items() <= pod["metadata"]["labels"].items()
    mounted = {one["name"] for one in pod["spec"]["volumes"]}
    assert {m["name"] for c in pod["spec"]["containers"] for m in c["volumeMounts"]} == mounted

    check_roles(objects)


@pytest.mark.parametrize("way", WAYS)
def test_the_linter_has_nothing_to_say(way: str) -> None:
    assert lint(merged(WAYS[way], MORE["everything"])) == []


def check_roles(objects: list[Json]) -> None:
    """No ClusterRole names Secrets, and no Role any but those that were granted by name."""
    for one in objects:
        if one["kind"] == "ClusterRole":
            for rule in one["rules"]:
                resources = rule.get("resources", [])
                assert not [name for name in resources if name == "*" or name.startswith("secrets")]
                assert "*" not in rule["verbs"] + rule.get("apiGroups", [])
        if one["kind"] == "Role":
            for rule in one["rules"]:
                if "secrets" in rule["resources"]:
                    assert rule["verbs"] == ["get"]
                    assert rule["resourceNames"] == ["regcred"]
                    assert one["metadata"]["namespace"] == "shop"


def rules(objects: list[Json], kind: str, name: str = "cloudtaser-operator") -> set[tuple[str, str, str]]:
    """Resource, verb, and the names it is limited to."""
    return {
        (f"{group}/{resource}".strip("/"), verb, ",".join(rule.get("resourceNames", [])))
        for rule in only(objects, kind, name)["rules"]
        if "resources" in rule
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_right_on_webhook_configurations_is_patch_on_one_name() -> None:
    found = {one for one in rules(render(beacon()), "ClusterRole") if "webhookconfigurations" in one[0]}
    api = "admissionregistration.k8s.io"
    name = "cloudtaser-operator-webhook"
    assert found == {
        (f"{api}/mutatingwebhookconfigurations", "patch", name),
        (f"{api}/validatingwebhookconfigurations", "patch", name),
    }


def test_tokens_are_made_of_two_serviceaccounts_only_and_configmaps_read_by_name() -> None:
    found = rules(render(beacon()), "Role")
    assert {one for one in found if "serviceaccounts" in one[0]} == {
        ("serviceaccounts/token", "create", f"{OPERATOR_SERVICE_ACCOUNT},{REVIEWER_SERVICE_ACCOUNT}")
    }
    both, ledger = f"{POD_CA_CONFIGMAP},{TRUST_CONFIGMAP}", ",".join(LEDGER)
    assert {one for one in found if one[0] == "configmaps" and one[1] != "create"} == {
        ("configmaps", "get", both),
        ("configmaps", "update", both),
        ("configmaps", "get", ledger),
        ("configmaps", "patch", ledger),
    }


def test_a_reviewer_may_review_tokens_and_an_administrator_nothing() -> None:
    objects = render(beacon())
    assert rules(objects, "ClusterRole", "cloudtaser-reviewer") == {
        ("authentication.k8s.io/tokenreviews", "create", "")
    }
    subjects = [
        subject["name"]
        for one in objects
        if one["kind"] in ("RoleBinding", "ClusterRoleBinding")
        for subject in one["subjects"]
    ]
    assert ADMIN_SERVICE_ACCOUNT not in subjects


def test_the_broker_has_no_token_and_a_user_of_its_own() -> None:
    objects = render(beacon())
    both = containers(objects)
    mounts = {name: {m["mountPath"] for m in one["volumeMounts"]} for name, one in both.items()}
    assert mounts["manager"] - mounts["broker"] == {"/var/run/secrets/kubernetes.io/serviceaccount"}
    users = {name: one["securityContext"]["runAsUser"] for name, one in both.items()}
    assert users == {"manager": 65532, "broker": 65533}
    pod = only(objects, "Deployment", "cloudtaser-operator")["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert all(not one["automountServiceAccountToken"] for one in objects if one["kind"] == "ServiceAccount")
    assert not pod.get("shareProcessNamespace")


def test_each_container_listens_where_the_other_cannot_write() -> None:
    objects = render(beacon())
    writable = {
        name: {m["mountPath"]: m["name"] for m in one["volumeMounts"] if not m.get("readOnly")}
        for name, one in containers(objects).items()
    }
    directories = {
        name: str((Path(SOCKETS) / socket).parent)
        for name, socket in (("manager", MANAGER_SOCKET), ("broker", BROKER_SOCKET))
    }
    assert {name: list(paths) for name, paths in writable.items()} == {
        name: [path] for name, path in directories.items()
    }
    assert writable["manager"][directories["manager"]] != writable["broker"][directories["broker"]]
    for one in containers(objects).values():
        assert set(directories.values()) <= {m["mountPath"] for m in one["volumeMounts"]}


@pytest.mark.parametrize(
    ("cloud", "annotation"),
    [
        ("aws", "eks.amazonaws.com/skip-containers"),
        ("azure", "azure.workload.identity/skip-containers"),
    ],
)
def test_a_cloud_identity_is_given_to_the_manager_alone(cloud: str, annotation: str) -> None:
    def annotations(**operator: Json) -> Json:
        values = merged(beacon(), {"operator": operator})
        pod = only(render(values), "Deployment", "cloudtaser-operator")["spec"]["template"]
        return dict(pod["metadata"]["annotations"])

    assert annotations(registry={"cloudIdentity": cloud})[annotation] == "broker"
    assert not any("skip-containers" in name for name in annotations(registry={"cloudIdentity": "google"}))
    assert not any("skip-containers" in name for name in annotations())
    mine = {annotation: "broker,sidecar"}
    assert annotations(registry={"cloudIdentity": cloud}, podAnnotations=mine)[annotation] == mine[annotation]


@pytest.mark.parametrize("way", WAYS)
def test_every_container_passes_pod_security_restricted(way: str) -> None:
    for one in containers(render(WAYS[way])).values():
        context = one["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}


@pytest.mark.parametrize("more", MORE)
def test_the_webhook_configurations_are_those_of_the_program(more: str) -> None:
    values = merged(beacon(), MORE[more])
    webhook = values["operator"].get("webhook", {})
    registration = Registration(
        namespace=values.get("namespace") or NAMESPACE,
        failure_policy="Fail" if values["operator"].get("ha") else "Ignore",
        object_selector=webhook.get("objectSelector"),
        namespace_selector=webhook.get("namespaceSelector"),
    )
    objects = render(values)
    for wanted in (mutating(registration), validating(registration)):
        found = only(objects, wanted["kind"], wanted["metadata"]["name"])
        assert found["webhooks"] == wanted["webhooks"]


def test_no_render_says_anything_about_a_ca_bundle() -> None:
    text = "".join(path.read_text() for path in (CHARTS / "cloudtaser" / "templates").iterdir())
    assert not re.search(r"^\s*caBundle:", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "set operator.beacon.address=HOST:443"),
        (merged(beacon(), {"broker": {"enabled": True}}), "two ways to the bridge"),
        (beacon(address="beacon.example.com"), "/operator/beacon/address"),
        (beacon(replicas=2), "replicas"),
        (beacon(logLevel="loud"), "/operator/logLevel"),
        (beacon(bridgePin="abc"), "/operator/bridgePin"),
        (
            beacon(broker={"beacon": {"enabled": True, "address": "other.example:443"}}),
            "set one of them",
        ),
        (
            beacon(secretstore={"address": "https://a:1"}, vaultAddress="https://b:1"),
            "its old name, is https://b:1: set one of them",
        ),
        ({"operator": {"broker": {"beacon": {"enabled": True}}}}, "without operator.broker.beacon.address"),
        ({"broker": {"enabled": True, "ingress": {"enabled": True}}}, "broker.externalHost"),
    ],
)
def test_a_wrong_value_fails_and_is_named(values: Json, says: str) -> None:
    with pytest.raises(helm.HelmError, match=re.escape(says)):
        render(values)


def test_the_old_names_mean_what_the_new_ones_do() -> None:
    new = render(beacon(secretstore={"address": "https://a:1"}))
    assert new == render(beacon(vaultAddress="https://a:1"))
    old = {
        "operator": {
            "broker": {"beacon": {"enabled": True, "address": "b.example:443", "infoHash": "0" * 64}}
        }
    }
    environment = {
        one["name"]: one.get("value") for each in containers(render(old)).values() for one in each["env"]
    }
    assert environment["CLOUDTASER_OPERATOR_BEACON_ADDRESS"] == "b.example:443"
    assert environment["CLOUDTASER_OPERATOR_BEACON_INFO_HASH"] == "0" * 64


def test_values_without_effect_are_accepted_with_a_warning() -> None:
    values = beacon(broker={"tls": {"enabled": True}, "allowHTTP": True})
    assert render(values) == render(beacon())
    assert "have no effect" in notes(values)
    assert "WARNING" not in notes(beacon())


def test_an_air_gapped_registry_takes_the_place_of_every_other() -> None:
    objects = render(merged(beacon(), MORE["air-gapped"]))
    images = {one["image"] for one in containers(objects).values()}
    assert images == {"registry.internal:5000/cloudtaser/operator:0.1.0"}
    settings = only(objects, "ConfigMap", "cloudtaser-operator")["data"]["settings.json"]
    assert '"wrapper_image": "registry.internal:5000/cloudtaser/wrapper:0.1.0"' in settings


def test_with_ha_there_are_three_that_are_never_all_taken_away() -> None:
    objects = render(beacon(ha=True))
    assert only(objects, "Deployment", "cloudtaser-operator")["spec"]["replicas"] == 3
    assert only(objects, "PodDisruptionBudget", "cloudtaser-operator")["spec"]["maxUnavailable"] == 1
    assert not [one for one in render(beacon()) if one["kind"] == "PodDisruptionBudget"]


def test_every_value_has_a_comment_and_a_place_in_the_schema() -> None:
    """`helm show values` is what a user reads."""
    from ruamel.yaml import YAML

    text = (CHARTS / "cloudtaser" / "values.yaml").read_text()
    yaml = YAML(typ="safe")
    values = yaml.load(text)
    with helm.Chart.load(str(CHARTS / "cloudtaser")) as chart:
        schema: Any = chart.schema

    def check(values: Json, schema: Json, path: str) -> None:
        assert set(values) <= set(schema["properties"]), path
        for name, value in values.items():
            below = schema["properties"][name]
            if isinstance(value, dict) and "properties" in below:
                check(value, below, f"{path}.{name}")

    check(values, schema, "")
    check_documented(CHARTS / "cloudtaser" / "values.yaml")


SAYS_IT_ITSELF = re.compile(
    r"^(?:repository|tag|digest|pullPolicy|enabled|annotations|labels|className|timeoutSeconds|rotation\w*|"
    r"pollInterval|delivery|address|caBundle|pod\w+|nodeSelector|tolerations|affinity|priorityClassName|interval|"
    r"maxUnavailable|loadBalancerSourceRanges|port|requests|limits)$"
)


def check_documented(path: Path) -> None:
    """A value whose name alone does not say it has a comment above it, or above what it belongs to."""
    lines = path.read_text().splitlines()
    for before, line in itertools.pairwise(lines):
        name = re.match(r"\s*([A-Za-z]+): *(\S.*)", line)
        if name and not before.lstrip().startswith("#") and not SAYS_IT_ITSELF.match(name[1]):
            raise AssertionError(f"no comment: {line.strip()}")


def test_a_certificate_of_beacons_reaches_the_broker_and_nobody_else() -> None:
    pem = (
        "-----BEGIN CERTIFICATE-----\n"
        + base64.b64encode(b"x" * 60).decode()
        + "\n-----END CERTIFICATE-----\n"
    )
    objects = render(beacon(beacon={"address": "b:1", "ca": pem}))
    data = only(objects, "ConfigMap", "cloudtaser-broker")["data"]
    assert data == {"beacon-ca.crt": pem}


def test_what_decides_which_bridge_is_believed_is_the_managers() -> None:
    pin, code = "spki-sha256:" + "b" * 64, "ABCDEFGH"
    objects = render(beacon(bridgePin=pin, joinCode=code, broker={"beacon": {"infoHash": "0" * 64}}))
    assert only(objects, "ConfigMap", "cloudtaser-operator")["data"]["join-code"] == code
    assert code not in str(only(objects, "ConfigMap", "cloudtaser-broker"))
    both = containers(objects)
    for name in ("BRIDGE_PIN", "BEACON_INFO_HASH", "JOIN_CODE_FILE"):
        given = {one: f"CLOUDTASER_OPERATOR_{name}" in str(both[one]["env"]) for one in both}
        assert given == {"manager": True, "broker": False}, name
