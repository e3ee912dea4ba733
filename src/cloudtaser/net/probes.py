"""Probes: `/healthz`, `/readyz` and `/metrics` on a TCP port of their own.

Used by operator and bridge (the beacon, which needs uvloop and nothing else, has its own lines). A request
is answered and the connection closed; a few at a time, each for a short while. Nothing here is secret, and
nothing of what a caller sends is used but the path.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from cloudtaser.errors import ProtocolError, UnavailableError
from cloudtaser.wire.http1 import RequestHead, RequestParser, encode_response_head

TIMEOUT: Final = 5.0
CONNECTIONS: Final = 64

_TEXT: Final = "text/plain; charset=utf-8"
_JSON: Final = "application/json"


class Probes:
    """One listener. `ready` says whether the program can do its work; `detail` is for `/readyz?verbose`."""

    def __init__(
        self,
        *,
        ready: Callable[[], bool],
        registry: CollectorRegistry,
        detail: Callable[[], Mapping[str, object]] | None = None,
    ) -> None:
        self._ready = ready
        self._registry = registry
        self._detail = detail
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Transport] = set()

    async def listen(self, host: str, port: int) -> int:
        """Listen; returns the port. UnavailableError when the address cannot be had."""
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(lambda: _Connection(self), host, port)
        except OSError as error:
            where = f"{host}:{port}"
            raise UnavailableError(f"cannot listen: {error.strerror or error}", on=where) from None
        taken: int = self._server.sockets[0].getsockname()[1]
        return taken

    async def close(self) -> None:
        """Stop listening and end what is open."""
        if self._server is None:
            return
        self._server.close()
        for transport in list(self._open):
            transport.abort()
        await self._server.wait_closed()
        self._server = None

    def admit(self, transport: asyncio.Transport) -> bool:
        """Whether one more connection is taken."""
        if len(self._open) >= CONNECTIONS:
            return False
        self._open.add(transport)
        return True

    def forget(self, transport: asyncio.Transport) -> None:
        """A connection is over."""
        self._open.discard(transport)

    def answer(self, method: bytes, target: bytes) -> tuple[int, str, bytes]:
        """Status, content type and body for a request."""
        path, _, query = target.partition(b"?")
        if method not in (b"GET", b"HEAD"):
            return 405, _TEXT, b"GET only\n"
        if path == b"/healthz":
            return 200, _TEXT, b"ok\n"
        if path == b"/readyz":
            ready = self._ready()
            if query == b"verbose" and self._detail is not None:
                body = json.dumps({"ready": ready, **self._detail()}).encode() + b"\n"
                return (200 if ready else 503), _JSON, body
            return (200, _TEXT, b"ok\n") if ready else (503, _TEXT, b"not ready\n")
        if path == b"/metrics":
            return 200, CONTENT_TYPE_LATEST, generate_latest(self._registry)
        return 404, _TEXT, b"/healthz, /readyz and /metrics are here\n"


class _Connection(asyncio.Protocol):
    """One request, one answer."""

    def __init__(self, probes: Probes) -> None:
        self._probes = probes
        self._parser = RequestParser()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's is one in all but class
        assert self._transport is not None
        if not self._probes.admit(self._transport):
            self._transport.abort()
            return
        self._timer = asyncio.get_running_loop().call_later(TIMEOUT, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        try:
            events = self._parser.receive(data)
        except ProtocolError:
            self._send(400, _TEXT, b"bad request\n")
            return
        for event in events:
            if isinstance(event, RequestHead):
                status, kind, body = self._probes.answer(event.method, event.target)
                self._send(status, kind, body, head_only=event.method == b"HEAD")
                return

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._probes.forget(self._transport)

    def _send(self, status: int, kind: str, body: bytes, *, head_only: bool = False) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        headers = ((b"content-type", kind.encode()), (b"connection", b"close"))
        head = encode_response_head(status, headers, content_length=len(body))
        self._transport.write(head if head_only else head + body)
        self._transport.close()
