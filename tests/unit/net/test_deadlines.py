"""Deadlines expire once, replaced and dropped ones do not, with one timer for all."""

from __future__ import annotations

import asyncio

import pytest

from cloudtaser.net import deadlines as module
from cloudtaser.net.deadlines import Deadlines


async def test_what_is_not_dropped_expires_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SWEEP", 0.02)
    expired: list[int] = []
    done = asyncio.Event()

    def note(number: int) -> None:
        expired.append(number)
        if number == 3:
            done.set()

    deadlines = Deadlines(note)
    deadlines.set(1, 0.01)
    deadlines.set(2, 0.01)
    deadlines.set(3, 0.06)
    deadlines.drop(2)
    deadlines.drop(99)
    await done.wait()
    assert expired == [1, 3]
    deadlines.set(4, 0.01)
    deadlines.clear()
    await asyncio.sleep(0.03)
    assert expired == [1, 3]
