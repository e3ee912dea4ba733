"""Either side may die or be stopped; a broker that is down stops nobody else; one bridge, two clusters."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets

import pytest

from cloudtaser.demo.command import program, run_command
from tests.chain_tools import delivered, eventually
from tests.reverse_chain import ReverseChain, reverse_chain

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.slow,
    pytest.mark.timeout(240),
]
BACK_WITHIN = 15.0
"""Seconds; the most that a backoff waits is four, and a process has to start on a busy machine."""


async def status(chain: ReverseChain) -> dict[str, object]:
    """What `cloudtaser-bridge status` prints."""
    command = [program("cloudtaser-bridge"), "status", "--status-socket", str(chain.bridge_socket)]
    return dict(json.loads((await run_command(command, {}, check=False)).output))


async def throw(port: int, what: bytes) -> None:
    """Bytes at a port, until it closes."""
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(what)
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.wait_for(reader.read(), 2)
        writer.close()


@pytest.mark.parametrize("transport", ["grpc", "tls"])
async def test_either_side_may_be_killed_or_stopped_and_is_back_within_seconds(transport: str) -> None:
    async with reverse_chain() as chain:
        # a broker that is down stands first in the list
        flags = chain.bridge_flags(f"127.0.0.1:1,{chain.reverse_address}", transport)
        await chain.start(*flags)
        assert chain.bridge is not None
        await chain.value_arrives("first")
        assert (await status(chain))["brokers"] == {"127.0.0.1:1": False, chain.reverse_address: True}
        took = {}
        for part in (chain.operator, chain.bridge):
            await part.kill()
            if part is chain.bridge:

                async def alone() -> bool:
                    return await chain.tunnels() == 0

                await eventually(alone, "the broker sees that its bridge is gone")
            part.start()
            took[part.name] = await eventually(chain.tunnel_is_up, f"a tunnel after {part.name} was killed")
        print({name: round(seconds, 2) for name, seconds in took.items()})
        assert max(took.values()) < BACK_WITHIN, took
        await chain.value_arrives("second")
        garbage = [
            secrets.token_bytes(4000),
            b"GET / HTTP/1.1\r\n\r\n",
            b"CTB1\x01",
            b"PRI * HTTP/2.0\r\n\r\n",
        ]
        await asyncio.gather(*(throw(chain.reverse_port, each) for each in garbage * 20))
        await chain.value_arrives("third")
        for part in (chain.bridge, chain.operator):
            assert await part.stop() == 0, part.last_lines()
            part.start()
            await eventually(chain.tunnel_is_up, f"a tunnel after {part.name} was stopped")
        await chain.value_arrives("fourth")
        for part in (chain.bridge, chain.operator):
            log = part.log.read_text()
            assert "Traceback" not in log
            assert "unexpected failure" not in log
            for line in log.splitlines():
                assert line.startswith("{"), f"not a log line of ours: {line}"
        refused = [
            line for line in chain.operator.log.read_text().splitlines() if "reverse port was ref" in line
        ]
        assert len(refused) <= 4, refused


async def test_one_bridge_serves_two_clusters_by_the_brokers_of_their_registrations() -> None:
    async with reverse_chain() as one, reverse_chain() as two:
        await one.start_openbao()
        await one.register("--broker-address", one.reverse_address)
        two.openbao = one.openbao
        await two.register("--broker-address", two.reverse_address)
        await one.start_bridge("--outer-ca", str(one.files.ca))
        for chain in (one, two):
            chain.files = one.files
            await chain.start_apiserver()
            await chain.start_operator()
        for number, chain in enumerate((one, two)):
            await chain.value_arrives(f"of cluster {number}")
        found = await delivered(one, "secret/data/shop/value", "value=VALUE")
        assert found["VALUE"] == "of cluster 0"
        await one.operator.kill()
        await two.value_arrives("while the other broker is down")
        document = await status(one)
        assert document["beacons"] == {}
        assert document["brokers"] == {one.reverse_address: False, two.reverse_address: True}
