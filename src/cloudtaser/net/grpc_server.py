"""GrpcServer: takes the gRPC streams of bridges, behind a door of our own (reverse mode).

Used by the broker's reverse port, which ends TLS, bounds connections and tells who calls; it passes HTTP/2 on
to this server through an abstract Unix socket. The gRPC library listens on nothing else. A connection is
served only if the door announced it: nobody else on the machine can come in past it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import socket
from collections.abc import Callable
from typing import Any, Final

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # before the import: no program of ours forks
os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # the log is ours

import grpc
import grpc.aio

from cloudtaser.errors import CloudtaserError, UnavailableError
from cloudtaser.net.grpc_stream import OPTIONS, GrpcTransport
from cloudtaser.wire.grpc_message import METHOD

STREAMS_PER_CONNECTION: Final = 128
"""An L7 proxy may carry every bridge over one connection."""
_SERVER_OPTIONS: Final[tuple[tuple[str, int | str], ...]] = (
    *OPTIONS,
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION),
    ("grpc.max_connection_idle_ms", 60_000),
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
)
Welcome = Callable[[str], asyncio.Protocol]


class GrpcServer:
    """`welcome` gives the protocol for a new stream, by the source that the door announced."""

    def __init__(self, welcome: Welcome, *, max_streams: int) -> None:
        self._welcome = welcome
        self._server = grpc.aio.server(options=list(_SERVER_OPTIONS), maximum_concurrent_rpcs=max_streams)
        self._server.add_generic_rpc_handlers((_Methods(self._connect),))
        self._name = f"cloudtaser-{secrets.token_hex(16)}"
        self._server.add_insecure_port(f"unix-abstract:{self._name}")
        self._numbers = itertools.count(1)
        self._sources: dict[str, str] = {}
        self._streams: set[GrpcTransport] = set()

    async def start(self) -> None:
        """Take connections."""
        await self._server.start()

    async def close(self) -> None:
        """Cut every stream and stop."""
        for transport in list(self._streams):
            transport.abort()
        await self._server.stop(0)

    async def connect(self, protocol: asyncio.Protocol, source: str) -> None:
        """Give `protocol` a connection to the server; its streams will be those of `source`."""
        loop = asyncio.get_running_loop()
        own = f"{self._name}-{next(self._numbers)}"
        end = socket.socket(socket.AF_UNIX)
        try:
            end.setblocking(False)
            end.bind(f"\0{own}")
            self._sources[f"unix-abstract:{own}"] = source
            await loop.sock_connect(end, f"\0{self._name}")
        except BaseException as error:
            end.close()
            self._sources.pop(f"unix-abstract:{own}", None)
            if not isinstance(error, OSError):
                raise
            raise UnavailableError(f"no connection to our gRPC server: {error}") from None
        forgetting = _Forgetting(protocol, self._sources, own)
        await loop.create_unix_connection(lambda: forgetting, sock=end)
        forgetting.begin()

    async def _connect(self, _requests: Any, context: Any) -> None:
        source = self._sources.get(context.peer())
        if source is None:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "come in by the door")
        transport = GrpcTransport(_ServerStream(context), {"peername": (source, 0)})
        self._streams.add(transport)
        try:
            await context.send_initial_metadata(())
            transport.start(self._welcome(source or ""))
            await asyncio.shield(transport.closed)
        except asyncio.CancelledError:
            transport.fail(UnavailableError("the gRPC stream was lost: the bridge cut it"))
            raise
        finally:
            self._streams.discard(transport)
        if transport.aborted:
            await context.abort(grpc.StatusCode.CANCELLED, "the stream was cut")


class _Methods(grpc.GenericRpcHandler):
    """The one method there is, with messages as bytes."""

    def __init__(self, connect: Any) -> None:
        self._handler: Any = grpc.stream_stream_rpc_method_handler(connect)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of a method, None for any other: UNIMPLEMENTED."""
        return self._handler if handler_call_details.method == METHOD else None


class _ServerStream:
    """MessageStream over a call that a bridge made."""

    def __init__(self, context: Any) -> None:
        self._context = context

    async def read(self) -> bytes | None:
        message = await self._context.read()
        return None if message is grpc.aio.EOF else bytes(message)

    async def write(self, message: bytes) -> None:
        await self._context.write(message)

    async def finish(self) -> bool:
        return True  # the handler returns, and that ends the stream

    def cancel(self) -> None:
        """As `finish`: the handler says how it ended."""

    def why(self, fault: BaseException) -> CloudtaserError:
        return UnavailableError("the gRPC stream was lost")


class _Forgetting(asyncio.Protocol):
    """`protocol`, and the source is forgotten when its connection is gone.

    It hears of the connection at `begin`. It may have been aborted meanwhile, and must not cut the transport
    while that is being made: uvloop would close the descriptor once more when the socket is forgotten.
    """

    def __init__(self, protocol: asyncio.Protocol, sources: dict[str, str], own: str) -> None:
        self._protocol = protocol
        self._sources = sources
        self._own = own
        self._transport: asyncio.BaseTransport | None = None
        self._early: list[bytes] | None = []  # the server's first words

    def begin(self) -> None:
        """Connect `protocol`."""
        early, self._early = self._early or [], None
        if self._transport is not None:
            self._protocol.connection_made(self._transport)
        for data in early:
            self._protocol.data_received(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._early is None:
            self._protocol.data_received(data)
        else:
            self._early.append(data)

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._sources.pop(f"unix-abstract:{self._own}", None)
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()
