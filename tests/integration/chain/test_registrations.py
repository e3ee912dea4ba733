"""A registration that nobody used in time lets nobody in, and one that is suspended lets nobody stay."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from cloudtaser.demo.chain import Chain
from cloudtaser.openbao.layout import Layout
from cloudtaser.openbao.records import Records, instant
from cloudtaser.wire import names
from tests.chain_attackers import administrator
from tests.chain_tools import eventually, own_chain

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def change(chain: Chain, **fields: Any) -> None:
    """Change the record of the registration, as the administrator could."""
    async with administrator(chain) as client:
        records = Records(client, Layout())
        registered, version = await records.registered_version(chain.fingerprint)
        assert registered is not None
        await records.write_registered(dataclasses.replace(registered, **fields), version)


@pytest.mark.slow
async def test_a_lapsed_registration_lets_nobody_in_and_a_suspended_one_lets_nobody_stay() -> None:
    async with own_chain() as chain:
        await chain.start_openbao()
        await chain.register()
        await change(chain, expires_at=instant(1_700_000_000.0))
        await asyncio.gather(chain.start_beacon(), chain.start_bridge(), chain.start_apiserver())
        await chain.start_operator(wait=False)
        log = chain.operator.log

        async def waits() -> bool:
            return "waiting for a bridge" in log.read_text()

        await eventually(waits, "nobody comes to the init room", timeout=30)
        assert chain.apiserver.config_map(names.SYSTEM_NAMESPACE, names.TRUST_CONFIGMAP) == {}
        assert await chain.tunnels() == 0
        await chain.register()
        await chain.operator.wait_until(chain.tunnel_is_up, "connected once it is registered again")

        async def down() -> bool:
            return await chain.tunnels() == 0

        await change(chain, suspended=True)
        await eventually(down, "suspension closes the tunnels")
        await change(chain, suspended=False)
        await eventually(chain.tunnel_is_up, "back when it is taken back")
