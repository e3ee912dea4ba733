"""Paths and names: written in one place, and safe to build from what a person typed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.errors import UsageError
from cloudtaser.openbao.layout import (
    Layout,
    check_bridge_id,
    check_space_name,
    pod_policy_name,
    pod_role_name,
)

FINGERPRINT = "0ad50c05-1153-4508-9237-4cb2912e2c23"


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
