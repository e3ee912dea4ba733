"""Beyond a pod's list an administrator sees how a space is set up, and changes nothing unless told."""

from __future__ import annotations

import pytest

from cloudtaser.bridge.admin_rules import DEFAULT, MAX_RULES, AdminRules
from cloudtaser.errors import ConfigError


@pytest.mark.parametrize(
    "path",
    [
        "sys/mounts",
        "sys/mounts/secret",
        "sys/auth",
        "sys/policies/acl",
        "sys/policies/acl/x",
        "auth/jwt/role",
    ],
)
def test_by_itself_it_shows_and_never_changes(path: str) -> None:
    for method in (b"GET", b"LIST", b"SCAN"):
        assert DEFAULT.lets(method, path)
    for method in (b"PUT", b"POST", b"PATCH", b"DELETE"):
        assert not DEFAULT.lets(method, path)


@pytest.mark.parametrize(
    "path",
    [
        "sys/policies",
        "sys/mountsx",
        "sys/raw/x",
        "sys/namespaces",
        "auth/jwt/config",
        "identity/entity",
        "sys",
        "",
    ],
)
def test_what_no_rule_names_is_refused(path: str) -> None:
    assert not DEFAULT.lets(b"GET", path)


def test_more_can_be_let_through_and_what_was_stays() -> None:
    rules = AdminRules.parse("sys/leases/lookup/*, auth/userpass/login/*:write,identity/entity:write")
    assert rules.lets(b"LIST", "sys/leases/lookup/database/creds")
    assert not rules.lets(b"LIST", "sys/leases/lookup")
    assert not rules.lets(b"PUT", "sys/leases/lookup/x")
    assert rules.lets(b"POST", "auth/userpass/login/ann")
    assert rules.lets(b"POST", "identity/entity")
    assert not rules.lets(b"POST", "identity/entity/id/1")
    assert rules.lets(b"GET", "sys/mounts")
    assert AdminRules.parse("") == DEFAULT


@pytest.mark.parametrize(
    "text",
    [
        "*",
        "/sys/mounts",
        "sys/*",
        "sys",
        "sys/raw/*",
        "sys/seal:write",
        "sys/namespaces/*",
        "sys/wrapping/wrap:write",
        "cubbyhole/*",
        "pki-pod/*:write",
        "auth/../sys/raw",
        "auth/jwt/role/*/x",
        "auth/jwt:read",
        "authx/y",
        "secret/data/x",
        ",".join(["auth/a"] * (MAX_RULES + 1)),
    ],
)
def test_what_cannot_be_let_through_is_refused_at_start(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        AdminRules.parse(text)
    assert "\n" not in caught.value.diagnostic()
