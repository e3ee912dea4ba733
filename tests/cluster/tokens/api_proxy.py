"""A proxy before the API server, at which a test sees what the operator asks, and acts just then."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
from aiohttp import web

from cloudtaser.demo.certificates import write_server_certificate
from tests.cluster.control_plane import ControlPlane

Hook = Callable[[str, str, bytes, int], Awaitable[None]]
"""Method, path with its query, body, and the status of the answer, which is not passed on yet; 0 before."""
_DROPPED = ("transfer-encoding", "content-length", "connection", "content-encoding")


class ApiProxy:
    """`async with ApiProxy(...)`; `url` and `ca` are what the operator is told."""

    def __init__(self, plane: ControlPlane, directory: Path) -> None:
        self._plane = plane
        self._files = write_server_certificate(directory, "proxy", ["127.0.0.1", "localhost"])
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None
        self.hook: Hook | None = None
        self.url = ""

    @property
    def ca(self) -> str:
        return str(self._files.ca)

    async def __aenter__(self) -> ApiProxy:
        upstream = ssl.create_default_context(cafile=str(self._plane.identities.ca))
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=upstream, limit=0), auto_decompress=False
        )
        application = web.Application(client_max_size=8 << 20)
        application.router.add_route("*", "/{path:.*}", self._pass)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._files.certificate, self._files.key)
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context).start()
        self.url = f"https://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        assert self._session is not None
        await self._runner.cleanup()
        await self._session.close()

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        assert self._session is not None
        body = await request.read()
        asked = request.method, request.path_qs, body
        if self.hook is not None:
            await self.hook(*asked, 0)
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() in ("authorization", "accept", "content-type")
        }
        async with self._session.request(
            request.method, self._plane.server + request.path_qs, data=body, headers=headers
        ) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _DROPPED}
            response = web.StreamResponse(status=answer.status, headers=kept)
            if self.hook is not None:
                await self.hook(*asked, answer.status)
            with contextlib.suppress(ConnectionError):  # who asked is gone
                await response.prepare(request)
                async for piece in answer.content.iter_any():
                    await response.write(piece)
                await response.write_eof()
            return response
