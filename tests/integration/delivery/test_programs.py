"""Delivery in memory to real programs: each reads its secret as it always does, and nobody else can."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from tests.integration.delivery.looking import CANARY, application, environ, secret_files, wait_until
from tests.integration.wrapper_vault import Vault
from tests.unit.wrapper.launch import PREFIX, Wrapped

HASH = hashlib.sha256(CANARY.encode()).hexdigest()
# What a program starts: its own view of the secret, and how often the kernel's view of its variables has it.
CHILD = "printf %s $SECRET | sha256sum; grep -c CANARY /proc/$$/environ; :"
SHELL = f"printf %s $SECRET | sha256sum; {CHILD}; sh -c '{CHILD}'; sleep 1000"
PYTHON = f"""
import hashlib, os, subprocess, time
print(hashlib.sha256(os.environb[b"SECRET"]).hexdigest())
subprocess.run({CHILD!r}, shell=True)
subprocess.run(["sh", "-c", {CHILD!r}], close_fds=False)
time.sleep(1000)
"""
NODE = f"""
const crypto = require("crypto"), {{execSync}} = require("child_process");
console.log(crypto.createHash("sha256").update(process.env.SECRET).digest("hex"));
process.stdout.write(execSync({CHILD!r}));
setTimeout(() => 0, 1e9);
"""
RUBY = f"""
require "digest"
$stdout.sync = true
puts Digest::SHA256.hexdigest(ENV["SECRET"])
system({CHILD!r})
puts `{CHILD}`
sleep
"""
PERL = f"""
use Digest::SHA qw(sha256_hex);
$| = 1;
print sha256_hex($ENV{{SECRET}}), "\\n";
system({CHILD!r});
sleep;
"""
JAVA = """
public class Show {
    public static void main(String[] arguments) throws Exception {
        byte[] secret = System.getenv("SECRET").getBytes();
        byte[] hash = java.security.MessageDigest.getInstance("SHA-256").digest(secret);
        System.out.println(java.util.HexFormat.of().formatHex(hash));
        new ProcessBuilder("sh", "-c", arguments[0]).inheritIO().start().waitFor();
        Thread.sleep(1000000);
    }
}
"""


def settings(vault: Vault, delivery: str = "memory", **more: str) -> dict[str, str]:
    vault.put("secret/data/programs", secret=CANARY)
    return vault.settings("secret/data/programs", "secret=SECRET", CLOUDTASER_DELIVERY=delivery, **more)


def hidden_from_everybody(wrapped: Wrapped) -> None:
    """Nothing of the application shows the secret or holds a descriptor to it."""
    for pid in application(wrapped):
        assert CANARY.encode() not in environ(pid)
        assert b"SECRET=\0" in environ(pid) or b"SECRET" not in environ(pid)
    everybody = [wrapped.process.pid, *application(wrapped)]  # one may be at its very start
    wait_until(lambda: not any(map(secret_files, everybody)), "a descriptor stays open")


@pytest.mark.parametrize(
    ("command", "lines"),
    [
        (["/usr/bin/python3", "-u", "-c", PYTHON], 2),
        (["node", "-e", NODE], 1),
        (["bash", "-c", SHELL], 2),
        (["dash", "-c", SHELL], 2),
        (["ruby", "-e", RUBY], 2),
        (["perl", "-e", PERL], 1),
    ],
    ids=["python", "node", "bash", "dash", "ruby", "perl"],
)
def test_a_program_and_what_it_starts_read_their_secret(vault: Vault, command: list[str], lines: int) -> None:
    with Wrapped(*command, settings=settings(vault)) as wrapped:
        assert wrapped.line().split()[0] == HASH
        for _ in range(lines):
            assert wrapped.line().split()[0] == HASH
            assert wrapped.line() == "0"
        hidden_from_everybody(wrapped)


@pytest.mark.slow
def test_java_and_what_it_starts_read_their_secret(vault: Vault, tmp_path: Path) -> None:
    (tmp_path / "Show.java").write_text(JAVA)
    with Wrapped("java", str(tmp_path / "Show.java"), CHILD, settings=settings(vault)) as wrapped:
        assert wrapped.line() == HASH
        assert wrapped.line().split()[0] == HASH
        assert wrapped.line() == "0"
        hidden_from_everybody(wrapped)


GO = """package main

import ("C"; "os"; "time")

