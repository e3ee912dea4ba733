"""Any part may die: the chain is back within five seconds, without a hand, and programs run on."""

from __future__ import annotations

import asyncio
import http.client
from pathlib import Path

import pytest

from cloudtaser.demo import setup
from cloudtaser.demo.chain import Chain
from cloudtaser.demo.process import PartProcess
from cloudtaser.errors import CloudtaserError
from tests.chain_tools import eventually, own_chain, pod_client

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.slow,
    pytest.mark.timeout(300),
]
BACK_WITHIN = 5.0


async def restart(chain: Chain, part: str) -> None:
    """Kill a part and start it again; returns when its process is up."""
    if part == "openbao":
        await asyncio.to_thread(chain.openbao.kill)
        await asyncio.to_thread(chain.openbao.start)
    elif part == "apiserver":
        await chain.apiserver.close()
        await chain.apiserver.start()
    else:
        process: PartProcess = getattr(chain, part)
        await process.restart()


async def can_read(chain: Chain) -> bool:
    """Whether a new pod can connect, log in and read."""
    jwt = chain.pod("shop").token_file.read_text()
    with pod_client(chain) as client:
        try:
            await client.login(jwt)
            status, _ = await client.request("GET", "/v1/secret/data/shop/value")
            return status == 200
        except (OSError, http.client.HTTPException, CloudtaserError):
            return False


async def test_each_part_may_die_and_the_chain_is_back_within_five_seconds() -> None:
    async with own_chain() as chain:
        await chain.start()
        async with setup.administrator(chain) as admin:
            await setup.write_secret(admin, "shop/value", {"value": "v"})
        application = chain.wrap(
            chain.pod("shop"),
            ["/bin/sh", "-c", 'echo "started"; trap "exit 0" TERM; while :; do sleep 1 & wait $!; done'],
            {"CLOUDTASER_SECRET_PATHS": "secret/data/shop/value", "CLOUDTASER_ROTATION_INTERVAL": "1"},
        )
        application.start()

        async def runs() -> bool:
            return application.log.read_text().count("started\n") == 1

        await eventually(runs, "the program starts")
        took = {}
        for part in ("beacon", "bridge", "operator", "openbao", "apiserver"):
            await restart(chain, part)
            took[part] = await eventually(lambda: can_read(chain), f"a read after {part} was killed")
        print({part: round(seconds, 2) for part, seconds in took.items()})
        assert max(took.values()) < BACK_WITHIN, took
        assert await runs()
        assert Path(f"/proc/{application.pid}").exists()
