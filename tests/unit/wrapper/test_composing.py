"""Several secrets, a map, templates and references become one set of values."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from cloudtaser.wrapper.client import Answer
from cloudtaser.wrapper.composing import compose
from cloudtaser.wrapper.config import Config, load
from cloudtaser.wrapper.delivery import Values
from cloudtaser.wrapper.errors import ConfigError
from cloudtaser.wrapper.http1 import Response
from cloudtaser.wrapper.secrets import Secret

APP = {"password": "p@ss", "user": "app"}
DB = {"password": "other", "host": "db"}


def config_of(**settings: str) -> Config:
    base = {"VAULT_ADDR": "https://vault.example", "CLOUDTASER_SECRET_PATHS": "kv1/app,kv1/db"}
    merged = base | settings
    return load({name.encode(): value.encode() for name, value in merged.items()})


def composed(config: Config, **more: Mapping[str, object]) -> tuple[dict[str, bytes], Values, list[str]]:
    contents: dict[str, object] = {"kv1/app": APP, "kv1/db": DB, **{f"kv1/{k}": v for k, v in more.items()}}
    secrets = []
    for path in config.paths:
        response = Response()
        response.status = 200
        response.body.append(json.dumps({"data": contents[path.path]}).encode())
        secret = Secret(path)
        assert secret.take(Answer(response), 0) == ""
        secrets.append(secret)
    values, warnings = compose(config, secrets)
    return {name: bytes(span.view()) for name, span in values.spans.items()}, values, warnings


def complaint(config: Config, **more: Mapping[str, object]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        composed(config, **more)
    return caught.value


ONLY_A = {"CLOUDTASER_ENV_MAP": "user=A;host=H"}


def test_a_template_takes_fields_of_several_paths() -> None:
    config = config_of(**ONLY_A, CLOUDTASER_TEMPLATE_URL="pg://{{user}}:{{1.password|urlencode}}@{{host}}/x")
    assert composed(config)[0] == {"A": b"app", "H": b"db", "URL": b"pg://app:p%40ss@db/x"}


def test_a_template_names_a_path_that_is_not_listed_and_exports_nothing_of_it() -> None:
    config = config_of(**ONLY_A, CLOUDTASER_TEMPLATE_K="{{kv1/more#key}}-{{kv1/db#host}}")
    assert [path.path for path in config.paths] == ["kv1/app", "kv1/db", "kv1/more"]
    assert composed(config, more={"key": "k", "rest": "r"})[0] == {"A": b"app", "H": b"db", "K": b"k-db"}


def test_a_bare_name_that_two_paths_have_is_an_error_that_says_how_to_qualify() -> None:
    error = complaint(config_of(**ONLY_A, CLOUDTASER_TEMPLATE_P="{{password}}"))
    assert error.on == "CLOUDTASER_TEMPLATE_P"
    assert "kv1/app and kv1/db have a field 'password'" in error.what
    assert error.fix == "write {{1.password}} or {{2.password}}"


def test_a_missing_field_is_an_error_that_says_what_there_is() -> None:
    error = complaint(config_of(**ONLY_A, CLOUDTASER_TEMPLATE_P="{{2.pasword}}"))
    assert (error.on, error.what) == ("CLOUDTASER_TEMPLATE_P", "no field 'pasword' in kv1/db")
    assert error.fix == "there is host, password"
    assert "other" not in error.diagnostic()


def test_an_optional_field_may_be_missing() -> None:
    config = config_of(**ONLY_A, CLOUDTASER_TEMPLATE_P="{{user}}{{port?}}{{2.note?|json}}")
    assert composed(config)[0]["P"] == b"app"


def test_a_field_of_that_name_that_is_exported_whole_is_an_error() -> None:
    assert complaint(config_of(CLOUDTASER_ENV_MAP="user=A", CLOUDTASER_TEMPLATE_HOST="{{user}}")).on == (
        "CLOUDTASER_TEMPLATE_HOST"
    )


def test_a_reference_replaces_the_variable_that_holds_it() -> None:
    config = config_of(CLOUDTASER_SECRET_PATHS="", PW="vault:kv1/db#password", U="x-${vault:kv1/app#user}")
    found, values, _ = composed(config)
    assert found == {"PW": b"other", "U": b"x-app"}
    environment = values.environment(
        {b"PW": b"vault:kv1/db#password", b"U": b"x-${vault:kv1/app#user}", b"Z": b"z"}, override=False
    )
    assert (set(environment.secrets), environment.inherited) == ({b"PW", b"U"}, {b"Z": b"z"})


@pytest.mark.parametrize(("override", "expected"), [("true", b"app"), ("false", b"other")])
def test_of_map_and_reference_the_map_wins_unless_the_containers_own_value_does(
    override: str, expected: bytes
) -> None:
    config = config_of(**ONLY_A, A="vault:kv1/db#password", CLOUDTASER_OVERRIDE=override)
    _, values, _ = composed(config)
    environment = values.environment({b"A": b"vault:kv1/db#password"}, override=config.override)
    assert bytes(environment.secrets[b"A"].view()) == expected


@pytest.mark.parametrize(("override", "expected"), [("true", b"app"), ("false", b"other")])
def test_a_whole_export_counts_as_the_map_does(override: str, expected: bytes) -> None:
    config = config_of(
        CLOUDTASER_SECRET_PATHS="kv1/app", USER="vault:kv1/db#password", CLOUDTASER_OVERRIDE=override
    )
    assert composed(config)[0]["USER"] == expected


def test_a_reference_to_a_field_that_is_missing_names_the_variable() -> None:
    error = complaint(config_of(CLOUDTASER_SECRET_PATHS="", DB_PASSWORD="vault:kv1/db#passwd"))
    assert error.diagnostic() == "no field 'passwd' in kv1/db (DB_PASSWORD); there is host, password"


def test_files_are_chosen_by_the_map_or_all_at_once() -> None:
    _, values, _ = composed(config_of(CLOUDTASER_ENV_MAP="user=A,password=@P;host=H"))
    assert values.files == {"P"}
    _, values, _ = composed(config_of(**ONLY_A, CLOUDTASER_DELIVERY="file", CLOUDTASER_TEMPLATE_T="{{user}}"))
    assert values.files == {"A", "H", "T"}


def test_what_no_variable_can_carry_is_delivered_as_a_file() -> None:
    big = {"bin": "a\0b", "long": "x" * 200_000}
    config = config_of(CLOUDTASER_SECRET_PATHS="kv1/big", CLOUDTASER_ENV_MAP="bin=@B,long=@L")
    found, _, _ = composed(config, big=big)
    assert (found["B"], len(found["L"])) == (b"a\0b", 200_000)
    error = complaint(
        config_of(
            CLOUDTASER_SECRET_PATHS="kv1/big", CLOUDTASER_TEMPLATE_T="{{long}}", CLOUDTASER_ENV_MAP="x?=X"
        ),
        big=big,
    )
    assert error.on == "CLOUDTASER_TEMPLATE_T"


def test_a_path_that_only_a_reference_names_is_told_by_that_variable() -> None:
    config = config_of(CLOUDTASER_SECRET_PATHS="kv1/app", PW="vault:kv1/db#password")
    assert [path.origin for path in config.paths] == ["CLOUDTASER_SECRET_PATHS", "PW"]


def test_without_an_address_references_are_left_alone() -> None:
    config = load({b"PW": b"vault:kv1/db#password"})
    assert config.endpoint is None
    assert config.references == ()


def test_all_paths_together_are_bounded() -> None:
    with pytest.raises(ConfigError, match="more than 100 paths"):
        config_of(
            CLOUDTASER_SECRET_PATHS=",".join(f"kv1/a{number}" for number in range(100)), PW="vault:kv1/z#a"
        )
