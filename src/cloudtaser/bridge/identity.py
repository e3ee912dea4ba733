"""Who this bridge is to one cluster: its certificates for the tunnel and those that pods see.

Used by `station`, one for each cluster. There is one pair per CA that is served: two or more during a
rotation. Keys are made here, live in memory only and change with every renewal, unless pairs are given
(`leaves`); the TLS contexts stay the same objects and are given the new certificate, so that the next
connection uses it and no open one notices.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from cloudtaser.bridge.authorities import Authorities, Authority
from cloudtaser.bridge.leaves import Leaf, Leaves
from cloudtaser.errors import CloudtaserError, UnavailableError
from cloudtaser.net.tls import load_identity, pod_server, tunnel_client
from cloudtaser.openbao import pki
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.layout import Space
from cloudtaser.openbao.pki import PkiRole
from cloudtaser.wire.bootstrap import ReturnProof, return_signature_message
from cloudtaser.wire.names import bridge_uri

RENEW_AT: Final = 2 / 3
"""Part of a certificate's life after which it is renewed."""
RETRY: Final = 30.0
"""Seconds until a renewal that failed is tried again, while the certificate in use still holds."""


@dataclass(slots=True, eq=False)
class Standing:
    """This bridge under one CA. Without a leaf it cannot be used yet."""

    authority: Authority
    role: PkiRole
    leaf: Leaf | None = None
    context: ssl.SSLContext | None = None
    due: float = 0.0
    """When to renew; wall clock."""
    rotated_at: str = ""
    """The record's `rotated_at` that the leaf was signed after."""

    def holds(self, now: float) -> bool:
        """Whether there is a certificate in time."""
        return self.leaf is not None and now < self.leaf.not_after

    def take(self, leaf: Leaf) -> None:
        """Use this one from now on."""
        if self.context is not None:
            load_identity(self.context, leaf.identity)
        elif self.role is PkiRole.BRIDGE:
            self.context = tunnel_client(leaf.identity, [self.authority.pem.encode()])
        else:
            self.context = pod_server(leaf.identity)
        self.leaf = leaf


