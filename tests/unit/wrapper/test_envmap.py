"""The grammar of paths and environment map."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.wrapper.envmap import (
    EnvMapError,
    Mapping,
    SecretPath,
    assign,
    exported_name,
    is_loader_name,
    is_name,
    parse_map,
    parse_paths,
)


def test_paths_are_a_comma_separated_list_with_pins() -> None:
    assert parse_paths("secret/data/app, /v1/secret/data/db#3,\nshared/data/x") == (
        SecretPath("secret/data/app"),
        SecretPath("secret/data/db", 3),
        SecretPath("shared/data/x"),
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a,,b",
        "a,",
        "a/../b",
        "a//b",
        "a/",
        "a/./b",
        "a b",
        "a%2f",
        "a?",
        "a?x",
        "a?=1",
        "a?x-y=1",
        "a?x=1&x=2",
        "a?x=%",
        "a?x=%0a",
        "a?x=%ff",
        "a?x=1#2",
        "a#",
        "a#0",
        "a#x",
        "a#-1",
        "a#٣",
        "a\\b",
        "a,a",
        "a#1,a#1",
    ],
)
def test_a_bad_path_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(EnvMapError) as caught:
        parse_paths(text)
    assert "\n" not in str(caught.value)


def test_a_path_may_be_read_at_two_versions() -> None:
    assert len(parse_paths("secret/data/a#1,secret/data/a#2,secret/data/a")) == 3


def test_groups_follow_the_paths_and_the_rest_is_exported_whole() -> None:
    groups = parse_map("password=DB_PASSWORD,user=DB_USER;key?=API_KEY", 3)
    assert groups == (
        (Mapping("password", "DB_PASSWORD"), Mapping("user", "DB_USER")),
        (Mapping("key", "API_KEY", optional=True),),
        None,
    )


def test_an_empty_group_exports_its_path_whole() -> None:
    assert parse_map(";a=B", 2) == (None, (Mapping("a", "B"),))
    assert parse_map("", 2) == (None, None)
    assert parse_map("a=B;", 1) == ((Mapping("a", "B"),),)


def test_escapes_stand_for_themselves() -> None:
    assert parse_map(r"a\,b\;c\=d\?\\=X", 1) == ((Mapping("a,b;c=d?\\", "X"),),)
    assert parse_map(r"a\;=X", 1) == ((Mapping("a;", "X"),),)
    assert parse_map(r"a\?=X,b\\?=Y,c\??=Z", 1) == (
        (Mapping("a?", "X"), Mapping("b\\", "Y", optional=True), Mapping("c?", "Z", optional=True)),
    )


@pytest.mark.parametrize(
    "text",
    [
        "a=B;c=D",  # two groups for one path
        "a",
        "a=",
        "=B",
        "?=B",
        "a=B=C",
        "a=1B",
        "a=B-C",
        "a=É",
        "a=B,c=B",
        "a=B,",
        r"a\x=B",
        "a=PATH",
        "a=LD_PRELOAD",
        "a=https_proxy",
        "a=CLOUDTASER_CA",
    ],
)
def test_a_bad_map_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(EnvMapError) as caught:
        parse_map(text, 1)
    assert "\n" not in str(caught.value)


def test_a_loader_name_needs_permission() -> None:
    assert parse_map("a=LD_PRELOAD", 1, loader_names=True) == ((Mapping("a", "LD_PRELOAD"),),)


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("password", "PASSWORD"),
        ("Db_1", "DB_1"),
        ("db-password", None),
        ("1st", None),
        ("", None),
        ("ß", None),
        ("path", None),
        ("ld_preload", None),
        ("http_proxy", None),
        ("vault_token", None),
        ("nodename", "NODENAME"),
    ],
)
def test_an_unmapped_field_is_upper_cased_or_skipped(field: str, name: str | None) -> None:
    assert exported_name(field) == name


def test_unmapped_fields_that_are_no_variables_give_warnings() -> None:
    sources, warnings = assign(parse_paths("a"), (None,), [["x", "y-z", "path"]])
    assert list(sources) == ["X"]
    assert len(warnings) == 2
    assert "'y-z'" in warnings[0]


def test_two_fields_cannot_become_one_variable() -> None:
    paths = parse_paths("a,b")
    with pytest.raises(EnvMapError, match="X is set twice, by 'x' of a and 'X' of b"):
        assign(paths, (None, None), [["x"], ["X"]])
    with pytest.raises(EnvMapError, match="twice"):
        assign(paths, parse_map("k=X", 2), [["k"], ["x"]])


def test_a_missing_field_is_an_error_unless_optional() -> None:
    paths = parse_paths("a")
    with pytest.raises(EnvMapError, match="a has no field 'k'"):
        assign(paths, parse_map("k=X", 1), [["other"]])
    assert assign(paths, parse_map("k?=X", 1), [["other"]]) == ({}, [])


@given(st.text(alphabet="ab,;=?\\ #/1", max_size=30), st.integers(1, 3))
def test_any_text_is_read_or_refused(text: str, paths: int) -> None:
    try:
        groups = parse_map(text, paths)
    except EnvMapError:
        return
    assert len(groups) == paths
    names = [mapping.name for group in groups if group for mapping in group]
    assert len(names) == len(set(names))
    assert all(is_name(name) and not is_loader_name(name) for name in names)


_names = st.from_regex(r"[A-Z_][A-Z0-9_]{0,10}", fullmatch=True).filter(lambda name: not is_loader_name(name))


@given(
    st.lists(
        st.tuples(st.text(min_size=1, max_size=8), _names, st.booleans()),
        min_size=1,
        max_size=5,
        unique_by=lambda entry: entry[1],
    )
)
def test_what_is_written_with_escapes_is_read_back(entries: list[tuple[str, str, bool]]) -> None:
    entries = [(field.strip() or "x", name, optional) for field, name, optional in entries]
    text = ",".join(
        "".join(f"\\{letter}" if letter in ",;=\\?" else letter for letter in field)
        + ("?" if optional else "")
        + "="
        + name
        for field, name, optional in entries
    )
    assert parse_map(text, 1) == (tuple(Mapping(*entry) for entry in entries),)


@given(st.text(max_size=40))
def test_any_text_as_paths_is_read_or_refused(text: str) -> None:
    try:
        paths = parse_paths(text)
    except EnvMapError:
        return
    assert len(set(paths)) == len(paths)
    assert not any(segment in ("", ".", "..") for path in paths for segment in path.path.split("/"))


def test_a_path_with_parameters_is_written() -> None:
    (path,) = parse_paths("pki/issue/web?common_name=app.shop&alt_names=a%2Cb&ttl=24h")
    assert path.path == "pki/issue/web"
    assert path.parameters == (("common_name", "app.shop"), ("alt_names", "a,b"), ("ttl", "24h"))
    assert str(path) == "pki/issue/web?common_name=app.shop&alt_names=a,b&ttl=24h"
