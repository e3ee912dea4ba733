"""Leaves: pairs of certificate and key that the bridge is given, in place of those that it has signed.

Used by `identity`, which asks with every poll, and by `station` for what an operator is handed.
`StoredLeaves` are those of the pre-generated form in OpenBao; those in files are in `files`. What is given is
checked: a pair that does not fit is refused, and the one in use stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cloudtaser.bridge.authorities import Authority
from cloudtaser.errors import CloudtaserError, UnavailableError
from cloudtaser.net.tls import Identity
from cloudtaser.openbao.pki import PkiRole
from cloudtaser.openbao.pregenerated import Authorities, Party, fault_of
from cloudtaser.openbao.records import Pair, Records
from cloudtaser.secret import Secret

_PARTIES: Final = {PkiRole.BRIDGE: Party.BRIDGE, PkiRole.BRIDGE_POD: Party.BRIDGE_POD}


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


class Leaves(Protocol):
    """Where pairs are given."""

    async def look(self, role: PkiRole, authority: Authority, now: float) -> Leaf | None:
        """The pair to show under that CA, as it is now; None where one is to be signed. CloudtaserError when
        what is given cannot be used."""


class StoredLeaves:
    """The pairs that `source register --pregenerate` stored for one cluster.

    One that is missing, has ended or does not fit is complained of, and the bridge signs in its place as in
    the ordinary form: a year passes, and nobody should be without secrets for it.
    """

    def __init__(
        self, records: Records, fingerprint: str, on_failed: Callable[[CloudtaserError], None]
    ) -> None:
        self._records = records
        self._fingerprint = fingerprint
        self._on_failed = on_failed
        self._seen: dict[Party, tuple[Pair, Leaf]] = {}

    async def look(self, role: PkiRole, authority: Authority, now: float) -> Leaf | None:
        """None under a former CA as well: stored pairs are of the current one."""
        party = _PARTIES[role]
        pair = await self._pair(party, authority, now)
        if pair is None:
            return None
        seen = self._seen.get(party)
        if seen is None or seen[0] != pair:
            leaf = leaf_of(pair.certificate.encode(), Secret(pair.key))
            seen = self._seen[party] = pair, leaf
        return seen[1]

    async def broker(self, authority: Authority, now: float) -> Pair | None:
        """What an operator is handed with its key; None where its own request is to be signed."""
        return await self._pair(Party.BROKER, authority, now)

    async def _pair(self, party: Party, authority: Authority, now: float) -> Pair | None:
        if authority.issuer:
            return None
        pair, _ = await self._records.pair(self._fingerprint, party)
        both = Authorities(authority.pem, authority.pem)
        fault = (
            fault_of(pair, party, self._fingerprint, both, now, spare=0) if pair is not None else "is missing"
        )
        if fault:
            self._on_failed(
                UnavailableError(
                    f"the stored pair of the {party} {fault}",
                    on=self._fingerprint,
                    fix="run `cloudtaser-cli source register` again: it looks after stored pairs",
                )
            )
            return None
        return pair


def leaf_of(certificates: bytes, key: Secret) -> Leaf:
    """A pair whose first certificate is the leaf and whose others are its chain; ValueError when none is."""
    first, *chain = x509.load_pem_x509_certificates(certificates)
    pem = _pem(first)
    return Leaf(pem, b"".join(map(_pem, chain)), key, first.not_valid_after_utc.timestamp())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)
