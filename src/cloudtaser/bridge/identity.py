"""Who this bridge is to one cluster: its certificate for the tunnel and the one that pods see.

Used by `station`, one for each cluster. Keys are made here, live in memory only and change with every
renewal; the TLS contexts stay the same objects and are given the new certificate, so that the next connection
uses it and no open one notices.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from cloudtaser.net.tls import Identity, load_identity, pod_server, tunnel_client
from cloudtaser.openbao import pki
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.layout import Space
from cloudtaser.openbao.pki import PkiRole
from cloudtaser.secret import Secret
from cloudtaser.wire.bootstrap import ReturnProof, return_signature_message
from cloudtaser.wire.names import bridge_uri

RENEW_AT: Final = 2 / 3
"""Part of a certificate's life after which it is renewed."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate of this bridge, with its key."""

    certificate_pem: bytes
    chain_pem: bytes
    key: Secret
    not_after: float

    @property
    def identity(self) -> Identity:
        """As TLS takes it."""
        return Identity(self.certificate_pem, self.key, self.chain_pem)


class Certificates:
    """Both certificates of this bridge for one cluster. Nothing can be used before the first `renew`."""

    def __init__(
        self, client: OpenBao, space: Space, fingerprint: str, bridge_id: str, tunnel_ca_pem: str, ttl: float
    ) -> None:
        self._client = client
        self._space = space
        self._uri = bridge_uri(fingerprint, bridge_id)
        self._tunnel_ca = tunnel_ca_pem.encode()
        self._ttl = f"{ttl:.0f}s"
        self._tunnel: Leaf | None = None
        self.tunnel_context: ssl.SSLContext | None = None
        self.pod_context: ssl.SSLContext | None = None
        self.due = 0.0
        """When to call `renew` next; wall clock."""
        self.not_after = 0.0
        """When the first of the two ends; 0 while there is none."""

    @property
    def ready(self) -> bool:
        """Whether both contexts can be used."""
        return self.tunnel_context is not None and self.pod_context is not None

    async def renew(self, now: float) -> None:
        """Have two new keys signed and put them to use. On an error of OpenBao's the old ones stay."""
        tunnel = await self._signed(PkiRole.BRIDGE, uris=(self._uri,))
        pod = await self._signed(PkiRole.BRIDGE_POD, names=pki.BRIDGE_POD_NAMES)
        if self.tunnel_context is None:
            self.tunnel_context = tunnel_client(tunnel.identity, [self._tunnel_ca])
        else:
            load_identity(self.tunnel_context, tunnel.identity)
        if self.pod_context is None:
            self.pod_context = pod_server(pod.identity)
        else:
            load_identity(self.pod_context, pod.identity)
        self._tunnel = tunnel
        self.not_after = min(tunnel.not_after, pod.not_after)
        self.due = now + (self.not_after - now) * RENEW_AT

    def proof(self, handshake_hash: bytes) -> ReturnProof:
        """What an operator that comes back hears before it says anything. Needs a first `renew`."""
        assert self._tunnel is not None
        key = load_pem_private_key(self._tunnel.key.reveal(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        signature = key.sign(return_signature_message(handshake_hash), ec.ECDSA(hashes.SHA256()))
        return ReturnProof((self._tunnel.certificate_pem + self._tunnel.chain_pem).decode(), signature)

    async def _signed(
        self, role: PkiRole, *, uris: tuple[str, ...] = (), names: tuple[str, ...] = ()
    ) -> Leaf:
        key, csr = pki.new_key()
        issued = await pki.sign(self._client, self._space, role, csr, uris=uris, names=names, ttl=self._ttl)
        return Leaf(issued.certificate_pem, issued.chain_pem, key, float(issued.not_after))
