"""Paths and names: written in one place, and safe to build from what a person typed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.errors import UsageError
from cloudtaser.openbao.form import Form
from cloudtaser.openbao.layout import (
    Layout,
    Space,
    check_bridge_id,
    check_space_name,
    pod_policy_name,
    pod_role_name,
)

FINGERPRINT = "0ad50c05-1153-4508-9237-4cb2912e2c23"
MOUNTS = Layout(form=Form.MOUNTS)


def test_records_lie_where_the_documents_say() -> None:
    layout = Layout()
    assert layout.system_namespace == "cloudtaser"
    assert layout.registered(FINGERPRINT) == f"clusters/{FINGERPRINT}/registered"
    assert layout.initialized(FINGERPRINT) == f"clusters/{FINGERPRINT}/initialized"
    assert layout.bridge("eu-1") == "bridges/eu-1"
    assert layout.cluster_records(FINGERPRINT)[0] == layout.registered(FINGERPRINT)


def test_a_space_is_named_by_the_fingerprint_unless_it_has_a_name() -> None:
    assert Layout().space(FINGERPRINT).namespace == "cloudtaser/0ad50c05"
    assert Layout().space("berlin").namespace == "cloudtaser/berlin"


@pytest.mark.parametrize(
    "name",
    ["", "A", "a/b", "a_b", "-a", "a-", "..", "sys", "root", "state", "shared", "a" * 64, FINGERPRINT, "ä"],
)
def test_a_name_that_no_namespace_can_bear_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        check_space_name(name)


@given(st.text())
def test_whatever_passes_as_a_name_is_one_plain_label(name: str) -> None:
    for check in (check_space_name, check_bridge_id):
        try:
            check(name)
        except UsageError:
            continue
        assert name.isascii()
        assert name.replace("-", "").isalnum()
        assert name == name.lower()


def test_no_two_pairs_share_a_policy_or_role() -> None:
    pairs = [("a", "b"), ("a", ""), ("a-b", ""), ("a", "b-c"), ("a-b", "c"), ("a", "b.c")]
    assert len({pod_policy_name(*pair) for pair in pairs}) == len(pairs)
    assert len({pod_role_name(*pair) for pair in pairs}) == len(pairs)


def test_without_namespaces_records_and_spaces_are_mounts_of_the_root() -> None:
    assert (MOUNTS.system_namespace, MOUNTS.state_mount) == ("", "cloudtaser")
    path = MOUNTS.record_path(MOUNTS.registered(FINGERPRINT))
    assert MOUNTS.shown(path) == f"cloudtaser/data/clusters/{FINGERPRINT}/registered"
    space = MOUNTS.space(FINGERPRINT)
    assert (space.namespace, space.shown) == ("", "cloudtaser-0ad50c05/")
    assert space.mounts == (
        "cloudtaser-0ad50c05/secret",
        "cloudtaser-0ad50c05/transit",
        "cloudtaser-0ad50c05/pki-tunnel",
        "cloudtaser-0ad50c05/pki-pod",
        "auth/cloudtaser-0ad50c05-jwt",
    )


@pytest.mark.parametrize("layout", [Layout(), MOUNTS])
def test_a_registration_leads_back_to_its_space(layout: Layout) -> None:
    space = layout.space(FINGERPRINT)
    assert Space.recorded(space.name, space.namespace) == space
    assert space.asked(space.path("secret/data/shop/db")) == "secret/data/shop/db"


def test_of_the_roots_mounts_a_space_owns_what_its_prefix_begins() -> None:
    mounts = {"cloudtaser/": 1, "cloudtaser-a/secret/": 2, "cloudtaser-ab/secret/": 3, "secret/": 4}
    assert MOUNTS.space("a").own(mounts) == {"secret/": 2}
    assert Layout().space("a").own({"secret/": 4}) == {"secret/": 4}
    assert [MOUNTS.space_of_mount(path) for path in mounts] == [
        None,
        MOUNTS.space("a"),
        MOUNTS.space("ab"),
        None,
    ]


def test_no_two_spaces_share_a_policy_or_role_or_a_beginning_of_one() -> None:
    spaces = [MOUNTS.space(name) for name in ("a", "a-b", "ab", "shop")]
    names: list[str] = []
    for space in spaces:
        names += [space.pod_policy("shop", "web"), space.pod_policy("shop", ""), *space.policies]
        names += [space.role("default"), space.role("shop_web"), space.pod_token_role]
        others = [other for other in spaces if other is not space]
        assert not any(other.pod_policy("shop", "web").startswith(space.pod_policies) for other in others)
    assert len(set(names)) == len(names)


def test_what_is_no_grants_policy_is_not_made_one() -> None:
    space = MOUNTS.space("a")
    assert space.own_pod_policy("ct-pod_shop_web") == "ct-pod_a_shop_web"
    assert space.own_pod_policy("cloudtaser-operator_b") == "cloudtaser-operator_b"
    assert space.own_pod_policy("root") == "root"
