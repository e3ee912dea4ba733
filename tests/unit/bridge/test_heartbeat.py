"""The sign of life: written soon, again after its time, and never in the way."""

from __future__ import annotations

import asyncio
import dataclasses

from cloudtaser.bridge.heartbeat import EVERY, Heartbeat
from cloudtaser.errors import CloudtaserError, UnavailableError
from cloudtaser.openbao.records import BridgeRecord

RECORD = BridgeRecord("b1", "0.1.0", "2026-01-01T00:00:00Z")


class Written:
    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.records: list[BridgeRecord] = []
        self.first, self.enough = asyncio.Event(), asyncio.Event()

    async def write_bridge(self, record: BridgeRecord) -> None:
        if self.failures:
            self.failures -= 1
            raise UnavailableError("OpenBao is sealed")
        self.records.append(record)
        self.first.set()
        if len(self.records) == 2:
            self.enough.set()


async def beat(written: Written, failed: list[CloudtaserError]) -> None:
    heart = Heartbeat(written, lambda: RECORD, failed.append, every=0.001, settle=0)  # type: ignore[arg-type]
    stop = asyncio.Event()
    running = asyncio.create_task(heart.run(stop))
    async with asyncio.timeout(30):
        await written.enough.wait()
        stop.set()
        await running


async def test_it_beats_again_and_stops_when_told() -> None:
    written = Written()
    await beat(written, [])
    assert written.records[:2] == [RECORD, RECORD]


async def test_a_failed_write_is_reported_and_outlasted() -> None:
    failed: list[CloudtaserError] = []
    await beat(Written(failures=3), failed)
    assert len(failed) == 3


async def test_a_change_is_told_as_early_as_the_rate_allows_and_not_earlier() -> None:
    written, every = Written(), 0.2
    heart = Heartbeat(written, lambda: RECORD, lambda _: None, every=every, settle=0)  # type: ignore[arg-type]
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    began = loop.time()
    running = asyncio.create_task(heart.run(stop))
    async with asyncio.timeout(30):
        await written.first.wait()
        heart.soon()
        await written.enough.wait()
        assert loop.time() - began > every - 0.01  # uvloop counts in whole milliseconds
        stop.set()
        await running


async def test_what_goes_out_behind_a_beat_does_so_even_when_the_beat_failed() -> None:
    behind = asyncio.Event()

    async def after() -> None:
        behind.set()

    heart = Heartbeat(Written(failures=1), lambda: RECORD, lambda _: None, after=after, settle=0)  # type: ignore[arg-type]
    stop = asyncio.Event()
    running = asyncio.create_task(heart.run(stop))
    async with asyncio.timeout(30):
        await behind.wait()
        stop.set()
        running.cancel()
        await asyncio.wait([running])


async def test_the_first_waits_until_tunnels_may_be_up() -> None:
    written, tunnels = Written(), 0
    heart = Heartbeat(
        written,  # type: ignore[arg-type]
        lambda: dataclasses.replace(RECORD, tunnels=tunnels),
        lambda _: None,
        settle=0.2,
    )
    stop = asyncio.Event()
    running = asyncio.create_task(heart.run(stop))
    await asyncio.sleep(0)
    tunnels = 2
    async with asyncio.timeout(30):
        await written.first.wait()
        stop.set()
        await running
    assert [record.tunnels for record in written.records] == [2]


def test_no_more_than_once_a_minute() -> None:
    assert EVERY >= 60
