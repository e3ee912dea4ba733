"""Parts that are started: an interrupted one cleans up before anybody goes on, a death is told at once."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from cloudtaser.demo.process import PartProcess, start_in_thread, together
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


def part_that(tmp_path: Path, script: str) -> PartProcess:
    return PartProcess("a part", ["/bin/sh", "-c", script], tmp_path / "log")


async def test_who_waits_for_a_part_that_died_hears_its_last_words_at_once(tmp_path: Path) -> None:
    part = part_that(tmp_path, "echo no such file; exit 1")
    part.start()

    async def never() -> bool:
        return False

    with pytest.raises(UnavailableError, match=r"ended early") as error:
        await part.wait_until(never, "ready", timeout=60)
    assert "no such file" in error.value.diagnostic()
    await part.stop()


async def test_a_part_that_did_its_work_and_ended_was_ready(tmp_path: Path) -> None:
    part = part_that(tmp_path, "echo done")
    part.start()
    looked = 0

    async def done() -> bool:
        """Not at the first look, and the part is gone by the second."""
        nonlocal looked
        looked += 1
        if looked == 1:
            await asyncio.to_thread(os.waitid, os.P_PID, part.pid, os.WEXITED | os.WNOWAIT)
            return False
        return "done" in part.log.read_text()

    await part.wait_until(done, "done", timeout=60)
    await part.stop()
