"""A stand-in for registries that misbehave as no real one can be made to: it answers what a test tells it to.

Everything a real registry does is tested against one (tests/integration/registry).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from cloudtaser.demo.certificates import write_server_certificate
from cloudtaser.demo.ports import free_port
from tests.image_registry import OCI_MANIFEST, configuration, digest, manifest

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class StandInRegistry:
    """Serves one image at every name and tag, except where `answers` says otherwise."""

    def __init__(self, directory: Path, names: tuple[str, ...] = ("127.0.0.1", "localhost")) -> None:
        self.tls = write_server_certificate(directory, "stand-in", names)
        self.config = configuration(["/app"])
        self.manifest = manifest(self.config)
        self.answers: dict[str, Answer] = {}
        """By kind: manifests, blobs, token, elsewhere."""
        self.requests: list[web.Request] = []
        self.port = free_port()
        self.released = asyncio.Event()
        """Lets go of answers that hang."""
        self._arrived = asyncio.Condition()
        self._runner: web.AppRunner | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def asked(self, kind: str = "") -> int:
        return sum(1 for request in self.requests if f"/{kind}" in request.path)

    async def until(self, count: int) -> None:
        """Wait until it was asked that often."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= count)

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.tls.certificate, self.tls.key)
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=context)
        await site.start()

    async def close(self) -> None:
        self.released.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def hang(self, request: web.Request) -> web.StreamResponse:
        """Say nothing until the test is over."""
        await self.released.wait()
        return web.Response(status=503)

    async def cut(self, request: web.Request) -> web.StreamResponse:
        """Break off in the middle of the answer."""
        response = web.StreamResponse(headers={"Content-Type": OCI_MANIFEST})
        response.content_length = len(self.manifest)
        await response.prepare(request)
        await response.write(self.manifest[:10])
        assert request.transport is not None
        request.transport.abort()
        return response

    def says(self, status: int, body: bytes = b"", **headers: str) -> Answer:
        """An answer that is always the same."""

        async def answer(request: web.Request) -> web.StreamResponse:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return web.Response(status=status, body=body, headers=named)

        return answer

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        async with self._arrived:
            self.requests.append(request)
            self._arrived.notify_all()
        kinds = [each for each in ("manifests", "blobs", "token") if f"/{each}" in request.path]
        kind = kinds[0] if kinds else "elsewhere"
        if kind in self.answers:
            return await self.answers[kind](request)
        if kind == "manifests":
            headers = {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": digest(self.manifest)}
            return web.Response(body=self.manifest, headers=headers)
        if kind == "blobs":
            return web.Response(body=self.config)
        return web.Response(status=404)
