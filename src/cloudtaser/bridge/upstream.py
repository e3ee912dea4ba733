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
from collections.abc import Hashable
from typing import Final

from cloudtaser.bridge.exchange import Connection, Exchange, Receiver
from cloudtaser.errors import CloudtaserError, ConfigError, UnavailableError
from cloudtaser.net.dial import Address, dial_tls
from cloudtaser.net.proxy import DIRECT, Proxies
from cloudtaser.net.tls import UntrustedError

MAX_CONNECTIONS: Final = 64
MAX_WAITING: Final = 1024
CONNECT_TIMEOUT: Final = 5.0
WAIT_TIMEOUT: Final = 10.0
"""Seconds a request may wait for a connection."""
IDLE_TIMEOUT: Final = 60.0
"""Seconds after which a kept connection is not used again."""
MAX_UPLOADS: Final = 16
"""Requests of one owner whose bodies are still under way: who sends slowly holds a connection each."""

_UNREACHABLE: Final = "OpenBao cannot be reached from the bridge"
_FIX: Final = "check that it runs and the bridge's --vault-addr"


class Upstream:
    """OpenBao, as one address. Make it inside a running loop."""

    def __init__(
        self,
        address: str,
        *,
        ca_file: str | None = None,
        proxies: Proxies = DIRECT,
        max_connections: int = MAX_CONNECTIONS,
        max_waiting: int = MAX_WAITING,
        max_uploads: int = MAX_UPLOADS,
        connect_timeout: float = CONNECT_TIMEOUT,
        wait_timeout: float = WAIT_TIMEOUT,
        idle_timeout: float = IDLE_TIMEOUT,
    ) -> None:
        """`address` is http:// or https://host:port; `ca_file` replaces the system's roots. One owner gets
        three quarters of `max_connections` and `max_waiting` at most: nobody keeps all others waiting."""
        self._host, self._port, self._context = _read_address(address, ca_file)
        self._proxies = proxies
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.authority = f"{host}:{self._port}"
        """Where OpenBao is, for people."""
        self.host_header = self.authority.encode()
        """And for the Host header."""
        self._max_connections = max_connections
        self._max_waiting = max_waiting
        self._max_uploads = max_uploads
        self._connect_timeout = connect_timeout
        self._wait_timeout = wait_timeout
        self._idle_timeout = idle_timeout
        self._loop = asyncio.get_running_loop()
        self._idle: deque[Connection] = deque()
        self._all: set[Connection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._waiting: deque[Exchange] = deque()
        self._busy: dict[Connection, Exchange] = {}
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
        self,
        method: bytes,
        data: bytes,
        receiver: Receiver,
        *,
        ended: bool = True,
        repeatable: bool = False,
        owner: Hashable = None,
    ) -> Exchange:
        """Start a request. `data` is its head and what is there of its body, all of it when `ended`;
        `repeatable` says that sending it twice does no harm; `owner` is whose share it counts in (None: the
        bridge's own, without bounds). Failures come through `receiver`, later."""
        exchange = Exchange(self, method, data, receiver, ended, repeatable, owner)
        self.start(exchange)
        return exchange

    def start(self, exchange: Exchange, *, fresh: bool = False) -> None:
        """(exchange) Give it a connection, or a place in the queue. `fresh` means no kept connection."""
        may_begin = self._may_begin(exchange)
        if may_begin and not fresh:
            connection = self._idle_connection()
            if connection is not None:
                self._begin(connection, exchange)
                return
        if self._closed or self._queue_is_full(exchange.owner):
            busy = UnavailableError("too many requests wait for OpenBao", fix="try again in a moment")
            self._loop.call_soon(exchange.breaks, busy)
            return
        self._waiting.append(exchange)
        exchange.waits(self._loop.call_later(self._wait_timeout, self._too_long, exchange))
        connecting = len(self._connecting) < len(self._waiting)
        if may_begin and connecting and self.connections < self._max_connections:
            self._start_connecting()

    def release(self, connection: Connection) -> None:
        """(connection) Its exchange is over and it can serve another."""
        self._busy.pop(connection, None)
        if self._closed:
            connection.drop()
            return
        exchange = self._next()
        if exchange is not None:
            self._begin(connection, exchange)
        else:
            connection.idle_since = self._loop.time()
            self._idle.append(connection)

    def gone(self, connection: Connection) -> None:
        """(connection) It is closed."""
        self._all.discard(connection)
        self._busy.pop(connection, None)
        try:
            self._idle.remove(connection)
        except ValueError:
            pass
        if self._closed or self._connecting:
            return
        exchange = self._next()
        if exchange is None:
            return
        idle = self._idle_connection()
        if idle is not None:
            self._begin(idle, exchange)
        else:
            self._waiting.appendleft(exchange)
            self._start_connecting()

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

    # shares

    def _may_begin(self, exchange: Exchange) -> bool:
        """Whether its owner holds less than its share of the connections. A body that is still to come must
        also find room among its owner's, and in half of the connections: who sends slowly leaves the rest."""
        share, half = _share(self._max_connections), max(1, self._max_connections // 2)
        if exchange.owner is None or len(self._busy) < min(share, half, self._max_uploads):
            return True
        busy = self._busy.values()
        if [e.owner for e in busy].count(exchange.owner) >= share:
            return False
        uploads = [e.owner for e in busy if not e.whole]
        return exchange.whole or (len(uploads) < half and uploads.count(exchange.owner) < self._max_uploads)

    def _queue_is_full(self, owner: Hashable) -> bool:
        waiting, share = len(self._waiting), _share(self._max_waiting)
        if owner is None or waiting < share or waiting >= self._max_waiting:
            return waiting >= self._max_waiting
        return sum(e.owner == owner for e in self._waiting) >= share

    def _next(self) -> Exchange | None:
        """Whoever has waited longest of those that may begin; it waits no more."""
        refused: set[tuple[Hashable, bool]] = set()
        for exchange in self._waiting:
            kind = (exchange.owner, exchange.whole)
            if kind in refused:
                continue
            if self._may_begin(exchange):
                self._waiting.remove(exchange)
                return exchange
            refused.add(kind)
        return None

    def _begin(self, connection: Connection, exchange: Exchange) -> None:
        self._busy[connection] = exchange
        connection.begin(exchange)

    # connections

    def _idle_connection(self) -> Connection | None:
        """A kept one that is not too old."""
        oldest = self._loop.time() - self._idle_timeout
        while self._idle:
            connection = self._idle.pop()
            if connection.idle_since >= oldest:
                return connection
            connection.drop()
        return None

    def _start_connecting(self) -> None:
        task = self._loop.create_task(self._connect())
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(self._connect_timeout):
                connection = await self._open()
        except (OSError, CloudtaserError) as error:
            self.reachable = False
            task = asyncio.current_task()
            if task is not None:  # who hears of the failure and asks again must not wait for us
                self._connecting.discard(task)
            certificate = isinstance(error, ssl.SSLCertVerificationError | UntrustedError)
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

    async def _open(self) -> Connection:
        proxied = self._proxies.route(self._host, self._port) is not None
        if proxied and self._context is not None:
            _, connection = await dial_tls(
                Address(self._host, self._port),
                lambda: Connection(self),
                self._context,
                self._connect_timeout,
                proxies=self._proxies,
            )
            return connection
        _, connection = await self._loop.create_connection(
            lambda: Connection(self),
            self._host,
            self._port,
            ssl=self._context,
            server_hostname=self._host if self._context is not None else None,
        )
        return connection

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


def _share(of: int) -> int:
    """What one owner gets of a bound at most."""
    return max(1, of * 3 // 4)


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
