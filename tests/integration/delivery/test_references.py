"""Templates and Bank-Vaults' references against a real OpenBao: values, errors, rotation."""

from __future__ import annotations

import json
import sys

import pytest

from tests.integration.delivery.looking import CANARY, application, environ
from tests.integration.wrapper_vault import QUICK, Vault
from tests.unit.wrapper.launch import Wrapped, run

SHOW = "import os, json; print(json.dumps(dict(os.environ)))"


def found(settings: dict[str, str]) -> dict[str, str]:
    """What the application finds."""
    done = run("--", sys.executable, "-I", "-c", SHOW, settings=settings, check_code=0)
    environment: dict[str, str] = json.loads(done.stdout)
    return environment


def refusal(settings: dict[str, str]) -> str:
    done = run("--", "echo", "started", settings=settings, check_code=78)
    assert done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if '"level":"error"' in line]
    return str(json.loads(line)["event"])


def test_a_connection_string_is_made_of_fields_of_two_paths(vault: Vault) -> None:
    vault.put("secret/data/user", username="app user", password="p@ss/w:rd%é")
    vault.put("secret/data/server", host="db.example", port=5432)
    settings = vault.settings(
        "secret/data/user,secret/data/server",
        "username=U;host=H",
        CLOUDTASER_TEMPLATE_DATABASE_URL="postgres://{{username|urlencode}}:{{password|urlencode}}@{{host}}:{{port}}",
        CLOUDTASER_TEMPLATE_JSON='{"password": "{{1.password|json}}", "note": "{{note?}}"}',
    )
    environment = found(settings)
    assert environment["DATABASE_URL"] == "postgres://app%20user:p%40ss%2Fw%3Ard%25%C3%A9@db.example:5432"
    assert json.loads(environment["JSON"]) == {"password": "p@ss/w:rd%é", "note": ""}
    assert not [name for name in environment if name.startswith("CLOUDTASER_")]


def test_references_need_nothing_but_an_address(vault: Vault) -> None:
    vault.put("secret/data/bank", password="one")
    vault.put("secret/data/bank", password="two", user="app")
    vault.api("POST", "kv1/bank", {"key": "classic"})
    environment = found(
        vault.settings("")
        | {
            "PASSWORD": "vault:secret/data/bank#password",
            "OLD": "vault:secret/data/bank#password#1",
            "SLASHED": "vault:/v1/secret/data/bank#user",
            "URL": "mysql://${vault:secret/data/bank#user}:${vault:secret/data/bank#password}@db/${NOT}",
            "CLASSIC": "vault:kv1/bank#key",
            "HOST": "vault:8200",
            "MADE": ">>vault:pki/issue/web#certificate",
        }
    )
    assert (environment["PASSWORD"], environment["OLD"], environment["SLASHED"]) == ("two", "one", "app")
    assert environment["URL"] == "mysql://app:two@db/${NOT}"
    assert environment["CLASSIC"] == "classic"
    assert (environment["HOST"], environment["MADE"]) == ("vault:8200", ">>vault:pki/issue/web#certificate")
    assert "USER" not in environment


def test_what_is_passed_on_as_it_is_is_told(vault: Vault) -> None:
    done = run("true", settings={"A": "vault:secret/data/x#y", "B": ">>vault:a#b", "C": "vault:8200"})
    assert "A holds a vault: reference, but VAULT_ADDR is not set" in done.stderr
    assert "B holds a >>vault: reference, which would write" in done.stderr
    assert '"C' not in done.stderr


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("vault:secret/data/bank#gone", "no field 'gone' in secret/data/bank (PW); there is password"),
        ("vault:secret/data/none#a", "cannot read secret/data/none"),
        ("vault:secret/data/bank#", "names no field: write vault:PATH#FIELD (PW)"),
        ("${vault:secret/data/bank#a#b}", "is no number from 1 (PW)"),
    ],
)
def test_a_wrong_reference_names_its_variable(vault: Vault, value: str, complaint: str) -> None:
    vault.put("secret/data/bank", password="hunter2")
    said = refusal(vault.settings("") | {"PW": value})
    assert complaint in said
    assert "(PW)" in said
    assert "hunter2" not in said


def test_an_ambiguous_field_is_told_with_the_ways_to_write_it(vault: Vault) -> None:
    vault.put("secret/data/one", password="hunter2")
    vault.put("secret/data/two", password="hunter3")
    said = refusal(
        vault.settings(
            "secret/data/one,secret/data/two", "password=A;password=B", CLOUDTASER_TEMPLATE_P="{{password}}"
        )
    )
    assert said == (
        "secret/data/one and secret/data/two have a field 'password' (CLOUDTASER_TEMPLATE_P);"
        " write {{1.password}} or {{2.password}}"
    )


@pytest.mark.parametrize("delivery", ["env", "memory"])
def test_references_and_templates_rotate_as_the_map_does(vault: Vault, delivery: str) -> None:
    path = f"secret/data/turning-{delivery}"
    vault.put(path, password=f"{CANARY}-1")
    settings = vault.settings(
        "", CLOUDTASER_TEMPLATE_T=f"t-{{{{{path}#password}}}}", CLOUDTASER_DELIVERY=delivery
    )
    settings |= QUICK | {"PW": f"vault:{path}#password"}
    script = "trap 'exit 0' TERM; echo $PW $T; while :; do sleep 0.02; done"
    with Wrapped("sh", "-c", script, settings=settings) as wrapped:
        for turn in (1, 2):
            assert wrapped.line() == f"{CANARY}-{turn} t-{CANARY}-{turn}"
            shown = any(CANARY.encode() in environ(pid) for pid in application(wrapped)[:1])
            assert shown == (delivery == "env")
            vault.put(path, password=f"{CANARY}-{turn + 1}")
        assert wrapped.line() == f"{CANARY}-3 t-{CANARY}-3"
