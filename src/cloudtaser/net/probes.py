"""Probes: /healthz, /readyz and /metrics, for kubelet and Prometheus.

Used by bridge and operator on a TCP or Unix socket of their own. It answers GET and HEAD and nothing else,
one answer a connection, and serves a bounded number of connections for a bounded time each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, cast

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest

from cloudtaser.errors import UnavailableError
from cloudtaser.net.dial import Address
from cloudtaser.net.ends import NOWHERE
from cloudtaser.net.tls import reason
from cloudtaser.wire.http1 import HttpError, RequestHead, RequestParser, encode_response_head

MAX_CONNECTIONS: Final = 64
TIMEOUT: Final = 10.0
"""Seconds a connection may take for its request and its answer."""

_TEXT: Final = b"text/plain; charset=utf-8"
_METRICS: Final = b"text/plain; version=0.0.4; charset=utf-8"


class Probes:
    """The listener. `ready` is asked at each /readyz; /healthz says only that the loop turns."""

    def __init__(
        self,
        *,
        ready: Callable[[], bool],
        registry: CollectorRegistry = REGISTRY,
        details: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """`details`: lines for /readyz?verbose, none of them secret."""
        self._details = details
        self._ready = ready
        self._registry = registry
        self._servers: list[asyncio.Server] = []
        self.connections: set[asyncio.BaseTransport] = set()

    async def listen(self, where: Address | str, port: int = 0) -> tuple[str, int]:
        """Listen on a host and port, or on an Address; returns what was bound. UnavailableError if taken."""
        host, port = (where.host, where.port) if isinstance(where, Address) else (where, port)
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(lambda: _Connection(self), host or None, port)
        except OSError as error:
            raise UnavailableError(f"cannot listen: {reason(error)}", on=f"{host}:{port}") from None
        self._servers.append(server)
        bound = server.sockets[0].getsockname()
        return bound[0], bound[1]

    async def listen_unix(self, path: str) -> None:
        """Listen on a Unix socket. UnavailableError when that is not possible."""
        loop = asyncio.get_running_loop()
        try:
            self._servers.append(await loop.create_unix_server(lambda: _Connection(self), path))
        except OSError as error:
            raise UnavailableError(f"cannot listen: {reason(error)}", on=path) from None

    async def close(self) -> None:
        """Stop listening and close what is open."""
        for server in self._servers:
            server.close()
        for transport in list(self.connections):
            cast("asyncio.Transport", transport).abort()
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()

    def answer(self, path: bytes, query: bytes = b"") -> tuple[int, bytes, bytes]:
        """Status, content type and body for `path`."""
        if path == b"/healthz":
            return 200, _TEXT, b"ok\n"
        if path == b"/readyz":
            status, word = (200, "ready") if self._ready() else (503, "not ready")
            lines = (*(self._details() if query == b"verbose" else ()), word)
            return status, _TEXT, "".join(f"{line}\n" for line in lines).encode()
        if path == b"/metrics":
            return 200, _METRICS, generate_latest(self._registry)
        return 404, _TEXT, b"there are /healthz, /readyz and /metrics\n"


class _Connection(asyncio.Protocol):
    def __init__(self, probes: Probes) -> None:
        self._probes = probes
        self._parser = RequestParser(max_body=0)
        self._transport: asyncio.Transport = NOWHERE
        self._timer: asyncio.TimerHandle | None = None
        self._answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if len(self._probes.connections) >= MAX_CONNECTIONS:
            self._transport.abort()
            return
        self._probes.connections.add(transport)
        self._timer = asyncio.get_running_loop().call_later(TIMEOUT, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        if self._answered:
            return
        try:
            events = self._parser.receive(data)
        except HttpError as error:
            self._send(error.status, _TEXT, f"{error.what}\n".encode(), True)
            return
        for event in events:
            if isinstance(event, RequestHead):
                self._answer(event)
                return

    def connection_lost(self, exc: Exception | None) -> None:
        self._probes.connections.discard(self._transport)
        self._transport = NOWHERE
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _answer(self, head: RequestHead) -> None:
        if head.method not in (b"GET", b"HEAD"):
            self._send(405, _TEXT, b"only GET and HEAD\n", True)
            return
        path, _, query = head.target.partition(b"?")
        status, kind, body = self._probes.answer(path, query)
        self._send(status, kind, body, head.method == b"GET")

    def _send(self, status: int, kind: bytes, body: bytes, with_body: bool) -> None:
        self._answered = True
        headers = ((b"content-type", kind), (b"connection", b"close"))
        head = encode_response_head(status, headers, content_length=len(body))
        self._transport.write(head + body if with_body else head)
        self._transport.close()
