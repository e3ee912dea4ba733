"""Somebody who knows a room's hash fills it, again and again, and says nothing to whom he meets: he costs the
true parties time, and never the room."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

import pytest

from cloudtaser.demo.chain import Chain
from cloudtaser.net.tls import beacon_client
from cloudtaser.wire.hashes import init_room
from cloudtaser.wire.rendezvous import Hello, Role
from tests.chain_attackers import rooms
from tests.chain_tools import eventually, own_chain

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.slow, pytest.mark.timeout(300)]

ELSEWHERE = "127.0.0.2"
"""The squatters' address, which is not that of bridge and operator."""
PLACES = 64
"""What a beacon gives in one room to one role."""


class Squatters:
    """Parties that park in one room, and come back at once when they are sent away or have met somebody."""

    def __init__(self, chain: Chain, role: Role, room: bytes) -> None:
        self.met = 0
        self._address = ("127.0.0.1", chain.beacon_port)
        self._context = beacon_client(str(chain.beacon_ca), False)
        self._hello = Hello(role, room).encode()
        self._taken = asyncio.Semaphore(0)
        self._parties = [asyncio.create_task(self._squat()) for _ in range(PLACES)]

    async def all_there(self) -> None:
        """Wait until each was parked once."""
        async with asyncio.timeout(60):
            for _ in range(PLACES):
                await self._taken.acquire()

    async def _squat(self) -> None:
        while True:
            try:
                await self._visit()
            except (OSError, ssl.SSLError, asyncio.IncompleteReadError):
                await asyncio.sleep(0.05)

    async def _visit(self) -> None:
        reader, writer = await asyncio.open_connection(
            *self._address, ssl=self._context, local_addr=(ELSEWHERE, 0)
        )
        try:
            writer.write(self._hello)
            while (answer := await reader.readexactly(1)) == b"W":
                self._taken.release()
            if answer == b"M":
                self.met += 1
                await reader.read()  # as long as the other side has patience
        finally:
            writer.transport.abort()

    async def leave(self) -> None:
        for party in self._parties:
            party.cancel()
        await asyncio.gather(*self._parties, return_exceptions=True)


@contextlib.asynccontextmanager
async def squatting(chain: Chain, role: Role, *where: bytes) -> AsyncIterator[list[Squatters]]:
    """These rooms are full of squatters, as long as this lasts."""
    groups = [Squatters(chain, role, room) for room in where]
    try:
        for group in groups:
            await group.all_there()
        yield groups
    finally:
        for group in groups:
            await group.leave()


@pytest.mark.parametrize("role", Role, ids=["as bridges", "as brokers"])
async def test_rooms_full_of_squatters_still_let_the_true_parties_meet(role: Role) -> None:
    async with own_chain() as chain:
        await chain.start_openbao()
        await chain.register()
        await asyncio.gather(chain.start_beacon(), chain.start_apiserver())
        async with squatting(chain, role, init_room(chain.fingerprint)):
            await chain.start_bridge()
            await chain.start_operator(wait=False)
            first = await eventually(chain.tunnel_is_up, "the cluster is initialised", timeout=60)
        async with squatting(chain, role, *rooms(chain)):
            await chain.operator.restart()
            await chain.operator.wait_until(chain.tunnel_is_up, "connected again")
            assert chain.bridge is not None
            await chain.bridge.restart()

            async def gone() -> bool:
                return not await chain.tunnel_is_up()

            await eventually(gone, "the tunnels of the old bridge are gone", timeout=60)
            again = await eventually(chain.tunnel_is_up, "connected to the new bridge", timeout=60)
        print({"first": round(first, 1), "again": round(again, 1)})
