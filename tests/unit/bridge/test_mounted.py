"""Paths between a pod and a server without namespaces: a cluster's own, and never another's."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.bridge import mounted
from cloudtaser.bridge.bodies import rewrite
from cloudtaser.bridge.gate import judge
from cloudtaser.bridge.refusal import RequestRefused
from cloudtaser.bridge.verdict import Allowed, Pin, Refused
from cloudtaser.openbao.form import Form
from cloudtaser.openbao.layout import Layout

LAYOUT = Layout(form=Form.MOUNTS)
A, B = LAYOUT.space("aaaaaaaa"), LAYOUT.space("bbbbbbbb")
PIN = Pin("", "", mounted.LOGIN_MOUNTS, mounted=A)
TOKEN = "s.0123456789abcdefghijklmn"


def passes(method: str, path: str, token: str = TOKEN) -> Allowed:
    verdict = judge(method.encode(), path.encode(), [(b"x-vault-token", token.encode())], PIN)
    assert isinstance(verdict, Allowed), verdict
    return verdict


def refused(method: str, path: str, token: str = TOKEN) -> Refused:
    verdict = judge(method.encode(), path.encode(), [(b"x-vault-token", token.encode())], PIN)
    assert isinstance(verdict, Refused), verdict
    return verdict


@pytest.mark.parametrize(
    ("method", "asked", "sent"),
    [
        ("GET", "secret/data/shop/db", "cloudtaser-aaaaaaaa/secret/data/shop/db"),
        ("LIST", "secret/metadata/shop/", "cloudtaser-aaaaaaaa/secret/metadata/shop"),
        ("GET", "database/creds/x?a=b", "cloudtaser-aaaaaaaa/database/creds/x?a=b"),
        ("POST", "transit/encrypt/k%20y", "cloudtaser-aaaaaaaa/transit/encrypt/k%20y"),
        ("POST", "auth/jwt/login", "auth/cloudtaser-aaaaaaaa-jwt/login"),
        ("POST", "auth/token/create/cloudtaser-pod", "auth/token/create/cloudtaser-pod_aaaaaaaa"),
        ("GET", "auth/token/lookup-self", "auth/token/lookup-self"),
        ("PUT", "sys/leases/renew", "sys/leases/renew"),
        ("GET", "sys/internal/ui/mounts/secret/x", "sys/internal/ui/mounts/cloudtaser-aaaaaaaa/secret/x"),
        ("GET", "sys/internal/ui/mounts/auth/jwt", "sys/internal/ui/mounts/auth/cloudtaser-aaaaaaaa-jwt"),
    ],
)
def test_each_path_goes_to_the_clusters_own_mounts_and_without_a_namespace(
    method: str, asked: str, sent: str
) -> None:
    allowed = passes(method, f"/v1/{asked}")
    assert allowed.target == f"/v1/{sent}".encode()
    assert "cloudtaser-" not in allowed.path.replace("cloudtaser-pod", "")
    assert b"x-vault-namespace" not in dict(allowed.headers)


@pytest.mark.parametrize(
    "path",
    [
        "cloudtaser-bbbbbbbb/secret/data/x",
        "cloudtaser-aaaaaaaa/secret/data/x",
        "cloudtaser%2Dbbbbbbbb/secret/data/x",
        "cloudtaser-bbbbbbbb%2Fsecret%2Fdata%2Fx",
        "cloudtaser/data/clusters",
        "auth/cloudtaser-bbbbbbbb-jwt/login",
        "auth/cloudtaser-aaaaaaaa-jwt/login",
        "auth/token/create/cloudtaser-pod_bbbbbbbb",
        "auth/token/create/cloudtaser-pod_aaaaaaaa",
        "pki-pod/issue/x",
        "sys/internal/ui/mounts",
        "sys/internal/ui/mounts/cloudtaser-bbbbbbbb/secret",
        "sys/internal/ui/mounts/auth/cloudtaser-bbbbbbbb-jwt",
        "sys/internal/ui/mounts/auth/userpass",
        "sys/internal/ui/mounts/sys",
        "sys/internal/ui/mounts/cloudtaser",
    ],
)
def test_a_path_of_another_cluster_or_of_openbao_itself_is_refused(path: str) -> None:
    for method in ("GET", "POST"):
        assert refused(method, f"/v1/{path}").status in (403, 404, 405)


def test_a_token_of_a_namespace_is_not_one_of_the_root() -> None:
    assert refused("GET", "/v1/secret/data/x", f"{TOKEN}.idBBBB").reason == "foreign_token"


def test_whose_token_it_is_the_gate_cannot_see() -> None:
    assert not passes("GET", "/v1/secret/data/x").unproven, (
        "the session asks about every token it has not seen"
    )


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_whatever_passes_stays_below_the_prefix_or_on_the_list(path: str) -> None:
    from urllib.parse import quote

    verdict = judge(b"GET", b"/v1/" + quote(path).encode(), [(b"x-vault-token", TOKEN.encode())], PIN)
    if isinstance(verdict, Allowed):
        target = verdict.target.removeprefix(b"/v1/")
        own = target.startswith((A.prefix.encode(), b"sys/internal/ui/mounts/" + A.prefix.encode()))
        assert own or target in (b"auth/token/lookup-self", b"sys/health", b"sys/seal-status")
        assert b".." not in target.split(b"/")


# Bodies


@pytest.mark.parametrize("path", ["sys/leases/renew", "sys/leases/lookup"])
@pytest.mark.parametrize(
    "lease",
    [
        "cloudtaser-bbbbbbbb/database/creds/r/dwJV",
        "cloudtaser-aaaaaaaa/../cloudtaser-bbbbbbbb/database/creds/r/dwJV",
        "cloudtaser-aaaaaaaa//database/creds/r/dwJV",
        "cloudtaser-aaaaaaaax/database/creds/r/dwJV",
        "database/creds/r/dwJV",
        "auth/cloudtaser-aaaaaaaa-jwt/login/h1",
    ],
)
def test_a_lease_of_another_space_is_not_touched(path: str, lease: str) -> None:
    with pytest.raises(RequestRefused) as no:
        rewrite(path, json.dumps({"lease_id": lease}).encode(), "", A)
    assert no.value.reason == "foreign_lease_id"


def test_a_lease_of_the_own_space_goes_on_as_it_is() -> None:
    body = {"lease_id": "cloudtaser-aaaaaaaa/database/creds/r/dwJV", "increment": 60}
    assert json.loads(rewrite("sys/leases/renew", json.dumps(body).encode(), "", A)) == body


def test_the_policies_of_a_pods_token_are_those_of_its_cluster() -> None:
    body = {"policies": ["ct-pod_shop_web", "root", "ct-pod_bbbbbbbb_shop_web"]}
    sent = json.loads(rewrite("auth/token/create/cloudtaser-pod", json.dumps(body).encode(), "", A))
    assert sent["policies"] == ["ct-pod_aaaaaaaa_shop_web", "root", "ct-pod_aaaaaaaa_bbbbbbbb_shop_web"]


def test_capabilities_are_asked_for_the_own_space_alone() -> None:
    sent = rewrite("sys/capabilities-self", b'{"paths": ["secret/data/x", "auth/token/lookup-self"]}', "", A)
    assert json.loads(sent)["paths"] == ["cloudtaser-aaaaaaaa/secret/data/x", "auth/token/lookup-self"]
    for paths in (["cloudtaser-bbbbbbbb/secret/data/x"], ["secret/../../x"], ["a/b"] * 200, [1]):
        with pytest.raises(RequestRefused):
            rewrite("sys/capabilities-self", json.dumps({"paths": paths}).encode(), "", A)


# Whose it is


@pytest.mark.parametrize(
    ("path", "meta", "own"),
    [
        ("auth/cloudtaser-aaaaaaaa-jwt/login", {}, True),
        ("auth/token/create/cloudtaser-pod_aaaaaaaa", {}, True),
        ("cloudtaser-aaaaaaaa/secret/data/x", {}, True),
        ("auth/token/create", {"cloudtaser-space": "aaaaaaaa"}, True),
        ("auth/approle/login", {"cloudtaser-space": "aaaaaaaa"}, True),
        ("auth/token/create", {"cloudtaser-space": "bbbbbbbb"}, False),
        ("auth/token/create", {}, False),
        ("auth/token/root", {}, False),
        ("auth/cloudtaser-bbbbbbbb-jwt/login", {"cloudtaser-space": "aaaaaaaa"}, False),
        ("auth/token/create/cloudtaser-pod_bbbbbbbb", {"cloudtaser-space": "aaaaaaaa"}, False),
        ("auth/token/create/cloudtaser-pod_aaaaaaaaa", {}, False),
        ("auth/token/create/cloudtaser-bridge_eu", {"cloudtaser-space": "aaaaaaaa"}, False),
        ("cloudtaser-aaaaaaaa/../cloudtaser-bbbbbbbb/secret/data/x", {}, False),
        ("cloudtaser-aaaaaaaa-jwt/login", {}, False),
        ("", {}, False),
    ],
)
def test_what_was_issued_elsewhere_is_not_the_spaces(path: str, meta: dict[str, str], own: bool) -> None:
    assert mounted.own_origin(A, path, meta) is own
    assert not (own and mounted.own_origin(B, path, meta))


# Answers


def test_an_answer_speaks_in_the_words_of_the_question() -> None:
    info = b'{"data":{"path":"cloudtaser-aaaaaaaa/secret/","type":"kv"}}'
    told = json.loads(mounted.answer(A, "sys/internal/ui/mounts/secret", 200, info))
    assert told["data"] == {"path": "secret/", "type": "kv"}
    rights = b'{"cloudtaser-aaaaaaaa/secret/x":["read"],"data":{"cloudtaser-aaaaaaaa/secret/x":["read"]}}'
    told = json.loads(mounted.answer(A, "sys/capabilities-self", 200, rights))
    assert told == {"secret/x": ["read"], "data": {"secret/x": ["read"]}}
    error = b'{"errors":["no handler for route \\"cloudtaser-aaaaaaaa/x\\"; role \\"aaaaaaaa_shop_web\\""]}'
    said = json.loads(mounted.answer(A, "x", 404, error))["errors"]
    assert said == ['no handler for route "x"; role "shop_web"']


def test_an_answer_that_is_no_json_is_left_as_it_is() -> None:
    assert mounted.answer(A, "sys/capabilities-self", 200, b"<html>") == b"<html>"
