"""The program as a process: what it says, what it listens on, and how it ends. OpenBao is the real one."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudtaser.bridge.status import ask
from cloudtaser.demo.openbao import LocalServer, start_dev
from cloudtaser.demo.ports import free_port
from cloudtaser.errors import UnavailableError
from cloudtaser.openbao.bridge_token import make_bridge_token
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.layout import Layout
from cloudtaser.openbao.records import Records
from cloudtaser.openbao.registration import register

PROGRAM = [sys.executable, "-c", "import sys; from cloudtaser.bridge.app import main; sys.exit(main())"]
FINGERPRINT = "0ad50c05-1153-4508-9237-4cb2912e2c23"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    running = start_dev(tmp_path_factory.mktemp("openbao"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def token(server: LocalServer) -> str:
    async def made() -> str:
        async with OpenBao(server.address, token=server.root_token) as admin:
            await register(admin, FINGERPRINT)
            return (await make_bridge_token(admin, "b1")).token.reveal_text()

    return asyncio.run(made())


class Process:
    """A bridge with a beacon address at which nobody listens."""

    def __init__(self, directory: Path, *flags: str, **environment: str) -> None:
        self.socket = str(directory / "bridge.sock")
        self.output = directory / "output"
        flags = ("--status-socket", self.socket, "--id", "b1", "--poll-interval", "100ms", *flags)
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*PROGRAM, *flags], env=os.environ | environment, stdout=output, stderr=output
            )

    def status(self, *, clusters: int) -> dict[str, object]:
        """Its status, once it is ready and knows that many clusters."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                status = ask(self.socket)
            except UnavailableError:
                status = {}
            if status.get("ready") and len(status["clusters"]) == clusters:
                return status
            time.sleep(0.02)
        raise AssertionError(self.output.read_text())

    def listening(self) -> list[str]:
        """TCP ports on which the process listens, as /proc tells."""
        inodes = set()
        for link in Path(f"/proc/{self.process.pid}/fd").iterdir():
            target = os.readlink(link)
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
        lines: list[str] = []
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/{self.process.pid}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and fields[9] in inodes:
                    lines.append(fields[1])
        return lines

    def end(self) -> int:
        """SIGTERM, and its exit status."""
        self.process.terminate()
        return self.process.wait(20)


def flags(server: LocalServer) -> list[str]:
    return ["--vault-addr", server.address, "--beacon-address", f"127.0.0.1:{free_port()}"]


def test_it_serves_opens_no_port_tells_no_secret_and_ends_in_order(
    server: LocalServer, token: str, tmp_path: Path
) -> None:
    bridge = Process(tmp_path, *flags(server), VAULT_TOKEN=token)
    try:
        status = bridge.status(clusters=1)
        assert status["id"] == "b1"
        assert bridge.listening() == []
    finally:
        code = bridge.end()
    assert code == 0
    output = bridge.output.read_text()
    assert "Traceback" not in output
    assert token not in output
    assert token not in str(status)
    assert not Path(bridge.socket).exists()


def test_metrics_are_there_when_asked_for_on_loopback_only(
    server: LocalServer, token: str, tmp_path: Path
) -> None:
    port = free_port()
    bridge = Process(tmp_path, *flags(server), "--metrics-addr", f"127.0.0.1:{port}", VAULT_TOKEN=token)
    try:
        bridge.status(clusters=1)
        assert bridge.listening() == [f"0100007F:{port:04X}"]
        metrics = subprocess.run(
            [
                sys.executable,
                "-c",
                f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{port}/metrics').read().decode())",
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    finally:
        bridge.end()
    assert "cloudtaser_bridge_ready 1.0" in metrics
    assert 'cloudtaser_bridge_parked{cluster="0ad50c05",room="init"} 0.0' in metrics


def test_a_sign_of_life_is_written_under_its_own_name(
    server: LocalServer, token: str, tmp_path: Path
) -> None:
    bridge = Process(tmp_path, *flags(server), VAULT_TOKEN=token)

    async def seen() -> list[str]:
        async with OpenBao(server.address, token=server.root_token) as admin:
            return [record.id for record in await Records(admin, Layout()).bridges()]

    try:
        bridge.status(clusters=1)
        deadline = time.monotonic() + 10
        while not (found := asyncio.run(seen())) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert found == ["b1"]
    finally:
        bridge.end()


def test_a_refused_token_is_one_line_until_the_file_holds_a_good_one(
    server: LocalServer, token: str, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("s.expired")
    bridge = Process(tmp_path, *flags(server), "--vault-token-file", str(file))
    try:
        deadline = time.monotonic() + 20
        while "waiting for OpenBao" not in bridge.output.read_text() and time.monotonic() < deadline:
            time.sleep(0.02)
        file.write_text(token)
        bridge.status(clusters=1)
    finally:
        bridge.end()
    output = bridge.output.read_text()
    assert output.count("waiting for OpenBao") == 1
    assert "s.expired" not in output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--vault-addr", "http://10.0.0.1:8200", "--beacon-address", "b:1"], "--vault-addr"),
        (["--vault-addr", "https://b:8200", "--beacon-address", "b:1", "--drain", "x"], "--drain"),
        (["status", "--status-socket", "/nonexistent/bridge.sock"], "/nonexistent/bridge.sock"),
        (["--vault-addr", "https://b:8200", "--broker-address", "b"], "--broker-address"),
    ],
)
def test_what_cannot_be_is_one_line_and_an_exit_status(arguments: list[str], says: str) -> None:
    result = subprocess.run(
        [*PROGRAM, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"VAULT_TOKEN": "t"},
        check=False,
    )
    assert result.returncode in (1, 2)
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
