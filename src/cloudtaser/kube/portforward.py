"""PortForward: a local port that leads to a port of a pod, through the API server.

Used by the CLI to reach the broker's admin port and the operator's health port, which no network shows.
Speaks the API server's WebSocket form, `v4.channel.k8s.io`: one WebSocket a connection. Each binary message
begins with its channel, 0 for data and 1 for what the kubelet complains of; the first of each names the port.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final, Protocol, Self
from urllib.parse import quote

import aiohttp

from cloudtaser.errors import CloudtaserError, UnavailableError

PROTOCOL: Final = "v4.channel.k8s.io"
MAX_MESSAGE: Final = 4 * 1024 * 1024  # bytes; the kubelet sends 32 KiB at most
MAX_CONNECTIONS: Final = 64  # at one time; each is a WebSocket at the API server
_PIECE: Final = 32 * 1024
_DATA: Final = b"\x00"
_PREAMBLE: Final = 2  # bytes: the port, little endian
_LONGEST_COMPLAINT: Final = 4096
_SHOWN: Final = 120  # characters of its end, where the cause is; before it are names of files on the node


class Upgrades(Protocol):
    """What it needs of `client.KubeApi`."""

    async def websocket(
        self, path: str, resource: str, protocols: Sequence[str], max_message: int
    ) -> aiohttp.ClientWebSocketResponse:
        """A WebSocket at the API server; the errors of `kube.errors`."""


class PortForward:
    """Listens on a free port of 127.0.0.1 (or on `listen`) for as long as it is entered.

    A connection that the pod does not take is closed, and the reason kept in `complaint`.
    """

    def __init__(
        self, api: Upgrades, namespace: str, pod: str, port: int, listen: tuple[str, int] = ("127.0.0.1", 0)
    ) -> None:
        self._api = api
        self._path = (
            f"/api/v1/namespaces/{quote(namespace, safe='')}/pods/{quote(pod, safe='')}"
            f"/portforward?ports={port}"
        )
        self._shown = f"pods/portforward {namespace}/{pod} to port {port}"
        self._listen = listen
        self._server: asyncio.Server | None = None
        self._carrying: set[asyncio.Task[None]] = set()
        self.complaint = ""
        """Why the last connection that failed did."""

    async def __aenter__(self) -> Self:
        host, port = self._listen
        try:
            self._server = await asyncio.start_server(self._accept, host, port, limit=_PIECE)
        except OSError as error:
            raise UnavailableError(
                f"cannot listen: {error.strerror}", on=f"{host}:{port}", fix="choose another address"
            ) from None
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._carrying:
            task.cancel()
        await asyncio.gather(*self._carrying, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens: host and port."""
        if self._server is None:
            raise RuntimeError("it is not entered")
        host, port = self._server.sockets[0].getsockname()[:2]
        return str(host), int(port)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._carrying) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._carry(reader, writer)
        except (CloudtaserError, aiohttp.ClientError, OSError) as error:  # the client sees its connection end
            self.complaint = _words(error)
            writer.transport.abort()
        finally:
            writer.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        socket = await self._api.websocket(self._path, self._shown, (PROTOCOL,), MAX_MESSAGE)
        try:
            out = asyncio.create_task(_send(reader, socket))
            back = asyncio.create_task(self._receive(socket, writer))
            try:
                await back  # the pod's end ends it; ours alone does not: there is no half-close here
            finally:
                out.cancel()
                back.cancel()
                await asyncio.gather(out, back, return_exceptions=True)
        finally:
            with contextlib.suppress(Exception):
                await socket.close()

    async def _receive(self, socket: aiohttp.ClientWebSocketResponse, writer: asyncio.StreamWriter) -> None:
        introduced = {0: False, 1: False}
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                continue
            channel, content = message.data[0], message.data[1:]
            if channel not in introduced:
                raise UnavailableError("the API server speaks of a channel that was not opened")
            if not introduced[channel]:
                introduced[channel] = True
                content = content[_PREAMBLE:]
            if not content:
                continue
            if channel == 1:
                said = content[:_LONGEST_COMPLAINT].decode("utf-8", "replace")
                raise UnavailableError(f"the kubelet: {' '.join(said.split())[-_SHOWN:]}")
            writer.write(content)
            await writer.drain()


async def _send(reader: asyncio.StreamReader, socket: aiohttp.ClientWebSocketResponse) -> None:
    while piece := await reader.read(_PIECE):
        await socket.send_bytes(_DATA + piece)
    await socket.close()


def _words(error: Exception) -> str:
    if isinstance(error, CloudtaserError):
        return f"{error.what} ({error.on})" if error.on else error.what
    return getattr(error, "strerror", None) or type(error).__name__
