"""What Bank-Vaults' users write in the environment."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.wrapper.envmap import EnvMapError, SecretPath
from cloudtaser.wrapper.references import is_reference, parse_reference, warning_about
from cloudtaser.wrapper.templates import Field, Part

DB = SecretPath("secret/data/db")


def parts(value: str) -> tuple[Part, ...] | None:
    reference = parse_reference("NAME", value.encode())
    return None if reference is None else reference.parts


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("vault:secret/data/db#password", (Field("password", DB),)),
        ("vault:secret/data/db#password#3", (Field("password", SecretPath("secret/data/db", 3)),)),
        ("vault:/v1/secret/data/db#password", (Field("password", DB),)),
        ("vault:database/creds/app#username", (Field("username", SecretPath("database/creds/app")),)),
        ("${vault:secret/data/db#password}", (Field("password", DB),)),
        (
            "pg://${vault:secret/data/db#user}:${vault:secret/data/db#password#2}@h/${HOME}",
            (
                b"pg://",
                Field("user", DB),
                b":",
                Field("password", SecretPath("secret/data/db", 2)),
                b"@h/${HOME}",
            ),
        ),
    ],
)
def test_a_reference_names_path_and_field(value: str, expected: tuple[Part, ...]) -> None:
    assert parts(value) == expected


@pytest.mark.parametrize(
    "value", ["", "vault", "vault:8200", "vault:latest", "https://vault:8200/#x", "VAULT:a/b#c", "$vault:a#b"]
)
def test_an_ordinary_value_is_left_alone_without_a_word(value: str) -> None:
    assert parts(value) is None
    assert warning_about(value.encode()) == ""


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (">>vault:pki/issue/web#certificate#{}", "would write"),
        ("x${>>vault:pki/issue/web#certificate#{}}", "would write"),
        ("vault:v1:8SDd3WHDOjf7mq69CyCqYjBXAiQQAVZRkFM13ok481zoCmHnSeDX9vyf7w==", "transit"),
        ("a${vault:v1:abc}b", "transit"),
        ("vault:secret/data/db", "without #FIELD"),
    ],
)
def test_what_is_not_taken_over_is_left_alone_with_a_warning(value: str, why: str) -> None:
    assert parts(value) is None
    assert why in warning_about(value.encode())


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("vault:secret/data/db#", "names no field"),
        ("vault:#password", "empty path"),
        ("vault:a//b#c", "segment"),
        ("vault:a/b#c#latest", "version"),
        ("vault:a/b#c#1#2", "PATH#FIELD"),
        ("x${vault:a/b#c", "has no }"),
        ("x${vault:a/b}", "names no field"),
        ("vault:a/b#${.username | urlquery}", "CLOUDTASER_TEMPLATE_NAME"),
        ("x${vault:a/b#${.username}}", "CLOUDTASER_TEMPLATE_NAME"),
    ],
)
def test_what_is_meant_as_one_and_is_wrong_is_told(value: str, complaint: str) -> None:
    with pytest.raises(EnvMapError, match=complaint):
        parts(value)


@given(st.binary(max_size=60))
def test_any_value_is_a_reference_a_complaint_or_left_alone(value: bytes) -> None:
    try:
        reference = parse_reference("NAME", value)
    except EnvMapError:
        assert is_reference(value)
    else:
        assert (reference is not None) == is_reference(value)


@given(st.lists(st.tuples(st.binary(max_size=8), st.sampled_from([b"a/b#c", b"x/y/z#field#12"])), min_size=1))
def test_text_around_references_stays_as_it_is(pieces: list[tuple[bytes, bytes]]) -> None:
    clean = [(text.replace(b"$", b"_").replace(b"vault:", b""), where) for text, where in pieces]
    value = b"".join(text + b"${vault:" + where + b"}" for text, where in clean)
    reference = parse_reference("NAME", value)
    assert reference is not None
    assert [part for part in reference.parts if isinstance(part, bytes)] == [t for t, _ in clean if t]
    assert len(reference.fields()) == len(clean)
