"""Somebody with a bridge's certificate for the tunnel, and no more: the operator carries its bytes to the API
server and does nothing else for it, and no pod says a word to it."""

from __future__ import annotations

import asyncio
import http.client
import ssl

import pytest

from cloudtaser.demo import setup
from cloudtaser.demo.chain import Chain
from cloudtaser.errors import CloudtaserError
from cloudtaser.net.layers import TlsLayer
from cloudtaser.net.stream import TunnelStream
from cloudtaser.net.tls import pod_server, tunnel_client
from cloudtaser.net.tunnel import Tunnel
from cloudtaser.openbao.pki import PkiRole
from cloudtaser.wire.names import BRIDGE_NAME, bridge_uri
from cloudtaser.wire.opening import Kind, Opening
from cloudtaser.wire.rendezvous import Role
from tests.chain_attackers import Heard, leaf, rooms, tunnel_ca, visit
from tests.chain_tools import eventually, own_chain, pod_client
from tests.unit.net.parties import authority

pytestmark = pytest.mark.asyncio(loop_scope="session")


class EvilBridge:
    """A tunnel to the operator, whose pods' streams end in a TLS server of our own."""

    def __init__(self) -> None:
        self.openings: list[Opening] = []
        self.pods: list[Heard] = []
        self.layers: list[TlsLayer] = []
        self.tunnel = Tunnel(True, self._accept)
        names = [BRIDGE_NAME, f"*.{BRIDGE_NAME}"]
        self._context = pod_server(authority("not the pod CA").issue(names=names))

    def _accept(self, opening: Opening, stream: TunnelStream) -> asyncio.Protocol | None:
        self.openings.append(opening)
        if opening.kind is Kind.CONTROL:
            return Heard(b'{"type":"version","version":{}}\n' + b"\0" * 20_000)
        self.pods.append(Heard())
        self.layers.append(TlsLayer(self._context, self.pods[-1], server_side=True))
        return self.layers[-1]

    def open(self, kind: Kind, first: bytes = b"") -> Heard:
        heard = Heard(first)
        self.tunnel.open(Opening(kind, "10.0.0.1:1", "x"), heard)
        return heard


async def pose(chain: Chain, upper: asyncio.Protocol) -> TlsLayer:
    """Meet the operator in the operational room, under a certificate of the tunnel CA."""
    identity, _ = await leaf(chain, PkiRole.BRIDGE, bridge_uri(chain.fingerprint, "evil"))
    layer = TlsLayer(tunnel_client(identity, [tunnel_ca(chain)]), upper, server_side=False)
    await visit(chain, Role.BRIDGE, rooms(chain)[0], layer)
    await layer.handshake
    return layer


async def can_read(chain: Chain) -> bool:
    with pod_client(chain) as client:
        try:
            await client.login(chain.pod("shop").token_file.read_text())
            return (await client.request("GET", "/v1/secret/data/shop/value"))[0] == 200
        except (OSError, http.client.HTTPException, CloudtaserError):
            return False


async def test_a_tunnel_certificate_alone_gets_bytes_to_the_api_server_and_nothing_else() -> None:
    async with own_chain() as chain:
        await chain.start()
        async with setup.administrator(chain) as admin:
            await setup.write_secret(admin, "shop/value", {"value": "v"})
        assert chain.bridge is not None
        await chain.bridge.stop()
        evil = EvilBridge()
        await pose(chain, evil.tunnel)
        await eventually(chain.tunnel_is_up, "the operator takes the certificate")

        for kind in set(Kind) - {Kind.APISERVER}:
            async with asyncio.timeout(30):
                assert await evil.open(kind, b"x").lost is not None, kind
        streams = [evil.open(Kind.APISERVER, b"GET / HTTP/1.1\r\n\r\n") for _ in range(200)]
        async with asyncio.timeout(20):
            await asyncio.gather(*(stream.ended for stream in streams))
        assert not any(b"200 OK" in stream.data for stream in streams)

        with pod_client(chain) as client, pytest.raises(ssl.SSLCertVerificationError):
            await client.login(chain.pod("shop").token_file.read_text())
        assert [opening.kind for opening in evil.openings if opening.kind is Kind.POD] == [Kind.POD]
        async with asyncio.timeout(30):
            for layer in evil.layers:
                with pytest.raises(CloudtaserError):
                    await layer.handshake
        assert [bytes(pod.data) for pod in evil.pods] == [b""] * len(evil.pods), "not a byte of plain text"

        evil.tunnel.abort()
        for abuse in (b"\xff" * 4096, b"\x00\x03\x00\x00" + bytes(4) + b"\x00\x00\x00\x01"):
            raw = Heard(abuse)
            await pose(chain, raw)
            async with asyncio.timeout(10):
                await raw.ended
        await chain.bridge.restart()
        await eventually(lambda: can_read(chain), "the true bridge serves", timeout=30)
        text = chain.operator.log.read_text()
        assert "Traceback" not in text
        assert '"level": "error"' not in text