func main() { os.Stdout.WriteString(os.Getenv("SECRET") + "\\n"); time.Sleep(time.Hour) }
"""


@pytest.mark.slow
@pytest.mark.timeout(600)  # a compiler that has compiled nothing yet
def test_a_go_program_reads_its_secret_in_memory_if_it_is_dynamic(vault: Vault, tmp_path: Path) -> None:
    (tmp_path / "main.go").write_text(GO)
    go = {"GO111MODULE": "off", "CGO_ENABLED": "1"}
    build = ["go", "build", "-o", "program", "main.go"]
    subprocess.run(build, cwd=tmp_path, env=dict(os.environ) | go, check=True)
    with Wrapped(str(tmp_path / "program"), settings=settings(vault)) as wrapped:
        assert wrapped.line() == CANARY
        hidden_from_everybody(wrapped)


def test_nginx_and_its_workers_read_their_secret(vault: Vault, tmp_path: Path) -> None:
    socket = tmp_path / "socket"
    (tmp_path / "nginx.conf").write_text(f"""
        load_module /usr/lib/nginx/modules/ngx_http_perl_module.so;
        daemon off; master_process on; worker_processes 1; pid {tmp_path}/pid; env SECRET;
        events {{ }}
        http {{
            access_log off;
            perl_set $hash 'sub {{ use Digest::SHA qw(sha256_hex); sha256_hex($ENV{{SECRET}}) }}';
            server {{ listen unix:{socket}; return 200 $hash; }}
        }}
    """)
    command = [
        "nginx",
        "-p",
        str(tmp_path),
        "-e",
        str(tmp_path / "error"),
        "-c",
        str(tmp_path / "nginx.conf"),
    ]
    with Wrapped("sh", "-c", 'echo ready; exec "$@"', "sh", *command, settings=settings(vault)) as wrapped:
        wrapped.line()
        asked = [
            "curl",
            "-s",
            "--retry",
            "30",
            "--retry-all-errors",
            "--unix-socket",
            str(socket),
            "http://a/",
        ]
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=60)
        assert answer.stdout == HASH, (tmp_path / "error").read_text()
        assert len(application(wrapped)) == 2
        hidden_from_everybody(wrapped)


@pytest.mark.parametrize("form", ["glibc", "musl"])
def test_a_c_program_reads_it_wherever_it_looks(vault: Vault, programs: Path, form: str) -> None:
    with Wrapped(str(programs / f"show-{form}"), "wait", settings=settings(vault)) as wrapped:
        assert wrapped.line() == f"{CANARY} {CANARY} {CANARY} {CANARY}"
        assert wrapped.line() == "done"
        hidden_from_everybody(wrapped)


WAYS = [
    "execve", "execv", "execvp", "execvpe", "execl", "execlp", "execle", "fexecve", "vfork", "become",
    "spawn", "spawnp", "spawn-closefrom", "system", "popen",
]  # fmt: skip


@pytest.mark.parametrize("form", ["glibc", "musl"])
def test_whatever_way_a_program_starts_another_the_secret_goes_along_unseen(
    vault: Vault, programs: Path, form: str
) -> None:
    report = "printf '%s ' $SECRET; grep -c CANARY /proc/$$/environ; set -- /proc/$$/fd/*; echo $#"
    ways = [way for way in WAYS if form == "glibc" or way != "spawn-closefrom"]
    script = f'for way in {" ".join(ways)}; do {programs}/children-{form} $way "$0"; done; sleep 1000'
    with Wrapped("sh", "-c", script, report, settings=settings(vault)) as wrapped:
        for way in ways:
            assert (way, wrapped.line()) == (way, f"{CANARY} 0")
            # 0, 1, 2, and the directory that is listed: nothing else is left open
            assert (way, wrapped.line()) == (way, "4")
        hidden_from_everybody(wrapped)


def test_what_a_program_changes_or_takes_out_its_children_find_so(vault: Vault) -> None:
    show = '\'[ -z "${SECRET+x}" ] && echo unset || echo "$SECRET"\''
    script = f"sh -c {show}; SECRET=changed sh -c {show}; unset SECRET; sh -c {show}; env -i sh -c {show}"
    with Wrapped("sh", "-c", script, settings=settings(vault)) as wrapped:
        assert [wrapped.line() for _ in range(4)] == [CANARY, "changed", "unset", "unset"]
        assert wrapped.wait() == 0


@pytest.mark.parametrize(("delivery", "expected"), [("memory", "none"), ("auto", CANARY)])
def test_a_static_program_that_is_started_gets_it_plainly_only_where_that_is_allowed(
    vault: Vault, programs: Path, delivery: str, expected: str
) -> None:
    script = f"{programs}/show-static; :"
    with Wrapped("sh", "-c", script, settings=settings(vault, delivery)) as wrapped:
        assert wrapped.line() == " ".join([expected] * 4)
        assert wrapped.line() == "done"


@pytest.mark.parametrize("delivery", ["memory", "auto"])
def test_a_setuid_program_gets_nothing_and_goes_its_way(
    vault: Vault, programs: Path, tmp_path: Path, delivery: str
) -> None:
    file = tmp_path / "show"
    file.write_bytes((programs / "show-glibc").read_bytes())
    os.chmod(file, 0o4755)
    with Wrapped("sh", "-c", f"{file}; :", settings=settings(vault, delivery)) as wrapped:
        assert wrapped.line() == "none none none none"
        assert wrapped.line() == "done"


def test_auto_falls_back_for_a_static_program_and_says_why(vault: Vault, programs: Path) -> None:
    program = str(programs / "show-static")
    with Wrapped(program, settings=settings(vault, "auto")) as wrapped:
        assert wrapped.line() == " ".join([CANARY] * 4)
        assert wrapped.event("in the environment")["reason"] == f"{program} is statically linked"


def test_auto_follows_the_first_line_of_a_script(vault: Vault, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/bash\necho $SECRET; sleep 1000\n")
    script.chmod(0o755)
    with Wrapped(str(script), settings=settings(vault, "auto")) as wrapped:
        assert wrapped.line() == CANARY
        hidden_from_everybody(wrapped)


def test_memory_refuses_a_program_that_cannot_take_it(vault: Vault, programs: Path) -> None:
    with Wrapped(str(programs / "show-static"), settings=settings(vault)) as wrapped:
        assert "'memory' is impossible" in str(wrapped.event("impossible")["event"])
        assert wrapped.wait() == 78


def test_the_containers_own_preload_stays_and_a_secret_cannot_replace_ours(
    vault: Vault, programs: Path
) -> None:
    theirs = "/lib/x86_64-linux-gnu/libm.so.6"
    with Wrapped(
        "sh", "-c", "echo $SECRET; echo $LD_PRELOAD", settings=settings(vault) | {"LD_PRELOAD": theirs}
    ) as wrapped:
        assert [wrapped.line(), wrapped.line()] == [CANARY, theirs]
    vault.put("secret/data/loader", path="/evil.so")
    for name in ("LD_PRELOAD", "CLOUDTASER_SEGMENT"):
        loader = vault.settings(
            "secret/data/loader",
            f"path={name}",
            CLOUDTASER_DELIVERY="memory",
            CLOUDTASER_ALLOW_LOADER_ENV="true",
        )
        with Wrapped("true", settings=loader) as wrapped:
            assert f"{name} would be set too late" in str(wrapped.event("impossible")["event"])
            assert wrapped.wait() == 78


def test_an_inherited_segment_of_a_stranger_counts_for_nothing(vault: Vault) -> None:
    stranger = settings(vault) | {"CLOUDTASER_SEGMENT": "0:4096"}
    with Wrapped("sh", "-c", "echo $SECRET", settings=stranger) as wrapped:
        assert wrapped.line() == CANARY


def test_where_little_memory_may_be_locked_secrets_still_arrive(vault: Vault) -> None:
    vault.put("secret/data/locked", secret="x" * 100_000)
    config = vault.settings("secret/data/locked", "secret=SECRET", CLOUDTASER_DELIVERY="memory")
    # without the capability that lifts the limit
    prefix = [
        "setpriv",
        "--bounding-set=-ipc_lock",
        "--inh-caps=-ipc_lock",
        "prlimit",
        "--memlock=65536",
        *PREFIX,
    ]
    with Wrapped(
        "sh", "-c", "echo ${#SECRET}; sh -c 'echo ${#SECRET}'; :", settings=config, prefix=prefix
    ) as run:
        assert [run.line(), run.line()] == ["100000", "100000"]
        assert run.event("ordinary memory")
