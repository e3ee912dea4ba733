"""Starting parts at once: whoever is interrupted cleans up before anybody goes on."""

from __future__ import annotations

import asyncio
import threading

import pytest

from cloudtaser.demo.process import start_in_thread, together
from cloudtaser.errors import UnavailableError


class SlowServer:
    """Its start takes until somebody kills it, twice: the first kill comes too early to have an effect."""

    def __init__(self) -> None:
        self.kills = 0
        self.starting = asyncio.Event()
        self._killed = threading.Event()
        self._loop = asyncio.get_running_loop()
        self.ended = False

    def start(self) -> None:
        self._loop.call_soon_threadsafe(self.starting.set)
        if self._killed.wait(30):
            self.ended = True
        raise UnavailableError("ended early")

    def kill(self) -> None:
        self.kills += 1
        if self.kills == 2:
            self._killed.set()


async def test_an_interrupted_start_is_over_when_everybody_was_waited_for() -> None:
    server, quick = SlowServer(), asyncio.Event()
    starting = asyncio.ensure_future(together(start_in_thread(server.start, server.kill), quick.wait()))
    await server.starting.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert server.ended


async def test_a_failed_start_interrupts_the_others_and_is_what_is_raised() -> None:
    server = SlowServer()

    async def fail() -> None:
        await server.starting.wait()
        raise UnavailableError("no port")

    with pytest.raises(UnavailableError, match="no port"):
        await together(start_in_thread(server.start, server.kill), fail())
    assert server.ended


async def test_all_that_start_are_waited_for() -> None:
    done: list[int] = []

    async def start(number: int) -> None:
        await asyncio.sleep(0)
        done.append(number)

    await together(start(1), start(2))
    assert sorted(done) == [1, 2]
