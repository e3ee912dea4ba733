"""Certificate requests from a peer that has proved nothing yet: what is read, and what is refused.

Used by `bootstrap` before anything reaches OpenBao. Of a request the bridge takes the public key alone; names
and URIs in it are neither read nor passed on (the PKI roles ignore them as well). Keys are P-256 throughout.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cloudtaser.errors import ProtocolError

MAX_CSR: Final = 4096
"""Bytes of PEM; a P-256 request is about 400."""


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """A request whose own signature holds."""

    pem: str
    """Written anew from what was parsed, so that no second parser reads another request in the same text."""
    public_key: ec.EllipticCurvePublicKey

    @property
    def spki(self) -> bytes:
        """SubjectPublicKeyInfo, DER."""
        return self.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def public_key_sha256(self) -> str:
        """Hex digest under which `initialized` remembers the key."""
        return hashlib.sha256(self.spki).hexdigest()

    def proves(self, signature: bytes, message: bytes) -> bool:
        """Whether the request's key signed `message` (ECDSA, SHA-256, DER)."""
        try:
            self.public_key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True


def read_csr(pem: str) -> CertificateRequest:
    """The request in `pem`. ProtocolError unless it is one request, P-256, signed by its own key."""
    if len(pem) > MAX_CSR:
        raise ProtocolError("the certificate request is too long")
    try:
        request = x509.load_pem_x509_csr(pem.encode("ascii"))
        key = request.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ProtocolError("the certificate request's key is not P-256")
        if not request.is_signature_valid:
            raise ProtocolError("the certificate request is not signed by its own key")
        return CertificateRequest(request.public_bytes(Encoding.PEM).decode("ascii"), key)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ProtocolError("the certificate request cannot be read") from None
