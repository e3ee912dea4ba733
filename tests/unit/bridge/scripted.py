"""A scripted OpenBao: each connection runs a few lines that say what to expect and what to answer.

Used by the tests of `upstream`, `session` and `turn`, where a real server cannot be made to misbehave.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

OK = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"data":{}}'


class Line:
    """One connection, seen from OpenBao."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.reader = reader
        self.writer = writer
        self.number = number

    async def head(self) -> bytes:
        """The next request's head."""
        return await self.reader.readuntil(b"\r\n\r\n")

    async def request(self) -> bytes:
        """The next request, head and body."""
        head = await self.head()
        lowered = head.lower()
        if b"transfer-encoding: chunked" in lowered:
            return head + await self.reader.readuntil(b"0\r\n\r\n")
        if b"content-length: " in lowered:
            length = int(lowered.split(b"content-length: ")[1].split(b"\r\n")[0])
            return head + await self.reader.readexactly(length)
        return head

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def hang_up(self) -> None:
        self.writer.transport.abort()


Script = Callable[[Line], Awaitable[None]]


@dataclass
class Scripted:
    """The server."""

    port: int = 0
    lines: list[Line] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[Scripted]:
    """A server that runs `script` for each connection. What a script raises fails the test; an end of input
    is its end."""
    server = Scripted()
    failures: list[Exception] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = Line(reader, writer, len(server.lines))
        server.lines.append(line)
        task = asyncio.current_task()
        assert task is not None
        server.tasks.add(task)
        try:
            await script(line)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        except Exception as error:  # noqa: BLE001  # raised again below, where the test sees it
            failures.append(error)
        finally:
            server.tasks.discard(task)
            writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in list(server.tasks):
            task.cancel()
        await asyncio.gather(*server.tasks, return_exceptions=True)
        for line in server.lines:
            line.writer.close()
            try:
                await line.writer.wait_closed()
            except ConnectionError:
                pass
        if failures:
            raise failures[0]


async def answers_everything(line: Line) -> None:
    """The simplest script."""
    while True:
        await line.request()
        await line.say(OK)
