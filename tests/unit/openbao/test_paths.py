"""A path that can be granted says exactly what it seems to say."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.errors import UsageError
from cloudtaser.openbao.layout import Layout
from cloudtaser.openbao.paths import check_in_space, check_namespace, check_path, check_service_account

MOUNTS: dict[str, Any] = {
    "secret/": {"type": "kv", "options": {"version": "2"}},
    "old/": {"type": "kv", "options": {"version": "1"}},
    "database/": {"type": "database", "options": None},
    "team/kv/": {"type": "kv", "options": {"version": "2"}},
    "pki-pod/": {"type": "pki", "options": {}},
    "sys/": {"type": "system", "options": None},
}
SPACE = Layout().space("berlin")


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "secret", "/secret/data/x", "secret/data/x/", "secret//x", "secret/./x", "secret/../x"),
        *("secret/data/*", "secret/data/+/x", "secret/data/{{identity.entity.id}}", "secret/data/x y"),
        *("secret/data/x%2Fy", "secret/data/x\n", "secret/data/ü", "secret/data/x?list=true"),
        *("secret\\data\\x", "a/" + "b" * 600),
    ],
)
def test_wildcards_templates_and_empty_or_dot_segments_are_refused(path: str) -> None:
    with pytest.raises(UsageError):
        check_path(path)


@given(st.text(max_size=60))
def test_whatever_passes_is_made_of_plain_segments(path: str) -> None:
    try:
        check_path(path)
    except UsageError:
        return
    assert re.fullmatch(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)+", path, re.ASCII)
    assert not {".", ".."} & set(path.split("/"))


@pytest.mark.parametrize(
    "path", ["secret/data/a", "secret/data/a/b", "old/a", "database/creds/shop", "team/kv/data/a"]
)
def test_a_secret_of_any_engine_of_the_space_can_be_granted(path: str) -> None:
    check_in_space(path, SPACE, MOUNTS)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("secret/a", "did you mean secret/data/a"),
        ("secret/metadata/a", "did you mean secret/data/a"),
        ("secret/data", "below data/"),
        ("team/kv/x", "did you mean team/kv/data/x"),
        ("team/x", "no secrets engine is mounted there"),
        ("secrets/data/a", "cloudtaser/berlin has database/, old/, secret/, team/kv/"),
        ("sys/mounts", "under sys/"),
        ("pki-pod/sign/bridge-pod", "under pki-pod/"),
        ("auth/token/create", "under auth/"),
    ],
)
def test_what_cannot_be_granted_is_refused_with_the_way_out(path: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        check_in_space(path, SPACE, MOUNTS)
    assert said in refused.value.diagnostic()


@pytest.mark.parametrize("name", ["", "a_b", "A", "a.b", "a/b", "-a", "a" * 64, "*"])
def test_what_is_no_kubernetes_namespace_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        check_namespace(name)


@pytest.mark.parametrize("name", ["a_b", "A", "a/b", "-a", "a" * 254, "*"])
def test_what_is_no_service_account_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        check_service_account(name)


def test_a_service_account_may_have_dots_and_may_be_left_open() -> None:
    assert check_service_account("a.b-c") == "a.b-c"
    assert check_service_account("") == ""
