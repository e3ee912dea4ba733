"""The loop, on a clock that the test moves and pipes that it fills."""

from __future__ import annotations

import os

import pytest

from cloudtaser.wrapper.loop import READ, Loop, Wait


async def value_of(wait: Wait) -> bool:
    return await wait


def test_a_wait_ends_with_what_it_waited_for() -> None:
    loop = Loop()
    reading, writing = os.pipe()
    try:
        os.write(writing, b"x")
        assert loop.run(loop.spawn(value_of(Wait(reading, READ, None)))) is True
        os.read(reading, 1)
        assert loop.run(loop.spawn(value_of(Wait(reading, READ, loop.now())))) is False
    finally:
        os.close(reading)
        os.close(writing)


def test_one_task_can_wake_another() -> None:
    loop = Loop()
    sleeper = loop.spawn(value_of(loop.until(None)))

    async def waker() -> None:
        await loop.sleep(0)
        sleeper.wake()
        await loop.until(None)

    loop.spawn(waker())
    assert loop.run(sleeper) is True


def test_the_first_task_that_ends_ends_the_run_and_errors_come_out() -> None:
    loop = Loop()

    async def failing() -> None:
        await loop.sleep(0)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        loop.run(loop.spawn(value_of(loop.until(None))), loop.spawn(failing()))


def test_a_cancelled_task_cleans_up_and_ends() -> None:
    loop = Loop()
    cleaned: list[bool] = []

    async def careful() -> None:
        try:
            await loop.until(None)
        finally:
            cleaned.append(True)

    task = loop.spawn(careful())
    task.cancel()
    assert task.done
    assert cleaned == [True]
    assert loop.run(task) is None


def test_a_turn_does_not_spin_before_a_deadline() -> None:
    now = 100.0
    turns = 0

    def clock() -> float:
        nonlocal now, turns
        turns += 1
        now += 0.01
        return now

    loop = Loop(clock)
    loop.run(loop.spawn(value_of(loop.until(100.5))))
    assert turns < 200
