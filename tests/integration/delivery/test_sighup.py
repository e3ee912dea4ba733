"""Rotation by SIGHUP: a running program finds new values, and is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.delivery.looking import application, environ, secret_files, wait_until
from tests.integration.wrapper_vault import QUICK, Vault
from tests.unit.wrapper.launch import Wrapped

SAY = "() => console.log(process.env.SECRET)"
A, B, C = "A" * 40, "B" * 64, "C" * 9


def settings(vault: Vault, path: str, delivery: str, **more: str) -> dict[str, str]:
    return vault.settings(
        path, "secret=SECRET", CLOUDTASER_DELIVERY=delivery, CLOUDTASER_ROTATION="sighup", **QUICK, **more
    )


@pytest.mark.parametrize("form", ["glibc", "musl"])
def test_new_values_reach_getenv_and_children_and_early_pointers_stay_whole(
    vault: Vault, programs: Path, form: str
) -> None:
    path = f"secret/data/hup-{form}"
    vault.put(path, secret=A)
    # an entry point that executes the program proper, as images have it
    command = ["sh", "-c", f"exec {programs}/reload-{form}"]
    with Wrapped(*command, settings=settings(vault, path, "memory")) as wrapped:
        assert [wrapped.line() for _ in range(3)] == [f"{A} {A}", f"child {A}", "0"]
        pid = application(wrapped)[0]
        for value in (B, C):
            vault.put(path, secret=value)
            assert [wrapped.line() for _ in range(3)] == [f"{value} {A}", f"child {value}", "0"]
        assert application(wrapped)[0] == pid
        assert not any(value.encode() in environ(pid) for value in (A, B, C))


@pytest.mark.slow
def test_many_rotations_use_the_same_memory_again(vault: Vault, programs: Path) -> None:
    vault.put("secret/data/hup-many", secret="0" * 20)
    with Wrapped(
        str(programs / "reload-glibc"), settings=settings(vault, "secret/data/hup-many", "memory")
    ) as wrapped:
        for turn in range(1, 10):
            wrapped.line(), wrapped.line(), wrapped.line()
            vault.put("secret/data/hup-many", secret=str(turn) * 20)
        assert wrapped.line().split()[0] == "9" * 20


@pytest.mark.parametrize(
    "command",
    [
        ["ruby", "-e", '$stdout.sync = true; trap("HUP") { puts ENV["SECRET"] }; puts ENV["SECRET"]; sleep'],
        ["node", "-e", f'const say = {SAY}; process.on("SIGHUP", say); say(); setTimeout(() => 0, 1e9)'],
    ],
    ids=["ruby", "node"],
)  # fmt: skip
def test_languages_that_ask_each_time_see_them(vault: Vault, command: list[str]) -> None:
    path = f"secret/data/hup-{command[0]}"
    vault.put(path, secret=A)
    with Wrapped(*command, settings=settings(vault, path, "memory")) as wrapped:
        assert wrapped.line() == A
        vault.put(path, secret=B)
        assert wrapped.line() == B


def test_a_program_that_closes_all_descriptors_still_hands_on_what_it_has(vault: Vault) -> None:
    vault.put("secret/data/hup-closed", secret=A)
    # the shell puts another file in the place of the segment's descriptor
    script = "for fd in 3 4 5 6 7 8 9; do eval \"exec $fd</bin/sh\"; done; sh -c 'echo $SECRET; :'"
    with Wrapped(
        "bash", "-c", script, settings=settings(vault, "secret/data/hup-closed", "memory")
    ) as wrapped:
        assert wrapped.line() == A


def test_files_hold_the_new_values_before_the_signal_comes(vault: Vault) -> None:
    vault.put("secret/data/hup-files", secret=A, other="1")
    script = "trap 'cat $SECRET $OTHER; echo' HUP; cat $SECRET $OTHER; echo; while :; do sleep 0.02; done"
    config = settings(vault, "secret/data/hup-files", "file") | {
        "CLOUDTASER_ENV_MAP": "secret=SECRET,other=OTHER"
    }
    with Wrapped("sh", "-c", script, settings=config) as wrapped:
        assert wrapped.line() == f"{A}1"
        pid = application(wrapped)[0]
        for value, other in ((B, "22"), (C, "3")):  # longer, and shorter than before
            vault.put("secret/data/hup-files", secret=value, other=other)
            assert wrapped.line() == f"{value}{other}"
        assert application(wrapped)[0] == pid


def test_what_does_not_fit_is_delivered_by_a_restart(vault: Vault) -> None:
    vault.put("secret/data/hup-large", secret=A)
    script = "trap 'exit 0' TERM; trap 'echo hup' HUP; echo $$ ${#SECRET}; while :; do sleep 0.02; done"
    with Wrapped("sh", "-c", script, settings=settings(vault, "secret/data/hup-large", "memory")) as wrapped:
        first, length = wrapped.line().split()
        assert int(length) == len(A)
        vault.put("secret/data/hup-large", secret="x" * 30_000)
        assert "larger values than fit" in str(wrapped.event("not delivered")["reason"])
        second, length = wrapped.line().split()
        assert int(length) == 30_000
        assert first != second
        wait_until(lambda: len(secret_files(wrapped.process.pid)) == 1, "an earlier segment is kept")


def test_the_descriptor_that_is_kept_closes_when_something_else_is_executed(vault: Vault) -> None:
    vault.put("secret/data/hup-kept", secret=A)
    config = settings(vault, "secret/data/hup-kept", "memory")
    with Wrapped("sh", "-c", "echo started; while :; do sleep 1; done", settings=config) as wrapped:
        wrapped.line()
        for pid in (wrapped.process.pid, application(wrapped)[0]):
            (kept,) = secret_files(pid)
            fields = dict(
                line.split() for line in Path(f"/proc/{pid}/fdinfo/{kept}").read_text().splitlines()
            )
            assert int(fields["flags:"], 8) & os.O_CLOEXEC
