"""A stand-in for nodes: one server that is every pod's wrapper, told apart by the address that is asked.

It says what a wrapper says, opens envelopes with the reference implementation, and announces like one. Hooks
let a test act at the moment in which a request has come, or its answer has left.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cloudtaser.errors import ProtocolError
from cloudtaser.net.http import request
from cloudtaser.net.layers import TlsLayer
from cloudtaser.net.tls import pod_client
from cloudtaser.wire.envelope import Recipient, Token, open_envelope
from cloudtaser.wire.names import OPERATOR_NAME
from tests.cluster.tokens.world import TokenPod

Hook = Callable[["Wrapper", str, bool], Awaitable[None]]
"""Which wrapper, which path, and whether the answer has left."""


@dataclass(slots=True)
class Wrapper:
    """One sealed container, as its node would run it."""

    pod: TokenPod
    container: str = "app"
    key: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate)
    token: Token | None = None
    refused: list[str] = field(default_factory=list)
    unsealed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def public_key(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @property
    def recipient(self) -> Recipient:
        return Recipient(self.public_key, self.pod.uid, self.container)

    def seal(self) -> None:
        """The token is gone: another key."""
        self.token = None
        self.unsealed.clear()
        self.key = X25519PrivateKey.generate()


class StandInNode:
    """`async with StandInNode(...)`; pods are added before anybody asks for them."""

    def __init__(self, fingerprint: str, pod_ca: str) -> None:
        self._fingerprint = fingerprint
        self._authority = x509.load_pem_x509_certificate(pod_ca.encode())
        self._context = pod_client(pod_ca.encode())
        self._server: asyncio.Server | None = None
        self._wrappers: dict[str, Wrapper] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.hook: Hook | None = None
        self.port = 0
        self.unsealings = 0

    async def __aenter__(self) -> StandInNode:
        self._server = await asyncio.start_server(self._serve, "0.0.0.0", 0, backlog=4096)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def run(self, pod: TokenPod) -> Wrapper:
        """The pod runs here from now on."""
        wrapper = self._wrappers[pod.address] = Wrapper(pod)
        return wrapper

    async def announce(
        self, wrapper: Wrapper, jwt: str, operator_port: int, *, uid: str = "", key: bytes = b""
    ) -> int:
        """Post the key, or another, to the operator; the status of its answer."""
        body = {
            "v": 2,
            "pod_uid": uid or wrapper.pod.uid,
            "container": wrapper.container,
            "public_key": base64.b64encode(key or wrapper.public_key).decode(),
            "jwt": jwt,
        }
        return await announce(self._context, operator_port, json.dumps(body).encode())

    async def post(self, operator_port: int, body: bytes) -> int:
        """Post anything."""
        return await announce(self._context, operator_port, body)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ")[1].decode()
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
            body = await reader.readexactly(length)
            wrapper = self._wrappers.get(writer.get_extra_info("sockname")[0])
            if wrapper is not None and self.hook is not None:
                await self.hook(wrapper, path, False)
            status, answer = self._answer(wrapper, path, body)
            writer.write(
                b"HTTP/1.1 %d x\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b"
                % (status, len(answer), answer)
            )
            await writer.drain()
            if wrapper is not None and self.hook is not None:
                await self.hook(wrapper, path, True)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    def _answer(self, wrapper: Wrapper | None, path: str, body: bytes) -> tuple[int, bytes]:
        if wrapper is None:
            return 404, b"{}"
        if path == "/v1/status":
            sealed = {"sealed": True, "public_key": base64.b64encode(wrapper.public_key).decode()}
            return 200, json.dumps(sealed if wrapper.token is None else {"sealed": False}).encode()
        if path != "/v1/unseal":
            return 404, b"{}"
        if wrapper.token is not None:
            return 409, b"{}"
        try:
            wrapper.token = open_envelope(
                body,
                wrapper.key,
                wrapper.recipient,
                authority=self._authority,
                fingerprint=self._fingerprint,
                at=datetime.now(UTC).replace(tzinfo=None),
            )
        except ProtocolError as error:
            wrapper.refused.append(error.what)
            return 403, b"{}"
        self.unsealings += 1
        wrapper.unsealed.set()
        return 200, b"{}"


async def announce(context: ssl.SSLContext, port: int, body: bytes) -> int:
    """One POST to an operator's port; CloudtaserError where there is no answer."""

    async def connect(protocol: asyncio.Protocol) -> None:
        layer = TlsLayer(context, protocol, server_side=False, server_hostname=OPERATOR_NAME)
        await asyncio.get_running_loop().create_connection(lambda: layer, "127.0.0.1", port)
        await layer.handshake

    headers = [(b"host", OPERATOR_NAME.encode()), (b"content-type", b"application/json")]
    status, _, _ = await request(connect, b"POST", b"/v1/announce", headers, body, timeout=15.0)
    return status
