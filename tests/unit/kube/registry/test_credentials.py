"""Credentials: every form of docker configuration is read, and each goes where the kubelet would use it."""

from __future__ import annotations

import base64
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.errors import ConfigError
from cloudtaser.kube.registry.credentials import Credential, Entry, matching, parse_docker_config
from cloudtaser.secret import Secret

AUTH = base64.b64encode(b"user:pass:word").decode()


def read(value: object) -> tuple[Entry, ...]:
    return parse_docker_config(json.dumps(value).encode(), source="pull secret shop/regcred")


def entry(key: str, name: str = "user") -> Entry:
    return Entry(key, Credential("test", name, Secret("password")))


@pytest.mark.parametrize(
    ("fields", "username", "password", "identity", "registry"),
    [
        ({"auth": AUTH}, "user", "pass:word", None, None),
        ({"auth": AUTH.rstrip("=")}, "user", "pass:word", None, None),
        ({"auth": base64.b64encode(b"user:password\0\0").decode()}, "user", "password", None, None),
        ({"username": "u", "password": "p"}, "u", "p", None, None),
        ({"username": "u", "password": "p", "auth": AUTH}, "user", "pass:word", None, None),
        ({"username": "u", "password": "p", "email": "e", "auth": ""}, "u", "p", None, None),
        ({"identitytoken": "t"}, "", None, "t", None),
        ({"username": "0000", "password": "", "identitytoken": "t"}, "0000", None, "t", None),
        ({"username": "<token>", "password": "t"}, "", None, "t", None),
        ({"auth": base64.b64encode(b"<token>:t").decode()}, "", None, "t", None),
        ({"registrytoken": "r"}, "", None, None, "r"),
    ],
)
def test_every_field_of_a_credential_is_read(
    fields: dict[str, str], username: str, password: str | None, identity: str | None, registry: str | None
) -> None:
    (found,) = read({"auths": {"example.com": fields}})
    credential = found.credential
    assert credential.username == username
    for secret, expected in (
        (credential.password, password),
        (credential.identity_token, identity),
        (credential.registry_token, registry),
    ):
        assert (secret.reveal_text() if secret else None) == expected


@pytest.mark.parametrize(
    "fields", [{}, {"auth": ""}, {"username": "u"}, {"email": "e"}, {"username": "", "password": ""}]
)
def test_an_entry_without_a_credential_is_passed_over(fields: dict[str, str]) -> None:
    assert read({"auths": {"example.com": fields}}) == ()


def test_the_older_form_has_its_hosts_at_the_top() -> None:
    assert [each.key for each in read({"example.com": {"auth": AUTH}})] == ["example.com"]
    assert read({"credHelpers": {"example.com": "ecr-login"}}) == ()
    assert read({"auths": {}, "credsStore": "desktop"}) == ()


@pytest.mark.parametrize(
    "value",
    [
        *([], "text", 1, None, {"auths": []}),
        {"auths": {"h": {"auth": "canary!!"}}},
        {"auths": {"h": {"auth": 1}}},
        {"auths": {"h": {"auth": base64.b64encode(b"canary").decode()}}},
        {"auths": {"h": {"username": "u", "password": ["canary"]}}},
        {"auths": {str(n): {} for n in range(2000)}},
    ],
)
def test_what_is_no_configuration_is_refused_without_showing_it(value: object) -> None:
    with pytest.raises(ConfigError, match="pull secret shop/regcred") as caught:
        read(value)
    assert "canary" not in caught.value.diagnostic()


@given(st.binary(max_size=200))
def test_no_bytes_do_harm(data: bytes) -> None:
    try:
        parse_docker_config(data, source="s")
    except ConfigError:
        pass


@pytest.mark.parametrize(
    ("key", "image", "matches"),
    [
        # Kubernetes 1.34, pkg/credentialprovider/keyring_test.go, and the documentation of pull secrets
        ("example.com", "example.com/team/app", True),
        ("example.com", "example.com:443/team/app", False),
        ("example.com:5000", "example.com:5000/app", True),
        ("example.com:5000", "example.com/app", False),
        ("https://example.com", "example.com/app", True),
        ("http://example.com/v1/", "example.com/app", True),
        ("https://example.com/v2/", "example.com/app", True),
        ("https://example.com/v2/team", "example.com/team/app", True),
        ("example.com/team", "example.com/team/app", True),
        ("example.com/team", "example.com/other/app", False),
        ("*.example.com", "a.example.com/app", True),
        ("*.example.com", "a.b.example.com/app", False),
        ("*.example.com", "example.com/app", False),
        ("*.*.example.com", "a.b.example.com/app", True),
        ("pre*.example.com", "prefix.example.com/app", True),
        ("pre*.example.com", "other.example.com/app", False),
        ("*.example.com:5000/team", "a.example.com:5000/team/app", True),
        ("regist?y.example.com", "registry.example.com/app", False),  # to Go's url.Parse a query
        ("registr[xy].example.com", "registry.example.com/app", False),  # no host
        ("registr[^y].example.com", "registry.example.com/app", False),
        ("*", "example/app", True),
        ("*", "example.com/app", False),
        ("https://index.docker.io/v1/", "docker.io/library/nginx", True),
        ("index.docker.io", "docker.io/team/app", True),
        ("docker.io", "docker.io/team/app", True),
        ("https://index.docker.io/v1/", "example.com/library/nginx", False),
        ("[::1]:5000", "[::1]:5000/app", True),
        ("EXAMPLE.com", "example.com/app", True),
        ("", "example.com/app", False),
    ],
)
def test_a_credential_is_used_for_the_images_for_which_the_kubelet_uses_it(
    key: str, image: str, matches: bool
) -> None:
    entries = read({"auths": {key: {"auth": AUTH}}})
    assert bool(matching(entries, image)) is matches


def test_longer_keys_come_first_and_equal_ones_in_the_given_order() -> None:
    entries = [
        entry("example.com", "host-1"),
        entry("example.com/team", "team"),
        entry("example.com", "host-2"),
        entry("*.com", "wild"),
        entry("example.com", "host-1"),
    ]
    names = [credential.username for credential in matching(entries, "example.com/team/app")]
    assert names == ["team", "host-1", "host-2", "wild"]


def test_docker_hubs_own_entry_counts_when_nothing_else_fits() -> None:
    hub, direct = entry("index.docker.io", "hub"), entry("docker.io/team", "direct")
    assert [found.username for found in matching([hub, direct], "docker.io/team/app")] == ["direct"]
    assert [found.username for found in matching([hub, direct], "docker.io/library/nginx")] == ["hub"]


def test_equal_credentials_are_one_identity_and_others_are_not() -> None:
    def identity(**fields: Any) -> bytes:
        return Credential("a", **fields).identity

    one = Credential("pull secret a/b", "user", Secret("pass")).identity
    assert one == Credential("pull secret c/d", "user", Secret("pass")).identity
    others = [
        identity(username="user", password=Secret("pasS")),
        identity(username="userpass", password=Secret("")),
        identity(username="user", identity_token=Secret("pass")),
        identity(username="user", registry_token=Secret("pass")),
        identity(username="use", password=Secret("rpass")),
    ]
    assert len({one, *others}) == len(others) + 1


def test_a_credential_does_not_show_itself() -> None:
    credential = Credential("s", "user", Secret("canary"), Secret("canary"), Secret("canary"))
    assert "canary" not in repr(credential)
    with pytest.raises(TypeError):
        pickle.dumps(credential)
