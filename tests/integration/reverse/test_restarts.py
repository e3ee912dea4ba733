"""Either side may die or be stopped; a broker that is down stops nobody else; one bridge, two clusters."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import secrets

import pytest

from cloudtaser.demo.command import program, run_command
from cloudtaser.demo.process import PartProcess
from tests.chain_tools import delivered, eventually
from tests.reverse_chain import ReverseChain, reverse_chain

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.slow,
    pytest.mark.timeout(240),
]
BACK_WITHIN = 15.0
"""Seconds; the most that a backoff waits is four, and a process has to start on a busy machine."""
HASH = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
TOKEN = re.compile(r"eyJ[\w-]{10,}\.|\b(?:hv)?[sb]\.[A-Za-z0-9]{20,}")


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


async def killed_and_back(chain: ReverseChain) -> None:
    """The broker dies, then the bridge; each time there is a tunnel again within seconds."""
    assert chain.bridge is not None
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


def check_log(part: PartProcess, *hidden: str) -> list[str]:
    """Its lines: each one of ours and a single one, without a word of what is `hidden`."""
    lines = part.log.read_text().splitlines()
    for line in lines:
        assert line.startswith("{"), f"not a log line of ours: {line}"
        assert "Traceback" not in line
        assert "unexpected failure" not in line
        assert not [word for word in hidden if word in line], f"{part.name} says what it must not: {line}"
        assert not HASH.search(line), f"a whole hash: {line}"
        assert not TOKEN.search(line), f"a token: {line}"
    return lines


async def test_either_side_may_be_killed_or_stopped_and_is_back_within_seconds_by_either_transport() -> None:
    async with reverse_chain() as chain:
        # a broker that is down stands first in the list
        await chain.start(*chain.bridge_flags(f"127.0.0.1:1,{chain.reverse_address}"))
        assert chain.bridge is not None
        await chain.value_arrives("canary-first")
        assert (await status(chain))["brokers"] == {"127.0.0.1:1": False, chain.reverse_address: True}
        await killed_and_back(chain)
        garbage = [
            secrets.token_bytes(4000),
            b"GET / HTTP/1.1\r\n\r\n",
            b"CTB1\x01",
            b"PRI * HTTP/2.0\r\n\r\n",
        ]
        await asyncio.gather(*(throw(chain.reverse_port, each) for each in garbage * 20))
        await chain.value_arrives("canary-second")
        await chain.carry_by("tls")
        await chain.value_arrives("canary-third")
        await killed_and_back(chain)
        assert await chain.operator.stop() == 0, chain.operator.last_lines()
        chain.operator.start()
        await eventually(chain.tunnel_is_up, "a tunnel after the operator was stopped")
        await chain.value_arrives("canary-fourth")
        tokens = [file.read_text().strip() for file in chain.directory.glob("*.token")]
        check_log(chain.bridge, "canary-", *tokens)
        lines = check_log(chain.operator, "canary-", *tokens)
        refused = [line for line in lines if "reverse port was ref" in line]
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
