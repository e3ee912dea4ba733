"""A very small HTTP listener: /metrics, /healthz, /readyz.

Used by `server`. It listens on loopback unless told otherwise, answers GET and HEAD, and closes after each
answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, cast

_MAX_REQUEST: Final = 8_192
_MAX_CLIENTS: Final = 64
_PATIENCE: Final = 5.0
Answer = tuple[int, str, str]  # status, content type, body
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Unavailable",
}


class _Client(asyncio.Protocol):
    def __init__(self, clients: set[_Client], pages: dict[str, Callable[[], Answer]]) -> None:
        self._clients = clients
        self._pages = pages
        self._request = b""
        self._answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        self._clients.add(self)
        self._deadline = asyncio.get_running_loop().call_later(_PATIENCE, self.abort)
        if len(self._clients) > _MAX_CLIENTS:
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._deadline.cancel()
        self._clients.discard(self)

    def data_received(self, data: bytes) -> None:
        if self._answered:
            return
        self._request += data
        if len(self._request) > _MAX_REQUEST:
            self._answer((400, "text/plain", "the request is too long\n"), head=False)
        elif b"\r\n\r\n" in self._request or b"\n\n" in self._request:
            method, _, rest = self._request.partition(b" ")
            path = rest.split(maxsplit=1)[0].split(b"?")[0].decode("latin-1") if rest.split() else ""
            if method not in (b"GET", b"HEAD"):
                self._answer((405, "text/plain", "GET or HEAD\n"), head=False)
            elif path not in self._pages:
                self._answer(
                    (404, "text/plain", f"there is {', '.join(self._pages)}\n"), head=method == b"HEAD"
                )
            else:
                self._answer(self._pages[path](), head=method == b"HEAD")

    def _answer(self, answer: Answer, *, head: bool) -> None:
        self._answered = True
        status, kind, text = answer
        body = text.encode()
        lines = (
            f"HTTP/1.1 {status} {_REASONS[status]}",
            f"Content-Type: {kind}; charset=utf-8",
            f"Content-Length: {len(body)}",
            "Connection: close",
        )
        self._transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + (b"" if head else body))
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()


class Probes:
    """The listener."""

    def __init__(self, pages: dict[str, Callable[[], Answer]]) -> None:
        self._pages = pages
        self._clients: set[_Client] = set()
        self._server: asyncio.Server | None = None
        self.address: tuple[str, int] | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen. OSError when the address cannot be had."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Client(self._clients, self._pages), host or None, port
        )
        name = self._server.sockets[0].getsockname()
        self.address = (name[0], name[1])

    def close(self) -> None:
        """Stop listening and drop whoever is connected."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for client in list(self._clients):
            client.abort()
