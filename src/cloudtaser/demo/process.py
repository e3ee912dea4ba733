"""Processes that the demo and the tests start: each with its log in a file, none left behind.

`PartProcess` is one program of the chain, for `chain`; `openbao` and `postgres` use `spawn` and `end` for
their servers. Ends only what it started, and takes nothing for granted: a part that dies says so with the
last lines of its log.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from cloudtaser.demo.guard import guard
from cloudtaser.errors import UnavailableError

STOP_TIMEOUT = 10.0
READY_TIMEOUT = 60.0
_POLL = 0.02
_LAST_LINES = 5


def spawn(
    arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None, **account: Any
) -> subprocess.Popen[bytes]:
    """Start a process whose output is added to `log`; `account` as Popen's `user`, `group`, `extra_groups`.

    It gets a session of its own: a Ctrl-C is for whoever started it, who then ends his parts in order.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            arguments,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            **account,
        )
    guard.watch(process.pid)
    return process


def end(process: subprocess.Popen[bytes], how: signal.Signals) -> int:
    """Send `how`, and SIGKILL when that has no effect in time; the exit status."""
    process.send_signal(how)
    try:
        status = process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        status = process.wait()
    guard.forget(process.pid)
    return status


async def start_in_thread(start: Callable[[], None], kill: Callable[[], None]) -> None:
    """Run a blocking `start` in a thread; when we are cancelled, `kill` what it starts until it gives up."""
    starting = asyncio.ensure_future(asyncio.to_thread(start))
    try:
        await asyncio.shield(starting)
    except asyncio.CancelledError:
        while not starting.done():
            kill()
            await asyncio.wait({starting}, timeout=_POLL)
        starting.exception()  # that it failed is what was wanted
        kill()
        raise


async def together(*starting: Coroutine[Any, Any, object]) -> None:
    """Run all at once. When one fails or we are cancelled, the others are cancelled and waited for, so that
    nothing is started behind the back of whoever cleans up.

    Each is cancelled once: a second time (as `asyncio.gather` would do) would interrupt its own cleaning up.
    """
    tasks = [asyncio.ensure_future(one) for one in starting]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        failed = [task for task in tasks if not task.cancelled() and task.exception()]
    for task in failed or tasks:
        task.result()


class PartProcess:
    """A program that can be started, killed and started again with the same arguments."""

    def __init__(
        self, name: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.arguments = list(arguments)
        self.log = log
        self._environment = dict(os.environ) | dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the running process; 0 when there is none."""
        return 0 if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it; its output is added to the log file."""
        self._process = spawn(self.arguments, self.log, self._environment)

    async def wait_until(
        self, ready: Callable[[], Awaitable[bool]], what: str, timeout: float = READY_TIMEOUT
    ) -> None:
        """Poll `ready` until it says so; UnavailableError when the process dies before that or time is up."""
        deadline = time.monotonic() + timeout
        ended = False
        while not await ready():
            if ended:  # and was not ready even at its end
                raise UnavailableError(f"{self.name} ended early", on=self.last_lines())
            ended = self._process is None or self._process.poll() is not None
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"{self.name} is not {what} after {timeout:.0f} s", on=self.last_lines()
                )
            await asyncio.sleep(_POLL)

    async def stop(self) -> int | None:
        """SIGTERM, then SIGKILL after a while; the exit status, None when it was not running."""
        return await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        await self._end(signal.SIGKILL)

    async def restart(self) -> None:
        """Kill it and start it again at once."""
        await self.kill()
        self.start()

    async def _end(self, how: signal.Signals) -> int | None:
        process, self._process = self._process, None
        return None if process is None else await asyncio.to_thread(end, process, how)

    def last_lines(self) -> str:
        """The end of its log, for the person who has to know why."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return "no log"
        return " | ".join(lines[-_LAST_LINES:]) or "nothing logged"
