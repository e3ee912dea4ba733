"""The grammar of templates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.wrapper.envmap import EnvMapError, SecretPath
from cloudtaser.wrapper.templates import Field, Part, Template, parse_template

DB = SecretPath("secret/data/db")


def parts(text: str) -> tuple[Part, ...]:
    return parse_template("URL", text.encode(), "CLOUDTASER_TEMPLATE_URL").parts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "postgres://{{username}}:{{password|urlencode}}@db/app",
            (b"postgres://", Field("username"), b":", Field("password", filters=("urlencode",)), b"@db/app"),
        ),
        ("{{ a }}{{b}}", (Field("a"), Field("b"))),
        ("{{1.password}}", (Field("password", 0),)),
        ("{{2.tls.crt}}", (Field("tls.crt", 1),)),
        ("{{tls.crt}}", (Field("tls.crt"),)),
        (r"{{1\.x}}", (Field("1.x"),)),
        ("{{secret/data/db#password}}", (Field("password", DB),)),
        ("{{secret/data/db#password#3}}", (Field("password", SecretPath("secret/data/db", 3)),)),
        ("{{v1/secret/data/db#a?}}", (Field("a", DB, optional=True),)),
        ("{{a?|json|base64}}", (Field("a", optional=True, filters=("json", "base64")),)),
        (r"{{a\|b\?\#\}\}\\}}", (Field(r"a|b?#}}\ ".strip()),)),
        (r"\{{x}} {{a}}", (b"{{x}} ", Field("a"))),
        (r"\\{{a}}", (b"\\", Field("a"))),
        (r"C:\dir {{a}} } {", (b"C:\\dir ", Field("a"), b" } {")),
        ("{{größe}}ü", (Field("größe"), "ü".encode())),
    ],
)
def test_text_and_fields(text: str, expected: tuple[Part, ...]) -> None:
    assert parts(text) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no {{field}}"),
        ("postgres://db", "no {{field}}"),
        (r"\{{a}}", "no {{field}}"),
        ("{{a", "has no }}"),
        ("{{}}", "names no field"),
        ("{{ | json }}", "names no field"),
        ("{{secret/data/db#}}", "names no field"),
        ("{{a|upper}}", "base64, json, urlencode"),
        ("{{0.a}}", "counted from 1"),
        (r"{{a\b}}", "no escape"),
        ("{{a//b#c}}", "segment"),
        ("{{a/b#c#x}}", "version"),
        ("{{a/b#c#1#2}}", "PATH#FIELD"),
        ("{{a/b,c/d#e}}", "PATH#FIELD"),
    ],
)
def test_what_is_no_template_is_told(text: str, complaint: str) -> None:
    with pytest.raises(EnvMapError, match=complaint.replace("{", r"\{")):
        parts(text)


def test_the_name_keeps_the_rules_of_the_map() -> None:
    for name in ("", "a-b", "1A", "LD_PRELOAD", "PATH", "VAULT_TOKEN", "http_proxy"):
        with pytest.raises(EnvMapError):
            parse_template(name, b"{{a}}", "here")
    assert parse_template("LD_PRELOAD", b"{{a}}", "here", loader_names=True).name == "LD_PRELOAD"


FIELDS = st.builds(
    Field,
    st.text(min_size=1, max_size=12).filter(lambda name: name == name.strip() and "\0" not in name),
    st.one_of(st.none(), st.integers(0, 98), st.just(DB), st.just(SecretPath("kv/app", 7))),
    optional=st.booleans(),
    filters=st.lists(st.sampled_from(["base64", "json", "urlencode"]), max_size=2).map(tuple),
)


def written(part: Part) -> bytes:
    """The part as a person would write it."""
    if isinstance(part, bytes):
        return part
    name = "".join("\\" + letter if letter in "|?.#}\\" else letter for letter in part.name)
    where = ""
    if isinstance(part.path, int):
        where = f"{part.path + 1}."
    elif part.path is not None:
        pinned = "" if part.path.version is None else f"#{part.path.version}"
        name, where = f"{part.path.path}#{name}{pinned}", ""
    return (
        "{{" + where + name + "?" * part.optional + "".join("|" + f for f in part.filters) + "}}"
    ).encode()


@given(st.lists(FIELDS, min_size=1, max_size=4), st.lists(st.binary(max_size=8), min_size=5, max_size=5))
def test_what_is_written_is_what_is_read(fields: list[Field], texts: list[bytes]) -> None:
    texts = [text.replace(b"{", b"(").replace(b"\\", b"/") for text in texts]
    expected: list[Part] = []
    for text, field in zip(texts, [*fields, None], strict=False):
        expected += [text] * bool(text) + ([field] if field is not None else [])
    template = parse_template("URL", b"".join(map(written, expected)), "here")
    assert list(template.parts) == expected


@given(st.binary(max_size=60))
def test_any_text_is_a_template_with_fields_or_refused(text: bytes) -> None:
    try:
        template = parse_template("URL", text, "here")
    except EnvMapError:
        return
    assert isinstance(template, Template)
    assert template.fields()
