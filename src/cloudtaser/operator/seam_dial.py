"""SeamDial: a connection to the other container that is asked for by a frame, and then is somebody else's.

Used by `remote_routes` (an operator stream) and `remote_exchanges` (an exchange).
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from cloudtaser.errors import CloudtaserError, RefusedError, UnavailableError
from cloudtaser.net.tls import reason
from cloudtaser.operator.seam import FRAME_SECONDS, Frames, frame, peer_uid, raise_failure

CONNECT_SECONDS = 5.0


async def dial_seam(
    path: str, uid: int, question: dict[str, Any], protocol: asyncio.Protocol
) -> dict[str, Any]:
    """Connect `protocol` to whoever listens at `path` as `uid` and grants the question; the answer.

    UnavailableError, and whatever the other side raised.
    """
    dial = SeamDial(uid, path, question, protocol)
    try:
        async with asyncio.timeout(CONNECT_SECONDS + FRAME_SECONDS):
            await asyncio.get_running_loop().create_unix_connection(lambda: dial, path)
            return await dial.connected
    except (OSError, TimeoutError) as error:
        dial.abort()
        why = reason(error) if isinstance(error, OSError) else "no answer"
        raise UnavailableError(f"the other container is not there: {why}", on=path) from None
    except asyncio.CancelledError:
        dial.abort()
        raise


class SeamDial(asyncio.Protocol):
    """Asks; once it is granted, `protocol` takes the connection over. `connected` is the answer."""

    def __init__(self, uid: int, path: str, question: dict[str, Any], protocol: asyncio.Protocol) -> None:
        self._uid = uid
        self._path = path
        self._question = question
        self._protocol = protocol
        self._frames = Frames(4096)
        self._transport: asyncio.Transport | None = None
        self.connected: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        try:
            require_uid(transport, self._uid, self._path)
        except RefusedError as error:
            self._fail(error)
            return
        self._transport.write(frame(self._question))

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        if transport is None or self.connected.done():
            return
        self._frames.feed(data)
        try:
            answer = self._frames.next()
            if answer is None:
                return
            raise_failure(answer)
        except CloudtaserError as error:
            self._fail(error)
            return
        transport.set_protocol(self._protocol)
        self._protocol.connection_made(transport)
        if self._frames.rest:
            self._protocol.data_received(self._frames.rest)
        self.connected.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(UnavailableError("the other container closed the connection"))

    def abort(self) -> None:
        """Nobody waits for it any more."""
        if self._transport is not None:
            self._transport.abort()
        if not self.connected.done():
            self.connected.cancel()

    def _fail(self, error: CloudtaserError) -> None:
        if not self.connected.done():
            self.connected.set_exception(error)
            self.connected.exception()
        if self._transport is not None:
            self._transport.abort()


def require_uid(transport: asyncio.BaseTransport, wanted: int, where: str) -> None:
    """RefusedError unless the process at the other end has that uid."""
    uid = peer_uid(transport)
    if uid != wanted:
        raise RefusedError(f"who listens there has uid {uid}, not {wanted}", on=where)
