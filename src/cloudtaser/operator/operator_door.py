"""OperatorDoor: the broker's Unix socket, at which its manager hears of tunnels and opens operator streams.

Used by `broker_container`. A connection begins with one frame: `links` makes it a conversation (which tunnels
there are, how the broker is; from the manager the hint that signing keys changed), `operator` a stream of
that kind on one tunnel, whose TLS is the manager's own, `incidents` gets one frame with what went wrong
lately. Who has not the manager's uid is cut off unheard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from cloudtaser.errors import CloudtaserError, ProtocolError, UnavailableError
from cloudtaser.net.log import get_logger
from cloudtaser.net.splice import Splice
from cloudtaser.operator.enrolment import Reporter
from cloudtaser.operator.incidents import Incident
from cloudtaser.operator.seam import FRAME_SECONDS, Frames, bind, failure, frame, peer_uid
from cloudtaser.operator.tunnels import Link, Tunnels
from cloudtaser.wire.opening import Kind, Opening

MAX_CONNECTIONS: Final = 64
MAX_QUESTION: Final = 4096
STATE_SECONDS: Final = 2.0
IDLE_SECONDS: Final = 600.0
_UNSENT_LIMIT: Final = 64 * 1024

_log = get_logger("operator.operator_door")


class OperatorDoor:
    """The socket and who is at it."""

    def __init__(
        self,
        path: str,
        manager_uid: int,
        tunnels: Tunnels,
        *,
        state: Callable[[], dict[str, Any]],
        on_keys: Callable[[], None],
        incidents: Callable[[], Sequence[Incident]] = tuple,
        state_seconds: float = STATE_SECONDS,
    ) -> None:
        """`state` is told every `state_seconds`; `on_keys` is called when the manager saw other keys;
        `incidents` are told to who asks."""
        self.incidents = incidents
        self.tunnels = tunnels
        self.state = state
        self.on_keys = on_keys
        self._path = path
        self._manager_uid = manager_uid
        self._state_seconds = state_seconds
        self._server: asyncio.Server | None = None
        self._task: asyncio.Task[None] | None = None
        self._reporter = Reporter()
        self.connections: set[_Visitor] = set()
        tunnels.watch(self._up)

    async def start(self) -> None:
        """Listen. ConfigError when the socket cannot be made."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Visitor(self), sock=bind(self._path))
        self._task = asyncio.ensure_future(self._tell_state())

    async def close(self) -> None:
        """Stop listening and cut what is open."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._server is not None:
            self._server.close()
        for visitor in list(self.connections):
            visitor.cut()

    def admit(self, transport: asyncio.BaseTransport) -> bool:
        """Whether who connected may say something."""
        uid = peer_uid(transport)
        if uid == self._manager_uid and len(self.connections) < MAX_CONNECTIONS:
            return True
        if self._reporter.due(f"uid {uid}", asyncio.get_running_loop().time()):
            _log.warning("a connection that is not the manager's was cut", uid=uid)
        return False

    def link(self, number: object) -> Link:
        """The live link of that number; UnavailableError when there is none."""
        for link in self.tunnels.live:
            if link.number == number:
                return link
        raise UnavailableError(f"tunnel {number} takes no new streams")

    def _up(self, link: Link) -> None:
        self._tell(up(link))
        link.leaving.add_done_callback(lambda _: self._tell({"type": "leaving", "link": link.number}))
        link.tunnel.closed.add_done_callback(lambda _: self._tell({"type": "gone", "link": link.number}))

    def _tell(self, fields: dict[str, Any]) -> None:
        for visitor in list(self.connections):
            visitor.tell(fields)

    async def _tell_state(self) -> None:
        while True:
            self._tell({"type": "state"} | self.state())
            await asyncio.sleep(self._state_seconds)


def up(link: Link) -> dict[str, Any]:
    """What is told of a link that takes streams."""
    return {"type": "up", "link": link.number, "bridge": link.bridge}


class _Visitor(asyncio.Protocol):
    """One connection of the manager's."""

    def __init__(self, door: OperatorDoor) -> None:
        self._door = door
        self._frames = Frames(MAX_QUESTION)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._splice: Splice | None = None
        self._listens = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if not self._door.admit(transport):
            self._transport.abort()
            return
        self._door.connections.add(self)
        self._timer = asyncio.get_running_loop().call_later(FRAME_SECONDS, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        if self not in self._door.connections:
            return
        self._frames.feed(data)
        try:
            while self._splice is None and (fields := self._frames.next()) is not None:
                self._heard(fields)
        except CloudtaserError as error:
            self._refuse(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()

    def cut(self) -> None:
        """End it now."""
        if self._splice is not None:
            self._splice.abort(UnavailableError("the broker stops"))
        elif self._transport is not None:
            self._transport.abort()

    def tell(self, fields: dict[str, Any]) -> None:
        """One frame for a manager that listens; one that does not read is cut off, and comes again."""
        transport = self._transport
        if not self._listens or transport is None:
            return
        if transport.get_write_buffer_size() > _UNSENT_LIMIT:
            transport.abort()
            return
        transport.write(frame(fields))

    def _heard(self, fields: dict[str, Any]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._listens and fields.get("type") == "keys":
            self._door.on_keys()
        elif not self._listens and fields.get("what") == "links":
            self._listens = True
            for link in self._door.tunnels.live:
                self.tell(up(link))
            self.tell({"type": "state"} | self._door.state())
        elif not self._listens and fields.get("what") == "operator":
            self._open(fields)
        elif not self._listens and fields.get("what") == "incidents":
            self._answer({"incidents": [incident.to_json() for incident in self._door.incidents()]})
        else:
            raise ProtocolError("the manager said what no manager says")

    def _open(self, fields: dict[str, Any]) -> None:
        assert self._transport is not None
        link = self._door.link(fields.get("link"))
        splice = Splice(idle_timeout=IDLE_SECONDS, on_end=lambda _: self._forget())
        try:
            link.tunnel.open(Opening(Kind.OPERATOR, id=f"operator-{link.number}"), splice.second)
        except CloudtaserError:
            splice.abort()
            raise
        self._splice = splice
        self._transport.write(frame({"ok": True}))
        self._transport.set_protocol(splice.first)
        splice.first.connection_made(self._transport)
        if self._frames.rest:
            splice.first.data_received(self._frames.rest)

    def _refuse(self, error: CloudtaserError) -> None:
        self._answer(failure(error))

    def _answer(self, fields: dict[str, Any]) -> None:
        assert self._transport is not None
        self._transport.write(frame(fields))
        self._transport.close()

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._door.connections.discard(self)
        self._transport = None
