"""Upstream: a bounded pool of keep-alive connections to OpenBao, streaming both ways.

Used by `session` for every request it passes on, and by itself to know how OpenBao is. Callbacks, no task and
no future for a request: `Upstream.send` gives an `Exchange` to push a body into, its `Receiver` gets the
answer's events as they come. A request is sent twice only if it changes nothing, had gone out whole over a
connection kept from earlier, and not a byte came back. Redirects are never followed.
"""

from __future__ import annotations

import asyncio
import ssl
import urllib.parse
from collections import deque
from typing import Final

from cloudtaser.bridge.exchange import Connection, Exchange, Receiver
from cloudtaser.errors import CloudtaserError, ConfigError, UnavailableError

MAX_CONNECTIONS: Final = 64
MAX_WAITING: Final = 1024
CONNECT_TIMEOUT: Final = 5.0
WAIT_TIMEOUT: Final = 10.0
"""Seconds a request may wait for a connection."""
IDLE_TIMEOUT: Final = 60.0
"""Seconds after which a kept connection is not used again."""

_UNREACHABLE: Final = "OpenBao cannot be reached from the bridge"
_FIX: Final = "check that it runs and the bridge's --vault-addr"


class Upstream:
    """OpenBao, as one address. Make it inside a running loop."""

    def __init__(
        self,
        address: str,
        *,
        ca_file: str | None = None,
        max_connections: int = MAX_CONNECTIONS,
        max_waiting: int = MAX_WAITING,
        connect_timeout: float = CONNECT_TIMEOUT,
        wait_timeout: float = WAIT_TIMEOUT,
        idle_timeout: float = IDLE_TIMEOUT,
    ) -> None:
        """`address` is http:// or https://host:port; `ca_file` replaces the system's roots."""
        self._host, self._port, self._context = _read_address(address, ca_file)
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.authority = f"{host}:{self._port}"
        """Where OpenBao is, for people."""
        self.host_header = self.authority.encode()
        """And for the Host header."""
        self._max_connections = max_connections
        self._max_waiting = max_waiting
        self._connect_timeout = connect_timeout
        self._wait_timeout = wait_timeout
        self._idle_timeout = idle_timeout
        self._loop = asyncio.get_running_loop()
        self._idle: deque[Connection] = deque()
        self._all: set[Connection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._waiting: deque[Exchange] = deque()
        self._closed = False
        self.reachable: bool | None = None
        """Whether the last connection attempt succeeded; None before the first."""

    @property
    def connections(self) -> int:
        """Open connections and those being opened; never above the bound."""
        return len(self._all) + len(self._connecting)

    @property
    def waiting(self) -> int:
        """Requests that wait for a connection; never above the bound."""
        return len(self._waiting)

    def send(
        self, method: bytes, data: bytes, receiver: Receiver, *, ended: bool = True, repeatable: bool = False
    ) -> Exchange:
        """Start a request. `data` is its head and what is there of its body, all of it when `ended`;
        `repeatable` says that sending it twice does no harm. Failures come through `receiver`, later."""
        exchange = Exchange(self, method, data, receiver, ended, repeatable)
        self.start(exchange)
        return exchange

    def start(self, exchange: Exchange, *, fresh: bool = False) -> None:
        """(exchange) Give it a connection, or a place in the queue. `fresh` means no kept connection."""
        if not fresh:
            oldest = self._loop.time() - self._idle_timeout
            while self._idle:
                connection = self._idle.pop()
                if connection.idle_since >= oldest:
                    connection.begin(exchange)
                    return
                connection.drop()
        if self._closed or len(self._waiting) >= self._max_waiting:
            busy = UnavailableError("too many requests wait for OpenBao", fix="try again in a moment")
            self._loop.call_soon(exchange.breaks, busy)
            return
        self._waiting.append(exchange)
        exchange.waits(self._loop.call_later(self._wait_timeout, self._too_long, exchange))
        if len(self._connecting) < len(self._waiting) and self.connections < self._max_connections:
            task = self._loop.create_task(self._connect())
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    def release(self, connection: Connection) -> None:
        """(connection) Its exchange is over and it can serve another."""
        if self._closed:
            connection.drop()
        elif self._waiting:
            connection.begin(self._waiting.popleft())
        else:
            connection.idle_since = self._loop.time()
            self._idle.append(connection)

    def gone(self, connection: Connection) -> None:
        """(connection) It is closed."""
        self._all.discard(connection)
        try:
            self._idle.remove(connection)
        except ValueError:
            pass
        if self._waiting and not self._connecting and not self._closed:
            task = self._loop.create_task(self._connect())
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    def withdraw(self, exchange: Exchange) -> None:
        """(exchange) It no longer waits."""
        try:
            self._waiting.remove(exchange)
        except ValueError:
            pass

    async def close(self) -> None:
        """End every connection; requests under way fail."""
        self._closed = True
        for task in self._connecting:
            task.cancel()
        self._fail_waiting(UnavailableError("the bridge is stopping"))
        await asyncio.gather(*self._connecting, return_exceptions=True)
        ends = [connection.lost for connection in self._all]
        for connection in list(self._all):
            connection.drop()
        await asyncio.gather(*ends)

    async def _connect(self) -> None:
        tls_name = self._host if self._context is not None else None
        try:
            async with asyncio.timeout(self._connect_timeout):
                _, connection = await self._loop.create_connection(
                    lambda: Connection(self),
                    self._host,
                    self._port,
                    ssl=self._context,
                    server_hostname=tls_name,
                )
        except (OSError, TimeoutError) as error:
            self.reachable = False
            certificate = isinstance(error, ssl.SSLCertVerificationError)
            what = "OpenBao's certificate does not verify" if certificate else _UNREACHABLE
            fix = "check the bridge's --vault-ca-cert" if certificate else _FIX
            self._fail_waiting(UnavailableError(what, on=self.authority, fix=fix))
            return
        self.reachable = True
        if self._closed:
            connection.drop()
            return
        self._all.add(connection)
        self.release(connection)

    def _fail_waiting(self, error: CloudtaserError) -> None:
        waiting = list(self._waiting)
        self._waiting.clear()
        for exchange in waiting:
            exchange.breaks(error)

    def _too_long(self, exchange: Exchange) -> None:
        self.withdraw(exchange)
        exchange.breaks(
            UnavailableError("no connection to OpenBao came free in time", fix="try again in a moment")
        )


def _read_address(address: str, ca_file: str | None) -> tuple[str, int, ssl.SSLContext | None]:
    parts = urllib.parse.urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ConfigError(f"not OpenBao's address: {address!r}", fix="give https://host:port")
    if parts.scheme == "http":
        return parts.hostname, parts.port or 80, None
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError("cannot read OpenBao's CA certificate", on=str(ca_file)) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return parts.hostname, parts.port or 443, context
