"""Work: each key at one place at a time, as often as needed, never forgotten."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import structlog

from cloudtaser.errors import UnavailableError
from cloudtaser.kube.watch import Changes, Key
from cloudtaser.operator.controllers import work as work_module
from cloudtaser.operator.controllers.work import Reconcile, Work
from tests.unit.operator.rig import eventually

ONE, TWO = ("shop", "one"), ("shop", "two")


@contextlib.asynccontextmanager
async def working(reconcile: Reconcile, *, workers: int = 2) -> AsyncIterator[Changes]:
    changes, stop = Changes(100), asyncio.Event()
    task = asyncio.ensure_future(Work("Test", reconcile, workers=workers).run(stop, changes))
    yield changes
    stop.set()
    await task


async def test_what_changes_is_looked_at() -> None:
    seen: list[Key] = []

    async def reconcile(key: Key) -> None:
        seen.append(key)

    async with working(reconcile) as changes:
        changes.add(ONE)
        changes.add(TWO)
        await eventually(lambda: sorted(seen) == [ONE, TWO], "both")


async def test_a_key_is_at_one_place_at_a_time_and_looked_at_again_after_a_change() -> None:
    entered, leave = asyncio.Event(), asyncio.Event()
    at_once = most = calls = 0

    async def reconcile(key: Key) -> None:
        nonlocal at_once, most, calls
        if key == TWO:
            return
        at_once += 1
        most, calls = max(most, at_once), calls + 1
        entered.set()
        await leave.wait()
        at_once -= 1

    async with working(reconcile, workers=4) as changes:
        changes.add(ONE)
        await asyncio.wait_for(entered.wait(), 10)
        for _ in range(3):
            changes.add(ONE)
            changes.add(TWO)
            await asyncio.sleep(0.01)
        leave.set()
        await eventually(lambda: calls == 2, "once more")
    assert most == 1


async def test_a_failure_is_tried_again_and_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_module, "FIRST_DELAY", 0.01)
    failures, done = 3, set[Key]()

    async def reconcile(key: Key) -> None:
        nonlocal failures
        if key == ONE and failures:
            failures -= 1
            raise UnavailableError("not now")
        done.add(key)

    async with working(reconcile, workers=1) as changes:
        changes.add(ONE)
        changes.add(TWO)
        await eventually(lambda: done == {ONE, TWO}, "both in the end")
    assert failures == 0


async def test_who_wants_to_be_looked_at_again_is() -> None:
    calls = 0

    async def reconcile(key: Key) -> float | None:
        nonlocal calls
        calls += 1
        return 0.01 if calls < 4 else None

    async with working(reconcile) as changes:
        changes.add(ONE)
        await eventually(lambda: calls == 4, "four times")


async def test_a_fault_costs_only_its_own_object_is_logged_and_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(work_module, "FIRST_DELAY", 0.01)
    faults, done = 3, set[Key]()

    async def reconcile(key: Key) -> None:
        nonlocal faults
        if key == ONE and faults:
            faults -= 1
            raise RecursionError("what a tenant wrote")
        done.add(key)

    with structlog.testing.capture_logs() as lines:
        async with working(reconcile, workers=1) as changes:
            changes.add(ONE)
            changes.add(TWO)
            await eventually(lambda: done == {ONE, TWO}, "both in the end")
    assert len(lines) == 3
    assert "RecursionError at test_work.py:" in lines[0]["error"]
    assert "tenant" not in str(lines)
