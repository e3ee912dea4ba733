"""Delivery as files that are none: descriptors of memory, by a path in the variable."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tests.integration.delivery.looking import CANARY, application, environ, open_files, secret_files
from tests.integration.wrapper_vault import QUICK, Vault
from tests.unit.wrapper.launch import PREFIX, PREFIX_WITHOUT_EXTENSION, Wrapped

READ_TWICE = """
import os, sys
path = os.environ["SECRET"]
with open(path) as one, open(path) as other:
    one.seek(7)
    print(path, one.read(), other.read(), os.path.getsize(path))
try:
    os.truncate(path, 1)
    print("written")
except OSError as error:
    print("refused")
os.execv("/bin/sh", ["sh", "-c", "cat $SECRET; echo; sleep 1000"])
"""


@pytest.mark.parametrize("prefix", [None, PREFIX_WITHOUT_EXTENSION], ids=["extension", "none"])
@pytest.mark.parametrize(
    ("delivery", "name"), [("file", "SECRET"), ("env", "@SECRET"), ("memory", "@SECRET")]
)
def test_a_program_reads_it_as_a_file_again_and_again_and_after_an_exec(
    vault: Vault, delivery: str, name: str, prefix: list[str] | None
) -> None:
    if prefix and delivery == "memory":
        delivery = "auto"
    vault.put("secret/data/files", secret=CANARY)
    settings = vault.settings("secret/data/files", f"secret={name}", CLOUDTASER_DELIVERY=delivery)
    with Wrapped("/usr/bin/python3", "-u", "-c", READ_TWICE, settings=settings, prefix=prefix) as wrapped:
        path, tail, whole, size = wrapped.line().split()
        assert (tail, whole, int(size)) == (CANARY[7:], CANARY, len(CANARY))
        assert wrapped.line() == ("written" if prefix else "refused")
        assert wrapped.line() == (CANARY[:1] if prefix else CANARY)
        assert path.startswith("/proc/self/fd/1")
        for pid in application(wrapped):
            assert CANARY.encode() not in environ(pid)
        program = application(wrapped)[0]
        assert "memfd:cloudtaser" in open_files(program)[int(path.rpartition("/")[2])]
        assert not stat.S_ISLNK(Path(f"/proc/{program}/fd/{path.rpartition('/')[2]}").stat().st_mode)
        assert secret_files(wrapped.process.pid) == []


def test_a_file_carries_what_no_variable_can(vault: Vault) -> None:
    vault.put("secret/data/large", key="x" * 300_000, nul="a\0b")
    settings = vault.settings("secret/data/large", "key=@KEY,nul=@NUL")
    with Wrapped("sh", "-c", "wc -c < $KEY; od -An -tx1 $NUL; wc -l < $NUL", settings=settings) as wrapped:
        assert [wrapped.line().strip() for _ in range(3)] == ["300000", "61 00 62", "0"]


def test_templates_and_references_are_files_too(vault: Vault) -> None:
    vault.put("secret/data/files", secret=CANARY, user="app")
    settings = vault.settings(
        "secret/data/files",
        "user=USER_FILE",
        CLOUDTASER_DELIVERY="file",
        CLOUDTASER_TEMPLATE_URL_FILE="pg://{{user}}:{{secret}}@db",
    ) | {"SECRET": "vault:secret/data/files#secret"}
    with Wrapped("sh", "-c", "cat $USER_FILE $URL_FILE $SECRET; echo", settings=settings) as wrapped:
        assert wrapped.line() == f"apppg://app:{CANARY}@db{CANARY}"


def test_more_files_than_descriptors_is_one_clear_line(vault: Vault) -> None:
    vault.put("secret/data/crowd", **{f"field{number}": "x" for number in range(60)})
    settings = vault.settings("secret/data/crowd", CLOUDTASER_DELIVERY="file")
    with Wrapped("true", settings=settings) as wrapped:
        assert "(CLOUDTASER_ENV_MAP)" in str(wrapped.event("60 values as files, of at most 48")["event"])
        assert wrapped.wait() == 78


@pytest.mark.parametrize("override", ["true", "false"])
def test_more_files_than_descriptors_later_cost_the_application_nothing_but_a_restart(
    vault: Vault, override: str
) -> None:
    vault.put("secret/data/growing", field="x")
    settings = QUICK | vault.settings(
        "secret/data/growing", CLOUDTASER_DELIVERY="file", CLOUDTASER_OVERRIDE=override
    )
    with Wrapped("sh", "-c", "cat $FIELD; echo; exec sleep 1000", settings=settings) as wrapped:
        assert wrapped.line() == "x"
        vault.put("secret/data/growing", **{f"field{number}": "y" for number in range(60)})
        if override == "true":
            assert wrapped.event("the application keeps the values it has")
        else:
            assert wrapped.event("the new values cannot be delivered: back to the values before")
            assert wrapped.line() == "x"
        assert wrapped.process.poll() is None


def test_a_limit_of_descriptors_that_is_too_low_is_one_clear_line(vault: Vault) -> None:
    vault.put("secret/data/limited", field="x")
    settings = vault.settings("secret/data/limited", CLOUDTASER_DELIVERY="file")
    limited = ["sh", "-c", 'ulimit -n 64; exec "$@"', "sh", *PREFIX]
    with Wrapped("true", settings=settings, prefix=limited) as wrapped:
        assert wrapped.event("no value as a file: descriptor 100 is not allowed; raise RLIMIT_NOFILE")
        assert wrapped.wait() == 69
