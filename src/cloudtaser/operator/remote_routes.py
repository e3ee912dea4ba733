"""RemoteRoutes: the broker's tunnels as the manager's container sees them, through the Unix socket.

Used by `manager_container`, in the place of `routes.LinkRoutes`. One connection is a standing conversation,
by which we hear of tunnels and of how the broker is; each operator stream is a connection of its own. A
broker that is restarted is met again, with other tunnels.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

from cloudtaser.errors import CloudtaserError, ProtocolError, UnavailableError
from cloudtaser.net.dial import Backoff
from cloudtaser.net.log import get_logger
from cloudtaser.net.tls import reason
from cloudtaser.operator.enrolment import Reporter
from cloudtaser.operator.incidents import KEPT, Incident
from cloudtaser.operator.routes import Route
from cloudtaser.operator.seam import FRAME_SECONDS, frame, raise_failure, read_frame
from cloudtaser.operator.seam_dial import dial_seam, require_uid

MAX_ROUTES: Final = 64
CONNECT_SECONDS: Final = 5.0
SILENCE_SECONDS: Final = 30.0
"""The broker says every two seconds how it is; after so long without a word it is met anew."""

_log = get_logger("operator.remote_routes")


class RemoteRoute:
    """One of the broker's tunnels."""

    def __init__(self, path: str, broker_uid: int, number: int, bridge: str) -> None:
        self._path = path
        self._broker_uid = broker_uid
        self._number = number
        self._bridge = bridge
        self._leaving = False
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def number(self) -> int:
        """See Route."""
        return self._number

    @property
    def bridge(self) -> str:
        """See Route."""
        return self._bridge

    @property
    def draining(self) -> bool:
        """See Route."""
        return self._leaving or self._closed.done()

    @property
    def closed(self) -> asyncio.Future[None]:
        """See Route."""
        return self._closed

    async def open(self, protocol: asyncio.Protocol) -> None:
        """See Route."""
        question = {"what": "operator", "link": self._number}
        await dial_seam(self._path, self._broker_uid, question, protocol)

    def leave(self) -> None:
        """It takes no new streams from now on."""
        self._leaving = True

    def end(self) -> None:
        """It is gone."""
        if not self._closed.done():
            self._closed.set_result(None)


class RemoteRoutes:
    """All of them, as the broker said last. `run` keeps the conversation."""

    def __init__(self, path: str, broker_uid: int) -> None:
        self._path = path
        self._broker_uid = broker_uid
        self._routes: dict[int, RemoteRoute] = {}
        self._watchers: list[Callable[[Route], None]] = []
        self._writer: asyncio.StreamWriter | None = None
        self._reporter = Reporter()
        self.state: dict[str, Any] = {}
        """How the broker is, as it said last; empty while it is away."""

    @property
    def live(self) -> list[Route]:
        """See Routes."""
        return [route for route in self._routes.values() if not route.draining]

    @property
    def connected(self) -> bool:
        """Whether the broker is there."""
        return bool(self.state)

    def watch(self, watcher: Callable[[Route], None]) -> None:
        """See Routes."""
        self._watchers.append(watcher)

    def keys_changed(self) -> None:
        """See Routes. A broker that is away tells its bridges at its next start anyway."""
        if self._writer is not None:
            self._writer.write(frame({"type": "keys"}))

    async def run(self) -> None:
        """Until cancelled."""
        backoff, loop = Backoff(first=0.2, limit=4.0), asyncio.get_running_loop()
        while True:
            try:
                await self._converse(backoff)
            except CloudtaserError as error:
                if self._reporter.due(error.what, loop.time()):
                    _log.warning("the broker is away", error=error.diagnostic())
            finally:
                self._forget()
            await asyncio.sleep(backoff.next())

    async def incidents(self) -> list[Incident]:
        """What went wrong at the broker lately. UnavailableError when it is away, ProtocolError when it says
        something else."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                reader, writer = await asyncio.open_unix_connection(self._path)
        except (OSError, TimeoutError) as error:
            why = reason(error) if isinstance(error, OSError) else "no answer"
            raise UnavailableError(f"the broker's container is not there: {why}", on=self._path) from None
        try:
            require_uid(writer.transport, self._broker_uid, self._path)
            writer.write(frame({"what": "incidents"}))
            answer = await read_frame(reader, FRAME_SECONDS)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        raise_failure(answer)
        told = answer.get("incidents")
        if not isinstance(told, list):
            raise ProtocolError("the broker did not tell its incidents")
        found = [Incident.from_json(fields) for fields in told[-KEPT:]]
        return [incident for incident in found if incident is not None]

    async def _converse(self, backoff: Backoff) -> None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                reader, writer = await asyncio.open_unix_connection(self._path)
        except (OSError, TimeoutError) as error:
            why = reason(error) if isinstance(error, OSError) else "no answer"
            raise UnavailableError(f"the broker's container is not there: {why}", on=self._path) from None
        try:
            require_uid(writer.transport, self._broker_uid, self._path)
            writer.write(frame({"what": "links"}))
            self._writer = writer
            while True:
                self._heard(await read_frame(reader, SILENCE_SECONDS))
                backoff.reset()
        finally:
            self._writer = None
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _heard(self, fields: dict[str, Any]) -> None:
        match fields:
            case {"type": "up", "link": int(number), "bridge": str(bridge)}:
                if len(self._routes) >= MAX_ROUTES or number in self._routes:
                    raise ProtocolError("the broker names more tunnels than it can have")
                route = RemoteRoute(self._path, self._broker_uid, number, bridge[:128])
                self._routes[number] = route
                for watcher in self._watchers:
                    watcher(route)
            case {"type": "leaving", "link": int(number)} if number in self._routes:
                self._routes[number].leave()
            case {"type": "gone", "link": int(number)} if number in self._routes:
                self._routes.pop(number).end()
            case {"type": "state"}:
                self.state = fields
            case {"error": _}:
                raise_failure(fields)
            case _:
                pass  # a newer broker may say more

    def _forget(self) -> None:
        self.state = {}
        for number in list(self._routes):
            self._routes.pop(number).end()
