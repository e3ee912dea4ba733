"""No secret in any log, any argument list, any metric: looked for after all other tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudtaser.demo import setup
from cloudtaser.demo.chain import Chain
from cloudtaser.demo.exposition import fetch
from cloudtaser.demo.search import occurrences
from cloudtaser.openbao.client import OpenBao
from tests.chain_tools import delivered, pod_client

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_no_part_shows_a_secret_anywhere(chain: Chain, admin: OpenBao) -> None:
    canary = "canary-0d9f7c2e41b8"
    await setup.write_secret(admin, "shop/canary", {"value": canary})
    assert (await delivered(chain, "secret/data/shop/canary", "value=V"))["V"] == canary
    pod = chain.pod("shop")
    with pod_client(chain) as client:
        await client.login(pod.token_file.read_text())
        await client.request("GET", "/v1/secret/data/shop/canary")
        await client.request("GET", f"/v1/secret/data/shop/canary?token={client.token}")
        await client.request("POST", f"/v1/auth/token/renew/{client.token}", {})
        await client.request("GET", f"/v1/sys/wrapping/unwrap/{client.token}")
        await client.request("GET", f"/v1/secret/data/{pod.token_file.read_text()}")
    wanted = {
        "value": canary.encode(),
        "pod token": client.token.encode(),
        "jwt": pod.token_file.read_bytes(),
        "root token": chain.openbao.root_token.reveal(),
        "operator token": chain.apiserver.operator_token_file.read_bytes(),
        "bridge token": (chain.directory / "bridge-1.token").read_bytes(),
        "bridge's second token": (chain.directory / "bridge-1.admin.token").read_bytes(),
    }
    for log in sorted(chain.logs.iterdir()):
        assert occurrences(log.read_bytes(), wanted) == [], log.name
    for port in (chain.ports.metrics, chain.beacon_metrics_port):
        assert occurrences((await fetch(port, "/metrics")).encode(), wanted) == []
    assert chain.bridge is not None
    for part in (chain.beacon, chain.bridge, chain.operator):
        assert occurrences(Path(f"/proc/{part.pid}/cmdline").read_bytes(), wanted) == [], part.name


async def test_no_part_printed_a_traceback(chain: Chain) -> None:
    for log in sorted(chain.logs.iterdir()):
        assert "Traceback (most recent call last)" not in log.read_text(errors="replace"), log.name
