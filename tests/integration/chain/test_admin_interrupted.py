"""The bridge is killed between OpenBao's write and its own answer: nothing is written twice, nothing is lost,
and nobody is told that something is stored who could not know it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from cloudtaser.demo import setup
from cloudtaser.errors import UnavailableError
from cloudtaser.net.admin import AdminDoor
from cloudtaser.net.dial import Address
from cloudtaser.secret import Secret
from cloudtaser.wire.migration import Migration, Outcome
from tests.chain_tools import eventually, own_chain

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

MIGRATION = Migration("secret/data/shop/killed", {"password": "canary-5f20"})


class Valve:
    """A TCP pipe to OpenBao whose way back can be shut."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self.address = ""

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def shut(self) -> None:
        self._open.clear()

    def reopen(self) -> None:
        self._open.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        pipes = [self._pipe(reader, back, False), self._pipe(there, writer, True)]
        for pipe in pipes:
            task = asyncio.create_task(pipe)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pipe(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, answers: bool) -> None:
        try:
            while data := await source.read(65536):
                if answers:
                    await self._open.wait()
                sink.write(data)
                await sink.drain()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            sink.transport.abort()


async def test_killed_between_write_and_answer() -> None:
    async with own_chain() as chain:
        await chain.start_openbao()
        await chain.register()
        valve = Valve(chain.openbao.port)
        async with valve.listening(), setup.administrator(chain) as admin:
            await chain.start_beacon()
            await chain.start_bridge("--vault-addr", valve.address)
            await chain.start_apiserver()
            await chain.start_operator()
            assert chain.bridge is not None
            door = AdminDoor(Address("127.0.0.1", chain.ports.admin), chain.pod_ca())
            token = Secret(chain.admin_token())
            assert (await door.migrate(token, Migration("secret/data/shop/first", {"a": "b"}))).created

            valve.shut()
            asked = asyncio.create_task(door.migrate(token, MIGRATION))

            async def written() -> bool:
                return await admin.kv_read("secret", "shop/killed") is not None

            await eventually(written, "OpenBao has it")
            await chain.bridge.kill()
            valve.reopen()
            with pytest.raises(UnavailableError):
                await asked
            chain.bridge.start()
            await eventually(chain.tunnel_is_up, "the bridge is back")

            again = await _patiently(door, token, MIGRATION)
            assert (again.created, again.version) == (False, 1)
            assert again.sha256 == "", "it has forgotten, and does not pretend to know"
            stored = await admin.kv_read("secret", "shop/killed")
            assert stored is not None
            assert (stored.data, stored.version) == (dict(MIGRATION.data), 1)
            goes_on = await _patiently(door, token, Migration("secret/data/shop/next", {"a": "b"}))
            assert goes_on.created

            await admin.kv_forget("secret", "shop/killed")  # as a person would who wants it done again
            assert (await door.migrate(token, MIGRATION)).created


async def _patiently(door: AdminDoor, token: Secret, migration: Migration) -> Outcome:
    """As a client would that was told to come back: the new bridge's token is not accepted at once."""
    while True:
        try:
            return await door.migrate(token, migration)
        except UnavailableError:
            await asyncio.sleep(0.1)
