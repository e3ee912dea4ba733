"""One OpenBao in memory with one secret, for wrappers that ask an agent."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudtaser.demo.openbao import DevServer, start_dev

VALUE = "CANARYvalueCANARYvalue"


def call(server: DevServer, path: str, body: object) -> Any:
    request = urllib.request.Request(
        f"{server.address}/v1/{path}",
        data=json.dumps(body).encode(),
        headers={"X-Vault-Token": server.root_token.reveal_text()},
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.loads(response.read())


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevServer]:
    running = start_dev(Path(tmp_path_factory.mktemp("openbao")))
    call(running, "secret/data/app", {"data": {"value": VALUE}})
    yield running
    running.stop()


@pytest.fixture
def token(server: DevServer) -> str:
    """One that no path holds by chance."""
    return str(call(server, "auth/token/create", {"policies": ["root"]})["auth"]["client_token"])


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the agent of this test listens."""
    return tmp_path / "agent.sock"


@pytest.fixture
def settings(server: DevServer, token: str, place: Path) -> dict[str, str]:
    return {
        "VAULT_ADDR": server.address,
        "VAULT_AUTH_METHOD": "token",
        "VAULT_TOKEN": token,
        "CLOUDTASER_SECRET_PATHS": "secret/data/app",
        "CLOUDTASER_AGENT_SOCKET": str(place),
        "CLOUDTASER_CONTAINER": "app",
    }
