"""A throw-away PostgreSQL, by default on loopback, for the demo and for tests of dynamic credentials.

Needs the distribution's PostgreSQL server (`make demo` and `make test` install it). It refuses to run as
root, so it is started as user `postgres` (or `nobody`) then.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from cloudtaser.demo.ports import free_port
from cloudtaser.demo.process import end, spawn
from cloudtaser.errors import UnavailableError
from cloudtaser.secret import Secret

_START_TIMEOUT = 30.0
_POLL = 0.05
_ADMIN = "postgres"
_LOOPBACK = "127.0.0.1"
# a demo loses nothing by a power cut: no fsync makes start and stop quick
_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "50",
    "password_encryption": "scram-sha-256",
    "logging_collector": "off",
}


class PostgresServer:
    """One server with database `app` and a superuser whose password only this object knows."""

    def __init__(self, directory: Path, address: str = _LOOPBACK) -> None:
        """`address`: where it listens; on another than loopback it lets that address's network in, too."""
        self.directory = directory
        self.address = address
        self.log_file = directory / "log"
        self.port = 0
        self.user = _ADMIN
        self.password = Secret(secrets.token_hex(16))
        self._binaries = _binaries()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Make the cluster on first use and start the server; returns when it accepts connections."""
        account = _account()
        data = self.directory / "data"
        if not data.exists():
            self._initialise(data, account)
        self.port = self.port or free_port()
        settings = _SETTINGS | {"port": str(self.port), "unix_socket_directories": str(self.directory)}
        settings["listen_addresses"] = self.address
        arguments = [str(self._binaries / "postgres"), "-D", str(data)]
        for name, value in settings.items():
            arguments += ["-c", f"{name}={value}"]
        self._process = spawn(arguments, self.log_file, **account)
        self._wait()

    def stop(self) -> None:
        """Fast shutdown; no effect when it is not running."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Immediate shutdown, which recovers at the next start. (SIGKILL would leave its children.)"""
        self._end(signal.SIGQUIT)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            end(process, how)

    def run(self, sql: str, *, database: str = "app") -> str:
        """Run `sql` as the superuser and return what psql prints, unaligned and without headings."""
        environment = os.environ | {"PGPASSWORD": self.password.reveal_text()}
        where = ["-h", self.address, "-p", str(self.port), "-U", self.user, "-d", database]
        finished = subprocess.run(
            [_tool("psql", self._binaries), "-XqAt", "-v", "ON_ERROR_STOP=1", *where, "-c", sql],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=_START_TIMEOUT,
        )
        if finished.returncode:
            raise UnavailableError("PostgreSQL refused a statement", on=finished.stderr.strip())
        return finished.stdout.strip()

    def _initialise(self, data: Path, account: dict[str, Any]) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        password_file = self.directory / "password"
        password_file.touch(mode=0o600)
        password_file.write_bytes(self.password.reveal())
        if account:
            for path in (self.directory, password_file):
                os.chown(path, account["user"], account["group"])
        try:
            initdb = [str(self._binaries / "initdb"), "-D", str(data), "-U", self.user, "--no-sync"]
            options = ["-A", "scram-sha-256", f"--pwfile={password_file}", "-E", "UTF8", "--no-instructions"]
            finished = subprocess.run(
                [*initdb, *options, "--locale=C.UTF-8"],
                capture_output=True,
                text=True,
                check=False,
                cwd=self.directory,
                start_new_session=True,
                **account,
            )
        finally:
            password_file.unlink()
        if finished.returncode:
            fix = "as root, TMPDIR must be a directory that other accounts may enter" if account else ""
            raise UnavailableError("initdb failed", on=finished.stderr.strip(), fix=fix)
        if self.address != _LOOPBACK:
            with (data / "pg_hba.conf").open("a") as rules:
                rules.write("host all all samenet scram-sha-256\n")

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                break
            try:
                if self.run("select 1 from pg_database where datname='app'", database="postgres") != "1":
                    self.run("create database app", database="postgres")
            except UnavailableError:
                time.sleep(_POLL)
                continue
            return
        raise UnavailableError("PostgreSQL did not start", on=str(self.log_file), fix="see its last lines")


def _binaries() -> Path:
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name)
    for directory in reversed(candidates):
        if (directory / "postgres").exists():
            return directory
    found = shutil.which("postgres")
    if found:
        return Path(found).resolve().parent
    raise UnavailableError("no PostgreSQL server on this machine", fix="run `tools/prepare demo`")


def _tool(name: str, binaries: Path) -> str:
    return shutil.which(name) or str(binaries / name)


def _account() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise UnavailableError(
        "PostgreSQL does not run as root and there is no other account", on="postgres, nobody"
    )
