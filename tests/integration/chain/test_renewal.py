"""Certificates of bridge and broker are renewed under traffic: no request is lost, no tunnel cut."""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cloudtaser.demo import setup
from cloudtaser.demo.chain import Chain
from cloudtaser.demo.timing import PodClient
from tests.chain_tools import eventually, own_chain, pod_client, whole_lines

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.slow,
    pytest.mark.timeout(180),
]
LIFE = 20
"""Seconds that a certificate lives here, instead of a day; renewed at two thirds of it."""
SECRET = "/v1/secret/data/shop/renewed"


@dataclass
class Traffic:
    """Reads without a pause until `stop`: one keep-alive connection, and a new one for each."""

    chain: Chain
    token: str
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    good: int = 0
    bad: list[str] = field(default_factory=list)

    async def keep_alive(self) -> None:
        with pod_client(self.chain) as client:
            await self._read(lambda: client.request("GET", SECRET, headers={"X-Vault-Token": self.token}))

    async def anew(self) -> None:
        async def once() -> tuple[int, bytes]:
            with pod_client(self.chain) as client:
                return await client.request("GET", SECRET, headers={"X-Vault-Token": self.token})

        await self._read(once)

    async def _read(self, read: Callable[[], Awaitable[tuple[int, bytes]]]) -> None:
        while not self.stop.is_set():
            try:
                status, body = await read()
            except (OSError, http.client.HTTPException) as error:
                self.bad.append(repr(error))
                return
            if status == 200:
                self.good += 1
            else:
                self.bad.append(body.decode())


def serial_of_bridge(chain: Chain) -> str:
    """Serial number of the certificate that a pod meets now."""
    client = PodClient(chain.broker_address, chain.pod_ca())
    client.connect()
    connection = client._connection
    assert connection is not None
    assert isinstance(connection.sock, ssl.SSLSocket)
    certificate = connection.sock.getpeercert()
    client.close()
    assert certificate is not None
    return str(certificate["serialNumber"])


async def test_two_generations_of_certificates_pass_without_a_lost_request() -> None:
    async with own_chain() as chain:
        await chain.start_openbao()
        await chain.register()
        await asyncio.gather(
            chain.start_beacon(), chain.start_bridge("--certificate-ttl", f"{LIFE}s"), chain.start_apiserver()
        )
        await chain.start_operator()
        async with setup.administrator(chain) as admin:
            await setup.write_secret(admin, "shop/renewed", {"value": "v"})
        with pod_client(chain) as client:
            await client.login(chain.pod("shop").token_file.read_text())
            traffic = Traffic(chain, client.token)
        serials = {await asyncio.to_thread(serial_of_bridge, chain)}
        brokers: set[str] = set()
        readers = [asyncio.create_task(read()) for read in (traffic.keep_alive, traffic.anew)]

        async def renewed_twice() -> bool:
            serials.add(await asyncio.to_thread(serial_of_bridge, chain))
            brokers.update(certified_brokers(chain))
            return len(serials) >= 3 and len(brokers) >= 3

        await eventually(renewed_twice, "both sides renew twice", timeout=4 * LIFE, every=1.0)
        traffic.stop.set()
        await asyncio.gather(*readers)
        assert traffic.bad == []
        assert traffic.good > 100
        assert await chain.tunnels() >= 2
        assert cut_tunnels(chain) == []


def entries(log: Path, event: str) -> list[dict[str, Any]]:
    """The entries of one event in a part's log."""
    lines = (json.loads(line) for line in whole_lines(log))
    return [entry for entry in lines if entry.get("event") == event]


def certified_brokers(chain: Chain) -> set[str]:
    """Serial numbers of the broker certificates that the bridge gave out."""
    assert chain.bridge is not None
    return {str(entry["serial"]) for entry in entries(chain.bridge.log, "broker certified")}


def cut_tunnels(chain: Chain) -> list[dict[str, Any]]:
    """Tunnels that ended otherwise than by being given up for newer ones."""
    return [entry for entry in entries(chain.operator.log, "tunnel down") if entry["error"]]
