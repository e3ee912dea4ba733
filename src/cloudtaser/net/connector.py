"""Connector: aiohttp's connections to one server behind a proxy.

Used by the clients of OpenBao and of an API server when `Proxies.route` names a proxy; aiohttp's own way
through one would check the proxy by the target's CA, and cannot do TLS in TLS on every loop.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.client_proto import ResponseHandler

from cloudtaser.net.dial import CONNECT_TIMEOUT, Address, dial_tls
from cloudtaser.net.proxy import Proxies

if TYPE_CHECKING:
    from aiohttp import ClientRequest, ClientTimeout
    from aiohttp.tracing import Trace


class ProxiedConnector(aiohttp.BaseConnector):
    """Connects by `proxies`, TLS to the target inside. What fails to connect raises a CloudtaserError:
    UntrustedError for the target's certificate, UnavailableError or ProtocolError for all else."""

    def __init__(self, proxies: Proxies, context: ssl.SSLContext, *, limit: int) -> None:
        super().__init__(limit=limit)
        self._proxies = proxies
        self._context = context

    async def _create_connection(
        self, req: ClientRequest, traces: list[Trace], timeout: ClientTimeout
    ) -> ResponseHandler:
        address = Address(req.url.raw_host or "", req.url.port or 443)
        loop = asyncio.get_running_loop()
        limit = timeout.sock_connect or CONNECT_TIMEOUT
        _, handler = await dial_tls(
            address, lambda: ResponseHandler(loop), self._context, limit, proxies=self._proxies
        )
        return handler
