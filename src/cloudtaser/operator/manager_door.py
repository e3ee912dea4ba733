"""ManagerDoor: the manager's Unix socket, at which the broker asks who we are, and brings connections.

Used by `manager_container`. One question a connection, few at a time. Whoever has not the broker's uid is cut
off before a byte is read. Exchanges with bridges run here: the broker passes their bytes, and is given what
came of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any, Final, Protocol

from cloudtaser.errors import CloudtaserError, ProtocolError, RefusedError, UnavailableError
from cloudtaser.net.log import get_logger
from cloudtaser.operator.enrolment import Reporter
from cloudtaser.operator.exchange import Certified
from cloudtaser.operator.exchanges import Exchange, Exchanges, TrustReader
from cloudtaser.operator.remote_exchanges import EXCHANGE_SECONDS, encode
from cloudtaser.operator.seam import FRAME_SECONDS, bind, failure, frame, peer_uid, read_frame, text
from cloudtaser.operator.succession import encode_lineage

MAX_CONNECTIONS: Final = 16
MAX_RESULTS: Final = 16
"""Ends of exchanges that wait to be asked for."""

_log = get_logger("operator.manager_door")


class Answerer(TrustReader, Protocol):
    """What answers: the manager."""

    fingerprint: str


class ManagerDoor:
    """The socket and who is at it."""

    def __init__(self, path: str, broker_uid: int, manager: Answerer, exchanges: Exchanges) -> None:
        self._exchanges = exchanges
        self._results: dict[str, asyncio.Future[Certified]] = {}
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
        handed_over = False
        try:
            question = await read_frame(reader, FRAME_SECONDS)
            if question.get("ask") in ("introduce", "come_back"):
                exchange = await self._exchange(question)
                handed_over = True
                await self._run(exchange, writer)
                return
            async with asyncio.timeout(EXCHANGE_SECONDS):
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
            if not handed_over:
                with contextlib.suppress(OSError, TimeoutError):
                    async with asyncio.timeout(FRAME_SECONDS):
                        await writer.wait_closed()

    async def _answer(self, question: dict[str, Any]) -> dict[str, Any]:
        match question.get("ask"):
            case "cluster":
                return {"fingerprint": self._manager.fingerprint}
            case "read_trust":
                trust = await self._manager.read_trust()
                if trust is None:
                    return {"tunnel_ca": ""}
                return {"tunnel_ca": trust.tunnel_ca, "lineage": encode_lineage(trust.lineage)}
            case "result":
                result = self._results.get(text(question, "id"))
                if result is None:
                    raise UnavailableError("there is no such exchange any more")
                return encode(await asyncio.shield(result))
        raise ProtocolError("the broker asked what no broker asks")

    async def _exchange(self, question: dict[str, Any]) -> Exchange:
        """What runs on the connection that the broker brings. It does not choose freely: never the first way
        again once a tunnel CA is pinned, and no other CA than that one or one that it descends from."""
        pinned = await self._manager.read_trust()
        if question["ask"] == "introduce":
            if pinned is not None:
                raise RefusedError("this cluster is initialised: it is to come back")
            return (await self._exchanges.introduce())()
        if pinned is None:
            raise RefusedError("this cluster is not initialised")
        return self._exchanges.come_back(pinned.ancestor(text(question, "tunnel_ca")))

    async def _run(self, exchange: Exchange, writer: asyncio.StreamWriter) -> None:
        """Let the exchange have the connection; what it ends with is kept for a while, to be asked for."""
        number = os.urandom(8).hex()
        result: asyncio.Future[Certified] = asyncio.get_running_loop().create_future()
        result.add_done_callback(_seen)
        self._results[number] = result
        while len(self._results) > MAX_RESULTS:
            self._results.pop(next(iter(self._results)))
        writer.write(frame({"ok": True, "id": number}))
        writer.transport.set_protocol(exchange)
        exchange.connection_made(writer.transport)
        try:
            async with asyncio.timeout(EXCHANGE_SECONDS):
                result.set_result(await exchange.finish())
        except CloudtaserError as error:
            result.set_exception(error)
        except TimeoutError:
            result.set_exception(UnavailableError(f"no end of an exchange within {EXCHANGE_SECONDS:g} s"))
        except asyncio.CancelledError:
            result.cancel()
            raise
        finally:
            exchange.close()
            loop = asyncio.get_running_loop()
            loop.call_later(EXCHANGE_SECONDS, self._results.pop, number, None)


def _seen(result: asyncio.Future[Certified]) -> None:
    """A broker that never asks leaves an exception that nobody retrieves."""
    if not result.cancelled():
        result.exception()
