"""BridgeCalls: the manager's requests to a bridge, under the pod CA and with the operator's own token.

Used by `operator_stream` (the bridge's reviewer token) and by whoever asks OpenBao for something on behalf of
this cluster. Each request is a stream of its own; the broker below passes ciphertext.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Final, Protocol

from cloudtaser.errors import RefusedError, UnavailableError
from cloudtaser.net.http import Response, request
from cloudtaser.net.layers import TlsLayer
from cloudtaser.net.tls import pod_client
from cloudtaser.operator.certificates import der, load_certificate
from cloudtaser.operator.routes import Route, Routes
from cloudtaser.secret import Secret
from cloudtaser.wire.hashes import pod_ca_label
from cloudtaser.wire.names import BRIDGE_NAME

REQUEST_SECONDS: Final = 10.0

Header = tuple[bytes, bytes]


class Credentials(Protocol):
    """What is needed of the manager."""

    pod_ca: str | None

    async def operator_token(self) -> Secret:
        """Who we are, for the bridge."""


async def call(
    route: Route,
    credentials: Credentials,
    method: str,
    path: str,
    body: bytes = b"",
    *,
    headers: tuple[Header, ...] = (),
    timeout: float = REQUEST_SECONDS,
) -> Response:
    """One request to the bridge of `route`: status, headers, body. `authorization` is the operator's token.

    Raises RefusedError while no pod CA is known, UnavailableError, ProtocolError, and what the API server
    says when the token is asked for.
    """
    pod_ca = credentials.pod_ca
    if pod_ca is None:
        raise RefusedError("the pod CA is not known yet")
    context = pod_client(pod_ca.encode())
    name = f"{pod_ca_label(der(load_certificate(pod_ca, 'the pod CA')))}.{BRIDGE_NAME}"
    own = await credentials.operator_token()
    return await request(
        lambda protocol: _open(route, context, name, protocol),
        method.encode(),
        path.encode(),
        (
            (b"host", BRIDGE_NAME.encode()),
            (b"authorization", b"Bearer " + own.reveal()),
            (b"content-type", b"application/json"),
            *headers,
        ),
        body,
        timeout=timeout,
    )


class BridgeCalls:
    """`call` by whichever route there is."""

    def __init__(self, routes: Routes, credentials: Credentials) -> None:
        self._routes = routes
        self._credentials = credentials

    @property
    def available(self) -> bool:
        """Whether a request could be sent now."""
        return bool(self._routes.live)

    async def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        headers: tuple[Header, ...] = (),
        timeout: float = REQUEST_SECONDS,
    ) -> Response:
        """See `call`; UnavailableError when no tunnel is up."""
        live = self._routes.live
        if not live:
            raise UnavailableError("no tunnel to a bridge is up")
        return await call(live[0], self._credentials, method, path, body, headers=headers, timeout=timeout)


async def _open(
    route: Route, context: ssl.SSLContext, name: str, protocol: asyncio.Protocol
) -> asyncio.Transport:
    layer = TlsLayer(context, protocol, server_side=False, server_hostname=name)
    await route.open(layer)
    await layer.handshake
    return layer