class Certificates:
    """All certificates of this bridge for one cluster."""

    def __init__(
        self,
        client: OpenBao,
        space: Space,
        fingerprint: str,
        bridge_id: str,
        ttl: float,
        on_failed: Callable[[CloudtaserError], None] = lambda _: None,
    ) -> None:
        """`on_failed` hears of a failure that leaves the bridge able to serve."""
        self.leaves: tuple[Leaves, ...] = ()
        """Where pairs are given, in order, looked at with each `attend`; what none has is signed."""
        self._client = client
        self._space = space
        self._uri = bridge_uri(fingerprint, bridge_id)
        self._ttl = f"{ttl:.0f}s"
        self._on_failed = on_failed
        self._tunnel: dict[bytes, Standing] = {}
        self._pod: dict[bytes, Standing] = {}

    def follow(self, authorities: Authorities) -> None:
        """Stand under these CAs and no others: what belongs to another is forgotten, its keys with it."""
        self._tunnel = _followed(self._tunnel, authorities.tunnel, PkiRole.BRIDGE)
        self._pod = _followed(self._pod, authorities.pod, PkiRole.BRIDGE_POD)

    @property
    def tunnel(self) -> tuple[Authority, ...]:
        """The tunnel CAs under which there is a certificate, the current one first."""
        return tuple(one.authority for one in self._tunnel.values() if one.leaf is not None)

    @property
    def pod(self) -> tuple[Authority, ...]:
        """The pod CAs under which there is a certificate, the current one first and the oldest last."""
        return tuple(one.authority for one in self._pod.values() if one.leaf is not None)

    @property
    def ready(self) -> bool:
        """Whether there is a certificate for the tunnel and one for pods."""
        return bool(self.tunnel and self.pod)

    @property
    def not_after(self) -> float:
        """When the first of all ends; 0 while there is none."""
        return min((one.leaf.not_after for one in self._all() if one.leaf is not None), default=0.0)

    async def attend(self, now: float, rotated_at: str = "") -> bool:
        """Have signed what is missing, due, or of before `rotated_at`, and put it to use; whether anything
        was. CloudtaserError only when nothing is left to serve with."""
        changed = False
        failures: list[CloudtaserError] = []
        for one in list(self._all()):
            try:
                leaf = await self._given(one, now)
                if leaf == one.leaf and leaf is not None:
                    continue
                if leaf is None:
                    if now < one.due and one.rotated_at == rotated_at:
                        continue
                    leaf = await self._signed(one)
                one.take(leaf)
            except CloudtaserError as error:
                one.due = now + RETRY if one.holds(now) else 0.0
                failures.append(error)
            else:
                one.due = now + (leaf.not_after - now) * RENEW_AT
                changed = True
            one.rotated_at = rotated_at
        if failures and not self._serves(now):
            raise failures[0]
        for failure in failures:
            self._on_failed(failure)
        return changed

    def tunnel_context(self, authority: Authority) -> ssl.SSLContext:
        """For a tunnel under that CA, which trusts it and no other. UnavailableError when it is retired."""
        return _context(self._tunnel, authority)

    def pod_contexts(self) -> dict[str, ssl.SSLContext]:
        """What ends the pods' TLS, by the label of the CA."""
        return {one.label: _context(self._pod, one) for one in self.pod}

    def proof(self, authority: Authority, handshake_hash: bytes) -> ReturnProof:
        """What an operator that comes back, and pinned that CA, hears before it says anything."""
        standing = self._tunnel.get(authority.der)
        if standing is None or standing.leaf is None:
            raise UnavailableError("that CA is no longer served")
        leaf = standing.leaf
        key = load_pem_private_key(leaf.key.reveal(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        signature = key.sign(return_signature_message(handshake_hash), ec.ECDSA(hashes.SHA256()))
        return ReturnProof((leaf.certificate_pem + leaf.chain_pem).decode(), signature)

    def _all(self) -> Iterable[Standing]:
        yield from self._tunnel.values()
        yield from self._pod.values()

    def _serves(self, now: float) -> bool:
        return all(any(one.holds(now) for one in half.values()) for half in (self._tunnel, self._pod))

    async def _given(self, standing: Standing, now: float) -> Leaf | None:
        for source in self.leaves:
            leaf = await source.look(standing.role, standing.authority, now)
            if leaf is not None:
                return leaf
        return None

    async def _signed(self, standing: Standing) -> Leaf:
        tunnel = standing.role is PkiRole.BRIDGE
        key, csr = pki.new_key()
        issued = await pki.sign(
            self._client,
            self._space,
            standing.role,
            csr,
            uris=(self._uri,) if tunnel else (),
            names=() if tunnel else pki.BRIDGE_POD_NAMES,
            ttl=self._ttl,
            issuer=standing.authority.issuer,
        )
        if Authority.of(issued.authority_pem.decode()).der != standing.authority.der:
            raise UnavailableError(
                "OpenBao signs with another CA than the registration names",
                on=standing.role.mount(self._space),
                fix="if this lasts, run `cloudtaser-cli source rotate --ca` again: it completes itself",
            )
        return Leaf(issued.certificate_pem, issued.chain_pem, key, float(issued.not_after))


def _followed(
    have: dict[bytes, Standing], authorities: tuple[Authority, ...], role: PkiRole
) -> dict[bytes, Standing]:
    followed: dict[bytes, Standing] = {}
    for authority in authorities:
        standing = have.get(authority.der) or Standing(authority, role)
        standing.authority = authority  # the issuer to name may be another now
        followed[authority.der] = standing
    return followed


def _context(have: dict[bytes, Standing], authority: Authority) -> ssl.SSLContext:
    standing = have.get(authority.der)
    if standing is None or standing.context is None:
        raise UnavailableError("that CA is no longer served")
    return standing.context
