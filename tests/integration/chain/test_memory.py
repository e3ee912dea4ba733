"""No copy left behind in the wrapper, through broker, beacon, bridge and OpenBao."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cloudtaser.demo import setup
from cloudtaser.demo.chain import Chain, Pod
from cloudtaser.openbao.client import OpenBao
from tests.chain_tools import pod_client
from tests.integration.wrapper_vault import QUICK
from tests.memory_scan import copies, random_text, scan, tokens_in
from tests.unit.wrapper.launch import APPLICATION, Wrapped, application_of, wait_for_state

pytestmark = pytest.mark.asyncio(loop_scope="session")


def look(wrapped: Wrapped, pod: Pod, values: list[str]) -> None:
    """Search the wrapper's memory once it waits for what comes next."""
    wait_for_state(wrapped.process.pid, "S")
    _, payload, signature = Path(pod.token_file).read_text().strip().split(".")
    secrets = {f"value {number}": value for number, value in enumerate(values)}
    found = scan(wrapped.process.pid, secrets | {"JWT payload": payload, "JWT signature": signature})
    assert not found, "\n".join(map(str, found))
    assert tokens_in(wrapped.process.pid) == []


async def test_nothing_is_left_after_start_and_rotation(chain: Chain, admin: OpenBao) -> None:
    values = [random_text(40), random_text(5000)]
    await setup.write_secret(admin, "shop/scanned", {"value": values[0]})
    pod = chain.pod("shop")
    settings = {"CLOUDTASER_SECRET_PATHS": "secret/data/shop/scanned", **QUICK}
    wrapped = await asyncio.to_thread(Wrapped, *APPLICATION, settings=pod.environment | settings)
    try:
        first = await asyncio.to_thread(application_of, wrapped)
        await asyncio.to_thread(look, wrapped, pod, values)
        assert copies(first, values[0]) == 1
        await setup.write_secret(admin, "shop/scanned", {"value": values[1]})
        second = await asyncio.to_thread(application_of, wrapped, other_than=first)
        await asyncio.to_thread(look, wrapped, pod, values)
        assert (copies(second, values[0]), copies(second, values[1])) == (0, 1)
    finally:
        await asyncio.to_thread(wrapped.__exit__)


async def test_the_search_knows_a_token_when_it_sees_one(chain: Chain) -> None:
    pod = chain.pod("shop")
    with pod_client(chain) as client:
        await client.login(Path(pod.token_file).read_text().strip())
        code = f"import time; token = '{client.token}'; print('ready', flush=True); time.sleep(1000)"
        holder = await asyncio.create_subprocess_exec(
            "python3", "-I", "-S", "-c", code, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert holder.stdout is not None
            await holder.stdout.readline()
            assert tokens_in(holder.pid)
        finally:
            holder.kill()
            await holder.wait()
