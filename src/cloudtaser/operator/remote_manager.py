"""RemoteManager: the manager as the broker's container sees it, through the Unix socket.

Used by `broker_container`, in the place of `manager.Manager`. One question a connection: the manager may be
restarted at any time, and whoever asks tries again anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from cloudtaser.errors import CloudtaserError, ProtocolError, RefusedError, UnavailableError
from cloudtaser.net.dial import Backoff
from cloudtaser.net.log import get_logger
from cloudtaser.net.tls import reason
from cloudtaser.operator.enrolment import Reporter
from cloudtaser.operator.manager import Introduction
from cloudtaser.operator.seam import (
    ANSWER_SECONDS,
    FRAME_SECONDS,
    frame,
    peer_uid,
    raise_failure,
    read_frame,
    text,
)
from cloudtaser.operator.succession import encode_lineage
from cloudtaser.operator.trust import Trust
from cloudtaser.secret import Secret
from cloudtaser.wire.hashes import check_fingerprint

CONNECT_SECONDS: Final = 5.0

_log = get_logger("operator.remote_manager")


class RemoteManager:
    """ManagerApi over the socket. Raises what the manager raised, UnavailableError when it is not there."""

    def __init__(self, path: str, manager_uid: int) -> None:
        self._path = path
        self._manager_uid = manager_uid
        self._fingerprint = ""

    async def fingerprint(self, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> str:
        """The cluster's, as the manager learnt it. Waits for the manager as long as it takes."""
        backoff, reporter = Backoff(first=0.2, limit=5.0), Reporter()
        while True:
            try:
                answer = await self._ask({"ask": "cluster"})
                self._fingerprint = check_fingerprint(text(answer, "fingerprint"))
                return self._fingerprint
            except CloudtaserError as error:
                if reporter.due(error.what, asyncio.get_running_loop().time()):
                    _log.info("waiting for the manager", error=error.diagnostic())
                await sleep(backoff.next())

    async def introduction(self) -> Introduction:
        """See ManagerApi."""
        answer = await self._ask({"ask": "introduction"})
        jwks = answer.get("jwks")
        if not isinstance(jwks, dict):
            raise ProtocolError("the manager's introduction has no keys")
        return Introduction(
            issuer=text(answer, "issuer"),
            jwks=cast("dict[str, Any]", jwks),
            cluster_ca=text(answer, "cluster_ca"),
            subject=text(answer, "subject"),
        )

    async def channel_token(self, handshake_hash: bytes, spki: bytes) -> Secret:
        """See ManagerApi."""
        answer = await self._ask({"ask": "channel_token", "h": handshake_hash.hex(), "spki": spki.hex()})
        return Secret(text(answer, "token"))

    async def read_trust(self) -> Trust | None:
        """See ManagerApi."""
        answer = await self._ask({"ask": "read_trust"})
        if not text(answer, "tunnel_ca"):
            return None
        return Trust.from_pem(text(answer, "tunnel_ca"), text(answer, "lineage"), self._fingerprint)

    async def keep(self, trust: Trust, pod_ca: str, former_pod_cas: str = "") -> None:
        """See ManagerApi."""
        await self._ask(
            {
                "ask": "keep",
                "tunnel_ca": trust.tunnel_ca,
                "lineage": encode_lineage(trust.lineage),
                "pod_ca": pod_ca,
                "former_pod_cas": former_pod_cas,
            }
        )

    async def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                reader, writer = await asyncio.open_unix_connection(self._path)
        except (OSError, TimeoutError) as error:
            why = reason(error) if isinstance(error, OSError) else "no answer"
            raise UnavailableError(f"the manager's container is not there: {why}", on=self._path) from None
        try:
            uid = peer_uid(writer.transport)
            if uid != self._manager_uid:
                raise RefusedError(
                    f"who listens there has uid {uid}, not the manager's {self._manager_uid}", on=self._path
                )
            writer.write(frame(question))
            answer = await read_frame(reader, FRAME_SECONDS + ANSWER_SECONDS)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        raise_failure(answer)
        return answer
