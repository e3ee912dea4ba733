"""A heartbeat beats, measures, and tells once that nobody answers."""

from __future__ import annotations

import asyncio

from cloudtaser.net.heartbeat import Heartbeat


async def test_silence_after_as_many_pings_as_may_be_missed_is_death() -> None:
    sent: list[int] = []
    dead = asyncio.Event()

    def send() -> int:
        sent.append(len(sent))
        return sent[-1]

    heartbeat = Heartbeat(0.01, 3, send, dead.set)
    heartbeat.beat()
    await dead.wait()
    assert sent == [0, 1, 2, 3]
    assert heartbeat.round_trip is None


async def test_any_byte_is_a_sign_of_life_and_an_answer_a_measure() -> None:
    dead = asyncio.Event()
    heartbeat: Heartbeat
    count = 0
    enough = asyncio.Event()

    def send() -> int:
        nonlocal count
        count += 1
        asyncio.get_running_loop().call_soon(heartbeat.heard)
        if count == 8:
            asyncio.get_running_loop().call_soon(heartbeat.answered, count)
            asyncio.get_running_loop().call_soon(enough.set)
        return count

    heartbeat = Heartbeat(0.005, 2, send, dead.set)
    heartbeat.beat()
    await enough.wait()
    heartbeat.stop()
    assert not dead.is_set()
    assert heartbeat.round_trip is not None
    heartbeat.answered(12345)
