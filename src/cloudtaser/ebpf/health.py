"""Health: /healthz, /readyz, /metrics and /status over HTTP; the agent's only network listener, on loopback
unless told.

GET and HEAD, one answer a connection, bounded in size, number and time. Standard library alone, as the whole
agent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from cloudtaser.errors import UnavailableError

Page = tuple[int, str, str]
"""Status, content type, body."""

_MAX_REQUEST: Final = 8192
_MAX_CLIENTS: Final = 64
_PATIENCE: Final = 5.0  # seconds
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}


class Health:
    """The listener; `pages` are made when they are asked for."""

    def __init__(self, pages: dict[str, Callable[[], Page]]) -> None:
        self._pages = pages
        self._clients = 0
        self._server: asyncio.Server | None = None

    async def listen(self, host: str, port: int) -> int:
        """The port that was bound. Raises `UnavailableError`."""
        try:
            self._server = await asyncio.start_server(self._serve, host or None, port, limit=_MAX_REQUEST)
        except OSError as error:
            raise UnavailableError(f"cannot listen: {error.strerror}", on=f"{host}:{port}") from None
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        try:
            if self._clients <= _MAX_CLIENTS:
                async with asyncio.timeout(_PATIENCE):
                    writer.write(await self._answer(reader))
                    await writer.drain()
        except (OSError, TimeoutError):
            pass
        finally:
            self._clients -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return response((400, "text/plain", "no HTTP request of 8 KiB at most\n"), head=False)
        return response(*self.page(head))

    def page(self, head: bytes) -> tuple[Page, bool]:
        """What a request's head gets, and whether without its body."""
        method, _, rest = head.partition(b" ")
        path = rest.split(b" ", 1)[0].split(b"?", 1)[0].decode("latin-1")
        if method not in (b"GET", b"HEAD"):
            return (405, "text/plain", "GET or HEAD\n"), False
        made = self._pages.get(path)
        if made is None:
            return (404, "text/plain", f"there is {', '.join(self._pages)}\n"), method == b"HEAD"
        return made(), method == b"HEAD"


def response(page: Page, head: bool) -> bytes:
    """The whole answer."""
    status, kind, text = page
    body = text.encode()
    lines = (
        f"HTTP/1.1 {status} {_REASONS[status]}",
        f"Content-Type: {kind}; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (b"" if head else body)
