"""A cluster's API server, asked through a tunnel.

Used by `keys` and `review`. The way there is an `apiserver` stream with TLS inside, checked against the CA
recorded at first initialisation: whoever carries the bytes can read and change nothing (spec/wire.md, "Keys
of the cluster").
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

from cloudtaser.errors import NotAuthorisedError, ProtocolError, UnavailableError
from cloudtaser.net.http import request
from cloudtaser.net.layers import TlsLayer
from cloudtaser.net.tunnel import Tunnel
from cloudtaser.secret import Secret
from cloudtaser.wire.opening import Kind, Opening

API_SERVER_NAME: Final = "kubernetes.default.svc"
_GOOD: Final = (200, 201)


async def ask(
    tunnel: Tunnel,
    cluster_ca: str,
    token: Secret,
    method: bytes,
    path: str,
    body: bytes = b"",
    *,
    accept: bytes = b"application/json",
    timeout: float,
    limit: int,
) -> bytes:
    """The body of a good answer, `limit` bytes at most, within `timeout` seconds. NotAuthorisedError when the
    reviewer's `token` does not reach that far, another CloudtaserError when there is no good answer."""
    context = api_server_context(cluster_ca)

    async def connect(protocol: asyncio.Protocol) -> asyncio.Transport:
        layer = TlsLayer(context, protocol, server_side=False, server_hostname=API_SERVER_NAME)
        tunnel.open(Opening(Kind.APISERVER), layer)
        await layer.handshake
        return layer

    headers = [
        (b"host", API_SERVER_NAME.encode()),
        (b"authorization", b"Bearer " + token.reveal()),
        (b"accept", accept),
    ]
    if body:
        headers.append((b"content-type", b"application/json"))
    status, _, answer = await request(
        connect, method, path.encode(), headers, body, timeout=timeout, max_body=limit
    )
    on = f"{method.decode()} {path}"
    if status in (401, 403):
        raise NotAuthorisedError(
            "the API server refused the reviewer's token",
            on=on,
            fix="check the role binding of cloudtaser-reviewer",
        )
    if status not in _GOOD:
        raise UnavailableError(f"the API server answered status {status}", on=on)
    return answer


def api_server_context(cluster_ca: str) -> ssl.SSLContext:
    """TLS to an API server under the cluster's CA (PEM) and no other. ProtocolError when that is unusable."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=cluster_ca)
    except (ssl.SSLError, ValueError):
        raise ProtocolError("the recorded CA of the cluster cannot be used") from None
    return context
