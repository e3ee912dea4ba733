"""RemoteManager: the manager as the broker's container sees it, through the Unix socket.

Used by `broker_container` and `remote_exchanges`. One question a connection: the manager may be
restarted at any time, and whoever asks tries again anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

from cloudtaser.errors import CloudtaserError, UnavailableError
from cloudtaser.net.dial import Backoff
from cloudtaser.net.log import get_logger
from cloudtaser.net.tls import reason
from cloudtaser.operator.enrolment import Reporter
from cloudtaser.operator.seam import (
    ANSWER_SECONDS,
    FRAME_SECONDS,
    frame,
    raise_failure,
    read_frame,
    text,
)
from cloudtaser.operator.seam_dial import require_uid
from cloudtaser.operator.trust import Trust
from cloudtaser.wire.hashes import check_fingerprint

CONNECT_SECONDS: Final = 5.0

_log = get_logger("operator.remote_manager")


class RemoteManager:
    """Questions over the socket. Raises what the manager raised, UnavailableError when it is not there."""

    def __init__(self, path: str, manager_uid: int) -> None:
        self.path = path
        self.uid = manager_uid
        self.known_fingerprint = ""
        """The cluster's, once `fingerprint` has been asked."""

    async def fingerprint(self, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> str:
        """The cluster's, as the manager learnt it. Waits for the manager as long as it takes."""
        backoff, reporter = Backoff(first=0.2, limit=5.0), Reporter()
        while True:
            try:
                answer = await self.ask({"ask": "cluster"})
                self.known_fingerprint = check_fingerprint(text(answer, "fingerprint"))
                return self.known_fingerprint
            except CloudtaserError as error:
                if reporter.due(error.what, asyncio.get_running_loop().time()):
                    _log.info("waiting for the manager", error=error.diagnostic())
                await sleep(backoff.next())

    async def read_trust(self) -> Trust | None:
        """The pinned tunnel CA, or None when the cluster was never initialised."""
        answer = await self.ask({"ask": "read_trust"})
        if not text(answer, "tunnel_ca"):
            return None
        return Trust.from_pem(text(answer, "tunnel_ca"), text(answer, "lineage"), self.known_fingerprint)

    async def ask(self, question: dict[str, Any], seconds: float = ANSWER_SECONDS) -> dict[str, Any]:
        """One question and its answer, within `seconds`."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                reader, writer = await asyncio.open_unix_connection(self.path)
        except (OSError, TimeoutError) as error:
            why = reason(error) if isinstance(error, OSError) else "no answer"
            raise UnavailableError(f"the manager's container is not there: {why}", on=self.path) from None
        try:
            require_uid(writer.transport, self.uid, self.path)
            writer.write(frame(question))
            answer = await read_frame(reader, FRAME_SECONDS + seconds)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        raise_failure(answer)
        return answer
