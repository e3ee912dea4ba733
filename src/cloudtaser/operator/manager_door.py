"""ManagerDoor: the manager's Unix socket, at which the broker asks; everything of `ManagerApi`, nothing else.

Used by `manager_container`. One question a connection, few at a time. Whoever has not the broker's uid is cut
off before a byte is read. The broker is not believed: the trust it wants stored is verified anew here.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final, Protocol

from cloudtaser.errors import CloudtaserError, ProtocolError
from cloudtaser.net.log import get_logger
from cloudtaser.operator.enrolment import Reporter
from cloudtaser.operator.manager import ManagerApi
from cloudtaser.operator.seam import (
    ANSWER_SECONDS,
    FRAME_SECONDS,
    bind,
    failure,
    frame,
    peer_uid,
    read_frame,
    text,
)
from cloudtaser.operator.succession import encode_lineage
from cloudtaser.operator.trust import Trust

MAX_CONNECTIONS: Final = 8

_log = get_logger("operator.manager_door")


class Answerer(ManagerApi, Protocol):
    """What answers: the manager."""

    fingerprint: str


class ManagerDoor:
    """The socket and who is at it."""

    def __init__(self, path: str, broker_uid: int, manager: Answerer) -> None:
        self._path = path
        self._broker_uid = broker_uid
        self._manager = manager
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._reporter = Reporter()
        self.asked = 0
        """Questions answered so far."""

    async def start(self) -> None:
        """Listen. ConfigError when the socket cannot be made."""
        self._server = await asyncio.start_unix_server(self._met, sock=bind(self._path))

    async def close(self) -> None:
        """Stop listening and cut what is open."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        uid = peer_uid(writer.transport)
        if uid != self._broker_uid or len(self._tasks) >= MAX_CONNECTIONS:
            if self._reporter.due(f"uid {uid}", asyncio.get_running_loop().time()):
                _log.warning("a connection that is not the broker's was cut", uid=uid)
            writer.transport.abort()
            return
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            question = await read_frame(reader, FRAME_SECONDS)
            async with asyncio.timeout(ANSWER_SECONDS):
                writer.write(frame(await self._answer(question)))
                self.asked += 1
        except CloudtaserError as error:
            with contextlib.suppress(CloudtaserError):
                writer.write(frame(failure(error)))
            if self._reporter.due(error.what, asyncio.get_running_loop().time()):
                _log.warning("the broker's question was not answered", error=error.diagnostic())
        except TimeoutError:
            _log.warning("the broker's question took too long")
        finally:
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(FRAME_SECONDS):
                    await writer.wait_closed()

    async def _answer(self, question: dict[str, Any]) -> dict[str, Any]:
        match question.get("ask"):
            case "cluster":
                return {"fingerprint": self._manager.fingerprint}
            case "introduction":
                introduction = await self._manager.introduction()
                return {
                    "issuer": introduction.issuer,
                    "jwks": introduction.jwks,
                    "cluster_ca": introduction.cluster_ca,
                    "subject": introduction.subject,
                }
            case "channel_token":
                h, spki = _bytes(question, "h"), _bytes(question, "spki")
                token = await self._manager.channel_token(h, spki)
                return {"token": token.reveal_text()}
            case "read_trust":
                trust = await self._manager.read_trust()
                if trust is None:
                    return {"tunnel_ca": ""}
                return {"tunnel_ca": trust.tunnel_ca, "lineage": encode_lineage(trust.lineage)}
            case "keep":
                trust = Trust.from_pem(
                    text(question, "tunnel_ca"), text(question, "lineage"), self._manager.fingerprint
                )
                await self._manager.keep(trust, text(question, "pod_ca"), text(question, "former_pod_cas"))
                return {}
        raise ProtocolError("the broker asked what no broker asks")


def _bytes(fields: dict[str, Any], name: str) -> bytes:
    try:
        return bytes.fromhex(text(fields, name))
    except ValueError:
        raise ProtocolError(f"a frame's {name!r} is not hexadecimal") from None
