"""Policies grant what the table of spec/openbao.md grants; these hold them to what they must never say."""

from __future__ import annotations

from typing import Any

import pytest

from cloudtaser.openbao import policies
from cloudtaser.openbao.form import Form
from cloudtaser.openbao.layout import Layout
from cloudtaser.openbao.roles import default_role, granted_role, operator_role, pod_token_role

FINGERPRINT = "0ad50c05-1153-4508-9237-4cb2912e2c23"
LAYOUT = Layout()
SPACE = LAYOUT.space(FINGERPRINT)
MOUNTS = Layout(form=Form.MOUNTS)
ROOM = MOUNTS.space(FINGERPRINT)
OTHER = MOUNTS.space("other")
ALL = {
    "bridge": policies.bridge_policy(LAYOUT),
    "bridge for one": policies.bridge_policy_for(LAYOUT, [(FINGERPRINT, SPACE)]),
    "bridge's own": policies.bridge_own_policy(LAYOUT, "eu-1"),
    "admin proxy": policies.admin_proxy_policy(LAYOUT),
    "admin proxy for one": policies.admin_proxy_policy_for(LAYOUT, [SPACE]),
    "operator": policies.operator_policy(SPACE),
    "any pod": policies.default_pod_policy(SPACE, "auth_jwt_1"),
    "bridge in mounts": policies.bridge_policy(MOUNTS, [(FINGERPRINT, ROOM), ("f", OTHER)]),
    "bridge for one in mounts": policies.bridge_policy_for(MOUNTS, [(FINGERPRINT, ROOM)]),
    "admin proxy in mounts": policies.admin_proxy_policy(MOUNTS, [(FINGERPRINT, ROOM)]),
    "operator in mounts": policies.operator_policy(ROOM),
    "any pod in mounts": policies.default_pod_policy(ROOM, "auth_jwt_1"),
    "pod": policies.pod_policy(["secret/data/a", "database/creds/b"], kv_mounts=["secret"]),
}


SELF = ("auth/token/lookup-self", "auth/token/renew-self", "auth/token/revoke-self")


def capabilities(policy: policies.Policy) -> dict[str, list[str]]:
    return {path: rule["capabilities"] for path, rule in policy["path"].items()}


@pytest.mark.parametrize("name", ALL)
def test_no_policy_of_ours_is_about_policies_roles_mounts_or_verbatim_signing(name: str) -> None:
    for path, granted in capabilities(ALL[name]).items():
        assert "sudo" not in granted
        assert not path.startswith(("sys/polic", "sys/mounts", "sys/auth", "sys/namespaces", "identity/"))
        for forbidden in ("/role/", "/roles/", "verbatim", "/issue", "/root", "auth/token/create-orphan"):
            assert forbidden not in path.replace("/issuer/", "/")


@pytest.mark.parametrize(
    "name", ["bridge", "bridge for one", "bridge's own", "operator", "bridge in mounts", "operator in mounts"]
)
def test_neither_bridge_nor_operator_reaches_a_secret(name: str) -> None:
    for path in capabilities(ALL[name]):
        assert "secret/" not in path
        assert "transit/" not in path
        assert not path.startswith(("+/*", "*"))


def test_a_bridge_creates_an_initialisation_and_never_updates_one() -> None:
    assert capabilities(ALL["bridge"])["state/data/clusters/+/initialized"] == ["create", "read"]


def test_a_bridge_for_one_cluster_has_no_wildcard() -> None:
    for name in ("bridge for one", "bridge for one in mounts"):
        paths = [path.replace("/issuer/+/sign/", "/") for path in ALL[name]["path"]]
        assert not [path for path in paths if "+" in path or "*" in path]


@pytest.mark.parametrize(("name", "space"), [("bridge", "+"), ("bridge for one", "0ad50c05")])
def test_under_a_former_ca_a_bridge_has_itself_certified_and_nobody_else(name: str, space: str) -> None:
    granted = capabilities(ALL[name])
    assert {path: rights for path, rights in granted.items() if "/issuer/" in path} == {
        f"{space}/pki-tunnel/issuer/+/sign/bridge": ["update"],
        f"{space}/pki-pod/issuer/+/sign/bridge-pod": ["update"],
    }


