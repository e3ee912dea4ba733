"""`cloudtaser-cli source` against a real OpenBao, as a person or a script runs it."""

from __future__ import annotations

import hashlib
import json
import ssl

import pytest
from ruamel.yaml import YAML

from cloudtaser.demo.openbao import DevServer
from tests.integration.openbao.support import Run, new_fingerprint


def test_register_prints_hashes_pin_and_the_helm_line(run: Run) -> None:
    fingerprint = new_fingerprint()
    code, out, err = run("register", "--fingerprint", fingerprint)
    assert (code, err) == (0, "")
    shown = json.loads(run("show", fingerprint, "-o", "json")[1])
    for text in (shown["init_hash"], shown["info_hash"], "operator.bridgePin=spki-sha256:", "helm install"):
        assert text in out
    assert f"clusters/{fingerprint}/registered" in out
    assert shown["state"] == "registered"
    der = ssl.PEM_cert_to_DER_cert(shown["pod_ca_certificate"])
    assert shown["pod_ca"] == hashlib.sha256(der).hexdigest()
    assert shown["pod_ca"] in run("show", fingerprint)[1]


def test_the_same_answer_comes_as_table_json_and_yaml(run: Run) -> None:
    fingerprint = new_fingerprint()
    run("register", "--fingerprint", fingerprint)
    table = run("list")[1]
    as_json = json.loads(run("list", "-o", "json")[1])
    as_yaml = YAML(typ="safe").load(run("list", "-o", "yaml")[1])
    assert as_json == as_yaml
    assert table.startswith("FINGERPRINT")
    assert fingerprint in table
    assert fingerprint in run("list", "--quiet")[1].splitlines()


def test_register_again_says_that_nothing_changed_and_names_rotate(run: Run) -> None:
    fingerprint = new_fingerprint()
    run("register", "--fingerprint", fingerprint)
    code, out, _ = run("register", "--fingerprint", fingerprint)
    assert code == 0
    assert "nothing changed" in out
    assert f"source rotate {fingerprint}" in out
    assert json.loads(run("register", "--fingerprint", fingerprint, "-o", "json")[1])["changed"] is False


def test_a_join_code_is_shown_once_and_kept_nowhere(run: Run) -> None:
    fingerprint = new_fingerprint()
    first = json.loads(run("register", "--fingerprint", fingerprint, "--join-code", "-o", "json")[1])
    assert len(first["join_code"]) == 26
    assert f"operator.joinCode={first['join_code']}" in first["helm"]
    for later in (("show", fingerprint, "--paths"), ("register", "--fingerprint", fingerprint), ("list",)):
        for form in ("table", "json", "yaml"):
            assert first["join_code"] not in run(*later, "-o", form)[1]


def test_a_dry_run_shows_policies_and_leaves_no_trace(run: Run) -> None:
    fingerprint = new_fingerprint()
    code, out, _ = run("register", "--fingerprint", fingerprint, "--dry-run")
    assert code == 0
    assert "Would store:" in out
    assert '"capabilities"' in out
    assert fingerprint not in run("list")[1]


def test_allow_grants_and_deny_go_together(run: Run) -> None:
    fingerprint = new_fingerprint()
    run("register", "--fingerprint", fingerprint)
    grant = (fingerprint, "--namespace", "shop", "--serviceaccount", "web", "--path", "secret/data/common/db")
    assert '"secret/data/common/db"' in run("allow", *grant, "--dry-run")[1]
    assert "shop" not in run("grants", fingerprint)[1]
    assert json.loads(run("allow", *grant, "-o", "json")[1])["changed"] is True
    assert "nothing changed" in run("allow", *grant)[1]
    assert run("grants", fingerprint, "-q")[1] == "shop web secret/data/common/db\n"
    assert run("deny", *grant)[0] == 0
    assert run("grants", fingerprint, "-q")[1] == ""


@pytest.mark.parametrize("more", [[], ["-q"]])
def test_a_bridge_token_stands_alone_on_standard_output(run: Run, more: list[str]) -> None:
    code, out, err = run("bridge-token", "--id", "eu-9", "--cidr", "127.0.0.1/32", *more)
    assert code == 0
    assert bool(err) is not bool(more)
    assert out.strip() not in err
    assert out.startswith("s.")
    assert len(out.split()) == 1


def test_deregister_keeps_the_secrets_unless_told_otherwise(run: Run) -> None:
    fingerprint = new_fingerprint()
    run("register", "--fingerprint", fingerprint)
    code, _, err = run("deregister", "--fingerprint", fingerprint)
    assert code == 0
    assert "secrets are kept" in err
    assert run("show", fingerprint)[0] == 1
    assert run("deregister", "--fingerprint", fingerprint, "--purge")[0] == 0
    code, out, err = run("deregister", "--fingerprint", fingerprint)
    assert (code, out) == (1, "")
    assert "no such cluster is registered" in err


@pytest.mark.parametrize(
    "flag", ["--vault-addr", "--openbao-addr", "--secretstore-address", "--vault-address"]
)
def test_older_spellings_are_accepted(
    run: Run, server: DevServer, monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    monkeypatch.delenv("VAULT_ADDR")
    monkeypatch.delenv("VAULT_TOKEN")
    token = "--token" if flag == "--openbao-addr" else "--secretstore-token"
    assert run("list", flag, server.address, token, "root")[0] == 0


def test_a_wrong_token_exits_4_with_one_line_that_does_not_show_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAULT_TOKEN", "s.canaryCanaryCanaryCanary")
    code, out, err = run("register", "--fingerprint", new_fingerprint())
    assert (code, out) == (4, "")
    assert len(err.splitlines()) == 1
    assert "does not accept the token" in err
    assert "canary" not in err.lower()


def test_a_second_token_is_printed_alone_and_holds_one_policy(run: Run) -> None:
    code, out, note = run("bridge-token", "--id", "eu-9", "--admin")
    assert code == 0
    assert out.count("\n") == 1
    assert "admin token of bridge eu-9" in note
    made = json.loads(run("bridge-token", "--id", "eu-9", "--admin", "-o", "json")[1])
    assert made["policies"] == ["cloudtaser-admin-proxy"]
    assert made["token"] not in out
