"""Older spellings of flags mean what they always meant."""

from __future__ import annotations

import pytest

from cloudtaser.cli.aliases import ALIASES, rewrite


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--vault-addr", "--vault-address"),
        ("--openbao-addr", "--vault-address"),
        ("--secretstore-address", "--vault-address"),
        ("--token", "--vault-token"),
        ("--secretstore-token", "--vault-token"),
        ("--beacon-addr", "--beacon-address"),
    ],
)
def test_each_alias_of_the_specification_is_rewritten(old: str, new: str) -> None:
    assert rewrite([old, "value"]) == [new, "value"]
    assert rewrite([f"{old}=value=with=equals"]) == [f"{new}=value=with=equals"]


def test_what_follows_two_dashes_is_left_alone() -> None:
    assert rewrite(["--token", "a", "--", "bao", "--token", "b"]) == [
        "--vault-token",
        "a",
        "--",
        "bao",
        "--token",
        "b",
    ]


def test_no_alias_leads_to_another() -> None:
    assert not set(ALIASES.values()) & set(ALIASES)
