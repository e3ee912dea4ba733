"""The command line as a person meets it: one line for every failure, help with an example, a quick start."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cloudtaser.cli.app import main
from cloudtaser.version import VERSION

FINGERPRINT = "0ad50c05-1153-4508-9237-4cb2912e2c23"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VAULT_ADDR", "BAO_ADDR", "VAULT_TOKEN", "BAO_TOKEN", "VAULT_CACERT", "BAO_CACERT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", ["cloudtaser-cli"])


@pytest.mark.parametrize("command", [[], ["source"]])
def test_a_group_alone_shows_its_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 0
    assert "Commands:" in capsys.readouterr().out


def test_the_version_comes_in_every_form(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out == f"cloudtaser-cli {VERSION}\n"
    assert main(["version", "-q"]) == 0
    assert capsys.readouterr().out == f"{VERSION}\n"
    assert main(["version", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"version": VERSION}


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("sauce", 2, "No such command"),
        ("source registre", 2, "No such command"),
        ("source list --bogus", 2, "No such option"),
        ("source list -o xml", 2, "xml"),
        ("source list", 2, "no token for OpenBao"),
        ("source list --vault-token-file /nonexistent", 2, "cannot be read"),
        ("source list --token t --vault-address 'not an address'", 2, "not an address"),
        ("source list --token t --vault-address http://192.0.2.1", 2, "in clear"),
        ("source list --token t --vault-address http://127.0.0.1:1", 1, "cannot be reached"),
        ("source list --token t --vault-ca-cert /nonexistent", 2, "--vault-ca-cert"),
        ("source register --token t", 2, "no fingerprint"),
        ("source register --token t --fingerprint 'garbage\nx'", 2, "not a cluster fingerprint"),
        ("source register --token t --fingerprint {UPPER}", 2, "not a cluster fingerprint"),
        ("source register {F} --token t --fingerprint {UPPER}", 2, "two fingerprints"),
        ("source register {F} --token t --space a/b", 2, "not a name for a space"),
        ("source register {F} --token t --broker-address nowhere", 2, "not an address like host:port"),
        ("source register {F} --token t --beacon-address '$(x):1'", 2, "--beacon-address"),
        ("source allow {F} --token t -n shop", 2, "no path"),
        ("source allow {F} --token t --path secret/data/x", 2, "no Kubernetes namespace"),
        ("source allow {F} --token t -n shop --path 'secret/data/*'", 2, "wildcard"),
        ("source allow {F} --token t -n a_b --path secret/data/x", 2, "namespace"),
        ("source bridge-token --token t --id a_b", 2, "not a name for a bridge"),
        ("source bridge-token --token t --cidr here", 2, "not a network"),
    ],
)
def test_every_failure_is_one_line_and_an_exit_code(
    line: str, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = shlex.split(line.format(F=FINGERPRINT, UPPER=FINGERPRINT.upper()))
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("cloudtaser-cli: ")
    assert len(err.splitlines()) == 1
    assert said in err


def test_a_token_in_the_wrong_place_is_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    for token in ("s.canarycanarycanarycanary", "hvs.CAESIcanarycanarycanary"):
        assert main(["source", "list", token]) == 2
        assert main(["source", "register", "--fingerprint", token, "--token", token]) == 2
        assert main(["source", "list", f"--tokn={token}"]) == 2
        out, err = capsys.readouterr()
        assert "canary" not in out + err


def test_an_internal_error_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(**_: object) -> None:
        raise ZeroDivisionError("canary")

    monkeypatch.setattr("cloudtaser.cli.app.app", broken)
    assert main(["version"]) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "internal error: ZeroDivisionError" in err
    assert "canary" not in err


@pytest.mark.parametrize("line", ["version", "source register --help", "completion bash"])
def test_an_output_that_takes_nothing_is_one_line(line: str) -> None:
    script = "import sys; from cloudtaser.start import cli; sys.exit(cli())"
    command = [sys.executable, "-c", script, *line.split()]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.endswith(": no space left on device (standard output)\n")
    assert len(done.stderr.splitlines()) == 1


def test_help_loads_neither_the_client_nor_cryptography() -> None:
    script = (
        "import sys; from cloudtaser.cli.app import main; main(['source', 'register', '--help']); "
        "heavy = {'aiohttp', 'cryptography', 'msgspec', 'ruamel.yaml', 'structlog'} & set(sys.modules); "
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_goes_away_is_no_error() -> None:
    executable = Path(sys.executable).with_name("cloudtaser-cli")
    done = subprocess.run(
        f"{executable} source register --help | head -n 1",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.startswith("Usage:")
