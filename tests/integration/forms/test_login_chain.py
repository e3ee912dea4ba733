"""A running bridge that logs in by AppRole: its token revoked, OpenBao restarted, and pods notice nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cloudtaser.demo import setup
from cloudtaser.demo.chain import Chain
from cloudtaser.errors import CloudtaserError
from cloudtaser.openbao.client import OpenBao
from cloudtaser.wire.hashes import short_fingerprint
from tests.chain_tools import delivered, eventually, own_chain
from tests.integration.forms.test_pregenerated_chain import administrator

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.slow,
    pytest.mark.timeout(180),
]


async def bridge_by_app_role(chain: Chain) -> None:
    bridge = await chain.new_bridge()
    made = (await chain.cli("source", "bridge-login", "--id", "bridge-1", "-o", "json")).json()
    secret_id = chain.directory / "secret-id"
    secret_id.touch(mode=0o600)
    secret_id.write_text(made["secret_id"])
    at = bridge.arguments.index("--vault-token-file")
    bridge.arguments[at : at + 2] = [
        "--approle-role-id",
        made["role_id"],
        "--approle-secret-id-file",
        str(secret_id),
    ]


async def tokens(root: OpenBao) -> list[dict[str, Any]]:
    """The tokens of the namespace that logins by AppRole gave."""
    found = []
    for accessor in await root.list("auth/token/accessors", namespace="cloudtaser"):
        try:
            answer = await root.request(
                "POST",
                "auth/token/lookup-accessor",
                namespace="cloudtaser",
                body={"accessor": accessor},
            )
        except CloudtaserError:
            continue  # it has ended meanwhile
        if str(answer["data"]["path"]).startswith("auth/approle"):
            found.append(answer["data"])
    return found


async def test_a_running_bridge_outlasts_a_revoked_token_and_a_restart_of_openbao() -> None:
    async with own_chain() as chain:
        await chain.start_openbao()
        await chain.register()
        await bridge_by_app_role(chain)
        await asyncio.gather(chain.start_beacon(), chain.start_bridge(), chain.start_apiserver())
        await chain.start_operator()
        async with setup.administrator(chain) as admin:
            await setup.write_secret(admin, "shop/plain", {"value": "v"})

        async def delivers() -> bool:
            found = await delivered(chain, "secret/data/shop/plain", "value=SECRET")
            return found["SECRET"] == "v"

        assert await delivers()
        async with administrator(chain) as root:
            (first,) = await tokens(root)
            body = {"accessor": first["accessor"]}
            await root.request("POST", "auth/token/revoke-accessor", namespace="cloudtaser", body=body)

            async def again() -> bool:
                return [token["accessor"] for token in await tokens(root)] not in ([], [first["accessor"]])

            await eventually(again, "the bridge logs in anew")
            assert await delivers()
            assert await chain.tunnels() == 2
            await asyncio.to_thread(chain.openbao.kill)
            await asyncio.to_thread(chain.openbao.start)
            assert await delivers()
            assert chain.bridge is not None
            await chain.bridge.stop()
            assert await tokens(root) == []
        log = chain.bridge.log.read_text()
        assert "the token was revoked; logging in anew" in log
        assert first["id"] == ""  # OpenBao itself shows none
        assert short_fingerprint(chain.fingerprint) in log
        assert (chain.directory / "secret-id").read_text() not in log
