"""An unmodified `bao` reads through broker, beacon and bridge."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudtaser.demo import setup
from cloudtaser.demo.chain import Chain
from cloudtaser.openbao.client import OpenBao
from cloudtaser.wire import names

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_bao_logs_in_and_reads_a_secret(chain: Chain, admin: OpenBao, tmp_path: Path) -> None:
    await setup.write_secret(admin, "shop/bao", {"value": "through the chain"})
    pod_ca = tmp_path / "pod-ca.crt"
    pod_ca.write_text(chain.pod_ca())
    environment = {
        "BAO_ADDR": f"https://{chain.broker_address}",
        "BAO_CACERT": str(pod_ca),
        "BAO_TLS_SERVER_NAME": names.BRIDGE_NAME,
        "HOME": str(tmp_path),
    }
    jwt = f"jwt=@{chain.pod('shop').token_file}"
    login = await chain.bao(
        "write", "-field=token", "auth/jwt/login", "role=default", jwt, environment=environment
    )
    environment["BAO_TOKEN"] = login.output.strip()
    read = await chain.bao("read", "-field=data", "secret/data/shop/bao", environment=environment)
    assert "through the chain" in read.output
    kv = await chain.bao("kv", "get", "-field=value", "-mount=secret", "shop/bao", environment=environment)
    assert kv.output.strip() == "through the chain"