def test_of_pki_roles_a_bridge_has_those_of_leaves_alone() -> None:
    signs = {
        path
        for path in ALL["bridge for one"]["path"]
        if path.startswith("0ad50c05/pki-") and "/sign/" in path
    }
    assert {path.rpartition("/")[2] for path in signs} == {
        "bridge", "broker", "bridge-pod", "operator-pod", "operator-seal",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["bridge in mounts", "admin proxy in mounts"])
def test_in_the_root_no_pattern_reaches_beyond_cloudtasers_own_mounts(name: str) -> None:
    for path in ALL[name]["path"]:
        wild = "+" in path or "*" in path
        assert not wild or path.startswith(("cloudtaser/data/", ROOM.prefix, OTHER.prefix))


def test_in_the_root_a_bridge_serves_the_spaces_that_its_policy_names() -> None:
    granted = capabilities(ALL["bridge in mounts"])
    for space in (ROOM, OTHER):
        assert granted[space.login_config] == ["read", "update"]
        assert granted[f"{space.pki_pod}/sign/bridge-pod"] == ["update"]
    assert OTHER.login_config not in ALL["bridge for one in mounts"]["path"]


def test_the_admin_proxy_neither_reads_nor_overwrites_a_value() -> None:
    granted = capabilities(ALL["admin proxy"])
    assert granted["+/secret/data/*"] == ["create"]
    assert granted["+/secret/metadata/*"] == ["read"]
    assert set(granted) == {"+/secret/data/*", "+/secret/metadata/*", *SELF}
    limited = capabilities(ALL["admin proxy for one"])
    assert set(limited) == {f"{SPACE.name}/secret/data/*", f"{SPACE.name}/secret/metadata/*", *SELF}


def test_a_pod_reads_granted_paths_and_their_metadata_alone() -> None:
    granted = capabilities(ALL["pod"])
    secrets = {path for path in granted if not path.startswith(("auth/", "sys/"))}
    assert secrets == {"secret/data/a", "secret/metadata/a", "database/creds/b"}
    assert all(granted[path] == ["read"] for path in secrets)


def test_any_pod_reads_below_the_namespace_that_its_cluster_vouched_for() -> None:
    template = "{{identity.entity.aliases.auth_jwt_1.metadata.namespace}}"
    assert capabilities(ALL["any pod"])[f"secret/data/{template}/*"] == ["read"]


@pytest.mark.parametrize(
    "role",
    [
        default_role(SPACE, "0ad50c05"),
        granted_role(SPACE, "0ad50c05", "shop", "web"),
        operator_role(SPACE, "0ad50c05"),
    ],
)
def test_every_login_is_bound_to_the_cluster_and_leaves_out_openbaos_default_policy(
    role: dict[str, Any],
) -> None:
    assert role["bound_audiences"][0].endswith(":0ad50c05")
    assert role["token_no_default_policy"] is True
    assert role["token_period"] == 3600


def test_a_granted_role_is_bound_to_its_namespace_and_service_account() -> None:
    one, any_of = granted_role(SPACE, "0ad50c05", "shop", "web"), granted_role(SPACE, "0ad50c05", "shop", "")
    assert one["bound_claims"] == {
        "/kubernetes.io/namespace": "shop",
        "/kubernetes.io/serviceaccount/name": "web",
    }
    assert any_of["bound_claims"] == {"/kubernetes.io/namespace": "shop"}
    assert one["token_policies"] == ["cloudtaser-default", "ct-pod_shop_", "ct-pod_shop_web"]


def test_the_operator_makes_tokens_for_pod_policies_only() -> None:
    assert pod_token_role(SPACE)["allowed_policies_glob"] == ["ct-pod_*"]
