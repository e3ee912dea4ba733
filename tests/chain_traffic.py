"""Pods that read without a pause, for the tests that change the chain under them."""

from __future__ import annotations

import asyncio
import http.client
from dataclasses import dataclass, field

from cloudtaser.demo.timing import PodClient

PAUSE = 0.02
"""Seconds between two reads: enough of them to notice what is lost, and other parts get their turn."""


@dataclass(eq=False)
class Reader:
    """One pod that pins one pod CA. Keeps its connection, or makes a new one for each read."""

    broker: str
    pod_ca: str
    token: str
    path: str
    keep_alive: bool = True
    good: int = 0
    bad: list[str] = field(default_factory=list)
    forgiving: bool = False
    """A connection that breaks is no failure while a part is being killed; a refusal is one all the same."""
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None

    def start(self) -> Reader:
        self._task = asyncio.create_task(self._run())
        return self

    async def stop(self) -> None:
        """Returns once the read under way is over."""
        self._stop.set()
        assert self._task is not None
        await self._task

    async def _run(self) -> None:
        client = PodClient(self.broker, self.pod_ca)
        client.token = self.token
        try:
            while not self._stop.is_set():
                await self._read(client)
                await asyncio.sleep(PAUSE)
        finally:
            client.close()

    async def _read(self, client: PodClient) -> None:
        try:
            if not self.keep_alive:
                client.close()
            status, body = await asyncio.to_thread(client.request, "GET", self.path)
        except (OSError, http.client.HTTPException) as error:
            client.close()
            if not self.forgiving:
                self.bad.append(repr(error))
            return
        if status == 200:
            self.good += 1
        else:
            self.bad.append(f"{status} {body.decode()}")
