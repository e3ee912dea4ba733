"""Challenges: what a registry asks for, however it writes it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.kube.registry.challenge import Challenge, parse_challenges, repository_of

BEARER = {"realm": "https://auth.example.com/token", "service": "registry", "scope": "repository:a/b:pull"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            ['Bearer realm="https://auth.example.com/token",service="registry",scope="repository:a/b:pull"'],
            [Challenge("bearer", BEARER)],
        ),
        (
            ['BEARER Realm ="https://auth.example.com/token" ,Service=registry,scope="repository:a/b:pull"'],
            [Challenge("bearer", BEARER)],
        ),
        (
            ['Basic realm="a, b=\\"c\\"", Bearer realm="x"'],
            [Challenge("basic", {"realm": 'a, b="c"'}), Challenge("bearer", {"realm": "x"})],
        ),
        (
            ["Negotiate", 'Basic realm="x"'],
            [Challenge("negotiate"), Challenge("basic", {"realm": "x"})],
        ),
        (["Negotiate, Basic realm=x"], [Challenge("negotiate"), Challenge("basic", {"realm": "x"})]),
        (['Bearer realm="first",realm="second"'], [Challenge("bearer", {"realm": "first"})]),
        (['Basic realm="unfinished'], [Challenge("basic"), Challenge("realm")][:1]),
        ([""], []),
        ([" , ,"], []),
        (["\x00\xff"], []),
    ],
)
def test_every_form_of_challenge_is_read(fields: list[str], expected: list[Challenge]) -> None:
    assert list(parse_challenges(fields)) == expected


@given(st.lists(st.text(max_size=200), max_size=3))
def test_no_field_does_harm(fields: list[str]) -> None:
    for challenge in parse_challenges(fields):
        assert challenge.scheme == challenge.scheme.lower()


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("repository:team/app:pull", "team/app"),
        ("repository:team/app:pull,push", "team/app"),
        ("repository:team/app:*", "team/app"),
        ("repository:team/app:push", None),
        ("registry:catalog:*", None),
        ("repository:team/app:pull repository:other:pull", None),
        ("repository:team:app:pull", None),
        ("", None),
    ],
)
def test_of_a_scope_only_reading_one_repository_is_asked_for(scope: str, expected: str | None) -> None:
    assert repository_of(scope) == expected
