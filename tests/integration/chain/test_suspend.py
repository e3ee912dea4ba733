"""The break-glass: a cluster is cut off within ten seconds, all of it, and comes back by itself."""

from __future__ import annotations

import asyncio
import http.client
import json
import time

import pytest

from cloudtaser.demo import setup
from cloudtaser.demo.chain import Chain
from cloudtaser.demo.postgres import PostgresServer
from cloudtaser.demo.process import start_in_thread
from cloudtaser.errors import CloudtaserError
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.errors import OpenBaoError
from cloudtaser.openbao.layout import Layout
from cloudtaser.openbao.records import Records
from cloudtaser.secret import Secret
from tests.chain_attackers import administrator
from tests.chain_tools import AsyncPod, eventually, own_chain, pod_client

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.slow,
    pytest.mark.timeout(180),
]
WITHIN = 10.0
SECRET = "secret/data/shop/value"


async def lives(chain: Chain, token: str) -> bool:
    """Whether OpenBao itself still knows a token."""
    async with OpenBao(chain.openbao.address, ca_file=chain.openbao.ca_file, token=Secret(token)) as client:
        try:
            await client.request("GET", "auth/token/lookup-self")
        except OpenBaoError:
            return False
        return True


async def can_read(chain: Chain) -> bool:
    with pod_client(chain) as client:
        try:
            await client.login(chain.pod("shop").token_file.read_text())
            return (await client.request("GET", f"/v1/{SECRET}"))[0] == 200
        except (OSError, http.client.HTTPException, CloudtaserError):
            return False


async def is_cut_off(client: AsyncPod) -> bool:
    """Whether the connection that a pod has open has ended."""
    try:
        await client.request("GET", f"/v1/{SECRET}")
    except (OSError, http.client.HTTPException):
        return True
    return False


async def test_a_live_pod_its_lease_and_its_tunnel_end_within_ten_seconds_and_come_back() -> None:
    async with own_chain() as chain:
        postgres = PostgresServer(chain.directory / "postgres")
        await chain.start_openbao()
        await chain.register()
        await asyncio.gather(
            chain.start_beacon(),
            chain.start_bridge("--poll-interval", "5"),  # as it is by default
            chain.start_apiserver(),
            start_in_thread(postgres.start, postgres.kill),
        )
        try:
            await chain.start_operator()
            async with setup.administrator(chain) as admin:
                await setup.write_secret(admin, "shop/value", {"value": "v"})
                await setup.offer_database(admin, postgres)
            lease = f"{setup.DATABASE_MOUNT}/creds/{setup.DATABASE_ROLE}"
            for_whom = ["--namespace", "shop", "--serviceaccount", "default"]
            await chain.cli("source", "allow", chain.fingerprint, *for_whom, "--path", lease)
            await suspend_and_resume(chain, postgres, lease)
        finally:
            await asyncio.to_thread(postgres.stop)


async def suspend_and_resume(chain: Chain, postgres: PostgresServer, lease_path: str) -> None:
    with pod_client(chain) as client:
        await client.login(chain.pod("shop").token_file.read_text(), role="shop_default")
        status, body = await client.request("GET", f"/v1/{SECRET}")
        assert status == 200
        status, body = await client.request("GET", f"/v1/{lease_path}")
        assert status == 200, body
        user = str(json.loads(body)["data"]["username"])

        async def user_is_gone() -> bool:
            sql = f"select count(*) from pg_roles where rolname = '{user}'"
            return (await asyncio.to_thread(postgres.run, sql)).strip() == "0"

        async def tunnels_are_gone() -> bool:
            return await chain.tunnels() == 0

        async def token_is_dead() -> bool:
            return not await lives(chain, client.token)

        assert not await user_is_gone()
        began = time.monotonic()
        await chain.cli("source", "list")
        starting = time.monotonic() - began  # how long such a program takes here to do little
        began = time.monotonic()
        await chain.cli("source", "suspend", chain.fingerprint)
        await asyncio.gather(
            eventually(token_is_dead, "the token is dead"),
            eventually(user_is_gone, "PostgreSQL no longer knows the user"),
            eventually(tunnels_are_gone, "the tunnels are closed"),
            eventually(lambda: is_cut_off(client), "the pod's connection is cut"),
        )
        took = time.monotonic() - began - starting
        print(f"all of it gone within {took:.1f} s, and {starting:.1f} s to start the command")
        assert took < WITHIN
    assert not await can_read(chain)
    async with administrator(chain) as root:
        (reads,) = await Records(root, Layout()).reads(chain.fingerprint)
    assert reads.paths.keys() == {SECRET, lease_path}, "written down before anybody asks"

    await chain.cli("source", "resume", chain.fingerprint)
    back = await eventually(lambda: can_read(chain), "a pod reads again", timeout=40, every=0.5)
    print(f"back {back:.1f} s after it was resumed")
