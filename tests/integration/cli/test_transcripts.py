"""The life of a cluster's registration as `cloudtaser-cli source` tells it, word for word."""

from __future__ import annotations

import shlex
import sys

import pytest

from cloudtaser.cli.app import main
from cloudtaser.demo.openbao import DevServer
from tests import golden_files

CLUSTER = "0ad50c05-1153-4508-9237-4cb2912e2c23"
NEXT = "3f1c8a52-7c7e-4e0b-9d5e-0c6f2b7a1d34"
ROWS = f"""
list
show {CLUSTER}
register --fingerprint {CLUSTER} --dry-run
register --fingerprint {CLUSTER} --broker-address broker.example.com:443
register --fingerprint {CLUSTER}
list
show {CLUSTER} --paths
allow {CLUSTER} -n shop --serviceaccount web --path secret/data/shared/db --dry-run
allow {CLUSTER} -n shop --serviceaccount web --path secret/data/shared/db
allow {CLUSTER} -n shop --serviceaccount web --path secret/data/shared/db
allow {CLUSTER} -n shop --path secret/data/*
grants {CLUSTER}
deny {CLUSTER} -n shop --serviceaccount web --dry-run
deny {CLUSTER} -n shop --serviceaccount web
bridge-token --id eu-1 --cidr 10.1.2.3/32 --cluster {CLUSTER} --dry-run
bridge-token --id eu-1 --cidr 10.1.2.3/32 --cluster {CLUSTER}
allow {CLUSTER} -n shop --serviceaccount web --path secret/data/shared/db
rotate {CLUSTER} --dry-run
rotate {CLUSTER}
rotate {CLUSTER} --ca --dry-run
rotate {CLUSTER} --ca
show {CLUSTER}
rotate {CLUSTER} --ca
suspend {CLUSTER} --dry-run
suspend {CLUSTER}
suspend {CLUSTER}
list
resume {CLUSTER}
resume {CLUSTER}
accept-keys {CLUSTER}
status
reset {CLUSTER} --dry-run
reset {CLUSTER} --join-code
move {CLUSTER} {NEXT} --dry-run
move {CLUSTER} {NEXT}
move {CLUSTER} {NEXT}
list
grants {NEXT}
deregister --fingerprint {NEXT} --dry-run
deregister --fingerprint {NEXT} --purge
deregister --fingerprint {NEXT}
"""
FORMATS = {"table": "", "json": "-o json", "yaml": "-o yaml", "quiet": "-q"}


@pytest.mark.parametrize("form", FORMATS)
def test_the_life_of_a_registration_reads_as_it_was_approved(
    form: str, server: DevServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("BAO_ADDR", "BAO_TOKEN", "VAULT_CACERT", "BAO_CACERT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VAULT_ADDR", server.address)
    monkeypatch.setenv("VAULT_TOKEN", "root")
    monkeypatch.setattr(sys, "argv", ["cloudtaser-cli"])
    told = []
    for line in ROWS.split("\n"):
        if line:
            code = main(shlex.split(f"source {line} {FORMATS[form]}"))
            out, err = capsys.readouterr()
            told.append(f"$ cloudtaser-cli source {line} {FORMATS[form]}".rstrip() + f"\n{out}{err}")
            told[-1] += f"(exit {code})\n" if code else ""
    names = golden_files.Names((CLUSTER, NEXT, CLUSTER[:8], NEXT[:8]))
    golden_files.check(f"source.{form}.txt", names.settle("\n".join(told)))
