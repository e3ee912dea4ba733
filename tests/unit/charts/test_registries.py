"""What the chart writes of registries is what the operator reads, and grants what it names and no more."""

from __future__ import annotations

import json
from typing import Any

import helm_python as helm
import pytest

from cloudtaser.kube.registry.settings import RegistrySettings, parse_settings
from tests.charts import Json, beacon, only, render


def written(**registry: Any) -> tuple[list[Json], RegistrySettings]:
    objects = render(beacon(registry=registry))
    data = only(objects, "ConfigMap", "cloudtaser-operator")["data"]["registries.json"]
    return objects, parse_settings(data.encode(), source="registries.json")


def test_without_a_word_the_operator_has_the_defaults_and_may_read_no_secret() -> None:
    objects, settings = written()
    assert settings == RegistrySettings()
    assert "secrets" not in json.dumps([one.get("rules") for one in objects])
    assert "/etc/cloudtaser-registry" not in json.dumps(objects)


def test_every_value_reaches_the_operator() -> None:
    objects, settings = written(
        pullSecrets=[{"namespace": "shop", "name": "regcred"}],
        dockerConfigSecret="own",
        cloudIdentity="aws",
        dockerConfigNamespaces=["shop"],
        networks=["10.0.0.0/8"],
        ca="PEM",
        timeoutSeconds=5,
        registries=[
            {
                "host": "docker.io",
                "mirrors": ["https://mirror.example.com/hub"],
                "plainHttp": False,
                "ca": "PEM 2",
                "realms": ["auth.example.com"],
                "networks": ["192.168.0.0/16"],
            }
        ],
    )
    assert settings.pull_secrets == {("shop", "regcred")}
    assert settings.docker_config == "/etc/cloudtaser-registry/config.json"
    assert settings.docker_config_namespaces == {"shop"}
    assert (settings.ca, settings.bounds.timeout, settings.cloud_identity) == ("PEM", 5, "aws")
    (rule,) = settings.rules
    assert (rule.host, rule.mirrors, rule.ca) == ("docker.io", ("https://mirror.example.com/hub",), "PEM 2")
    assert rule.realms == {"auth.example.com"}
    pod = only(objects, "Deployment", "cloudtaser-operator")["spec"]["template"]["spec"]
    (volume,) = (one for one in pod["volumes"] if one["name"] == "registry")
    assert volume["secret"]["secretName"] == "own"
    holders = [
        container["name"]
        for container in pod["containers"]
        if any(mount["name"] == "registry" for mount in container["volumeMounts"])
    ]
    assert holders == ["manager"]


def test_a_cloud_is_told_by_annotations_of_the_operators_account_alone() -> None:
    annotations = {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/operator"}
    objects = render(beacon(serviceAccountAnnotations=annotations))
    having = [
        one["metadata"]["name"]
        for one in objects
        if annotations.items() <= one["metadata"].get("annotations", {}).items()
    ]
    assert having == ["cloudtaser-operator"]


def test_each_granted_secret_gets_a_role_for_get_on_that_one_name() -> None:
    objects, _ = written(pullSecrets=[{"namespace": "shop", "name": "a"}, {"namespace": "shop", "name": "b"}])
    roles = [
        (one["kind"], one["metadata"]["namespace"], rule["resourceNames"], rule["verbs"])
        for one in objects
        for rule in one.get("rules") or ()
        if isinstance(rule, dict) and "secrets" in rule.get("resources", ())
    ]
    assert roles == [("Role", "shop", ["a"], ["get"]), ("Role", "shop", ["b"], ["get"])]


@pytest.mark.parametrize(
    "registry",
    [
        {"insecure": ["x"]},
        {"cloudIdentity": "other"},
        {"registries": [{"mirrors": []}]},
        {"registries": [{"host": "h", "insecure": True}]},
        {"pullSecrets": ["shop/regcred"]},
        {"timeoutSeconds": 0},
    ],
)
def test_a_value_that_is_none_fails_at_the_installation(registry: Json) -> None:
    with pytest.raises(helm.HelmError):
        render(beacon(registry=registry))
