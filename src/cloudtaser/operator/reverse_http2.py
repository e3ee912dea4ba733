"""Watched: a bridge's HTTP/2 bytes, looked at on their way to the gRPC server (reverse mode).

Made by `reverse_door` for every HTTP/2 connection. What `wire.http2_watch` finds in them is told once, and
nothing goes on from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cloudtaser.errors import CloudtaserError, ProtocolError
from cloudtaser.wire.http2_watch import FrameWatch


class Watched(asyncio.Protocol):
    """`protocol`, until the peer sends what it must not; `on_bad` has to cut the connection then."""

    def __init__(
        self, protocol: asyncio.Protocol, preface: int, on_bad: Callable[[CloudtaserError], None]
    ) -> None:
        self._protocol = protocol
        self._watch: FrameWatch | None = FrameWatch(preface)
        self._on_bad = on_bad
        self._time = asyncio.get_running_loop().time

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._protocol.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._watch is None:
            return
        try:
            self._watch.receive(data, self._time())
        except ProtocolError as error:
            self._watch = None
            self._on_bad(error)
        else:
            self._protocol.data_received(data)

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()
