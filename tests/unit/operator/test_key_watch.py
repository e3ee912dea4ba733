"""The key watch tells when the cluster's keys change, once for each change, whatever happens in between."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from cloudtaser.errors import UnavailableError
from cloudtaser.operator.key_watch import KeyWatch

ONE, TWO = {"kid": "1", "kty": "EC"}, {"kid": "2", "kty": "EC"}


async def changes(*answers: Any) -> int:
    """How often a change was told while the API server gave these answers."""
    told: list[None] = []
    left = list(answers)
    done = asyncio.Event()

    async def read() -> dict[str, Any]:
        if not left:
            done.set()
            await asyncio.sleep(3600)
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return {"keys": answer}

    task = asyncio.ensure_future(KeyWatch(read, lambda: told.append(None), every=0.001).run())
    await asyncio.wait_for(done.wait(), 5)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return len(told)


async def test_the_first_look_is_no_change() -> None:
    assert await changes([ONE], [ONE]) == 0


async def test_each_change_is_told_once() -> None:
    assert await changes([ONE], [ONE, TWO], [ONE, TWO], [TWO], [TWO]) == 2


async def test_an_api_server_that_is_away_for_a_while_is_no_change() -> None:
    away = UnavailableError("the API server is away")
    assert await changes([ONE], away, away, [ONE]) == 0
    assert await changes([ONE], away, [TWO]) == 1
