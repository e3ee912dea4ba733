"""PartProcess: one program of the chain as a child process, with its log in a file.

Used by `chain`. Ends only what it started, and takes nothing for granted: a part that dies says so with the
last lines of its log.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from cloudtaser.errors import UnavailableError

STOP_TIMEOUT = 10.0
READY_TIMEOUT = 60.0
_POLL = 0.02
_LAST_LINES = 5


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
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.arguments,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C is for the demo, which then ends its parts in order
            )

    async def wait_until(
        self, ready: Callable[[], Awaitable[bool]], what: str, timeout: float = READY_TIMEOUT
    ) -> None:
        """Poll `ready` until it says so; UnavailableError when the process dies or time is up."""
        deadline = time.monotonic() + timeout
        while not await ready():
            if self._process is None or self._process.poll() is not None:
                raise UnavailableError(f"{self.name} ended early", on=self.last_lines())
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
        if process is None:
            return None
        process.send_signal(how)
        try:
            return await asyncio.to_thread(process.wait, STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            return await asyncio.to_thread(process.wait)

    def last_lines(self) -> str:
        """The end of its log, for the person who has to know why."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return "no log"
        return " | ".join(lines[-_LAST_LINES:]) or "nothing logged"
