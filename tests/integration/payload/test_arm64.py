"""The payload for arm64, built on this machine and run by an emulator of its processor.

Linux and all programs beside it are this machine's own, so what is shown is that the recipe works, the
interpreter runs, TLS and JSON come out right and an application is started. The emulator has no
memfd_secret, so secrets lie in locked memory here.
"""

from __future__ import annotations

import json
import platform
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from cloudtaser.demo.openbao import OpenBaoServer
from cloudtaser.version import VERSION
from tests.integration.payload.built import ROOT, build
from tests.integration.payload.test_containers import server  # noqa: F401  # a fixture
from tests.unit.wrapper.test_interposer import SECRET, segment
from tests.unit.wrapper.test_interposer import start as start_with_segment

# from nothing it takes as long as the one for this machine, and musl before it
pytestmark = [pytest.mark.arm64, pytest.mark.timeout(1800)]
EMULATOR = "qemu-aarch64-static"
PATIENCE = 120.0
COMPILER = "aarch64-linux-gnu-gcc"
SYSTEM = "/usr/aarch64-linux-gnu"  # where that compiler's C library lies
SHOW = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
extern char **environ;
int main(void) {
    puts(getenv("SECRET"));
    for (char **at = environ; *at; at++)
        if (strncmp(*at, "SECRET=", 7) == 0)
            puts(*at);
    puts(getenv("CLOUDTASER_SEGMENT") ? "left" : "gone");
    return 0;
}
"""


@pytest.fixture(scope="module")
def arm64(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("arm64"), "--architecture", "arm64")


def start(
    payload: Path, *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    emulator = [] if platform.machine() == "aarch64" else [str(shutil.which(EMULATOR))]
    return subprocess.Popen(
        [*emulator, str(payload / "wrapper"), *arguments],
        env={"PATH": "/usr/bin:/bin", **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(payload: Path, *arguments: str, environment: dict[str, str] | None = None) -> tuple[int, bytes, str]:
    """Exit code, standard output, standard error."""
    process = start(payload, *arguments, environment=environment)
    output, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, output, errors.decode()


def test_both_files_are_for_that_processor_and_need_nothing(arm64: Path) -> None:
    def told(file: str, option: str) -> str:
        return subprocess.run(
            ["readelf", option, str(arm64 / file)], capture_output=True, text=True, check=True
        ).stdout

    for file in ("wrapper", "libcloudtaser.so"):
        assert "AArch64" in told(file, "-hW")
        assert "NEEDED" not in told(file, "-dW")
    assert "INTERP" not in told("wrapper", "-lW")
    for place in (b"/tmp/", str(ROOT).encode(), str(Path.home()).encode() + b"/"):
        assert place not in (arm64 / "wrapper").read_bytes()


def test_it_says_its_version(arm64: Path) -> None:
    assert run(arm64, "--version") == (0, f"cloudtaser-wrapper {VERSION}\n".encode(), "")


def test_it_starts_an_application_and_exits_as_that_does(arm64: Path) -> None:
    code, output, errors = run(arm64, "--", "sh", "-c", "echo $1; exit 7", "sh", "a b")
    assert (code, output) == (7, b"a b\n"), errors
    assert run(arm64, "--", "sh", "-c", "kill -TERM $$")[0] == 128 + signal.SIGTERM


def test_it_passes_a_signal_on(arm64: Path) -> None:
    script = "trap 'echo told; exit 5' USR1; echo ready; while :; do sleep 0.1; done"
    process = start(arm64, "--", "sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGUSR1)
    output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output) == (5, b"told\n"), errors.decode()


def test_a_secret_comes_over_tls(arm64: Path, server: OpenBaoServer) -> None:  # noqa: F811  # the fixture
    settings = {
        "VAULT_ADDR": server.address,
        "VAULT_CACERT": str(server.ca_file),
        "VAULT_AUTH_METHOD": "token",
        "VAULT_TOKEN": server.root_token.reveal_text(),
        "CLOUDTASER_SECRET_PATHS": "kv/data/app",
        "CLOUDTASER_ENV_MAP": "password=PASSWORD",
    }
    script = 'printf "%s" "$PASSWORD$VAULT_TOKEN"'
    code, output, errors = run(arm64, "--", "sh", "-c", script, environment=settings)
    assert (code, output) == (0, b'pa"ss\\word\n'), errors
    events = [json.loads(line)["event"] for line in errors.splitlines()]
    assert "secrets loaded" in events


def test_its_interposer_gives_a_program_the_secrets_of_a_segment(arm64: Path, tmp_path: Path) -> None:
    source, program = tmp_path / "show.c", tmp_path / "show"
    source.write_text(SHOW)
    subprocess.run([COMPILER, str(source), "-o", str(program)], check=True)
    emulator = [] if platform.machine() == "aarch64" else [str(shutil.which(EMULATOR)), "-L", SYSTEM]
    done = start_with_segment(
        [*emulator, program], segment(), preload=str(arm64 / "libcloudtaser.so"), secret=False
    )
    secret = SECRET.decode()
    assert done.stdout.splitlines() == [secret, f"SECRET={secret}", "gone"], done.stderr
