"""Certificates of the tunnel: the key a broker makes, and every check before it trusts what a bridge says.

Used by `exchange` and `tunnels`. Pure: PEM in, objects out or ProtocolError; the caller passes the time. A
chain is always one step, since both of a cluster's CAs have path length 0 (spec/openbao.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from cloudtaser.errors import ProtocolError
from cloudtaser.secret import Secret
from cloudtaser.wire.hashes import spki_pin
from cloudtaser.wire.names import PartyName, PartyRole, parse_uri

LEEWAY: Final = timedelta(seconds=30)
"""How far two clocks may differ before a certificate that starts now is refused."""
_USAGE: Final = {
    "bridge": ExtendedKeyUsageOID.CLIENT_AUTH,  # the bridge is the TLS client of the tunnel
    "broker": ExtendedKeyUsageOID.SERVER_AUTH,
}


@dataclass(frozen=True, slots=True)
class BrokerKey:
    """A P-256 key for one certificate, in memory only, with its CSR and SubjectPublicKeyInfo."""

    private: ec.EllipticCurvePrivateKey
    csr_pem: str
    spki: bytes

    @classmethod
    def generate(cls) -> BrokerKey:
        """A new key. The CSR names nobody: the bridge takes nothing but the public key from it."""
        return cls._of(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_pem(cls, text: str) -> BrokerKey:
        """A key of the pre-generated form, which a bridge hands over. ProtocolError unless it is P-256."""
        try:
            private = load_pem_private_key(text.encode("ascii"), None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise ProtocolError("the key that the bridge sent cannot be read") from None
        if not isinstance(private, ec.EllipticCurvePrivateKey) or not isinstance(private.curve, ec.SECP256R1):
            raise ProtocolError("the key that the bridge sent is not P-256")
        return cls._of(private)

    @classmethod
    def _of(cls, private: ec.EllipticCurvePrivateKey) -> BrokerKey:
        csr = (
            x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(private, hashes.SHA256())
        )
        return cls(private, csr.public_bytes(Encoding.PEM).decode(), spki_der(csr))

    def sign(self, message: bytes) -> bytes:
        """ECDSA with SHA-256, DER."""
        return self.private.sign(message, ec.ECDSA(hashes.SHA256()))

    def pem(self) -> Secret:
        """The private key as PKCS #8 PEM, for a TLS context."""
        return Secret(self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def spki_der(holder: x509.Certificate | x509.CertificateSigningRequest) -> bytes:
    """SubjectPublicKeyInfo of a certificate or request, DER."""
    return holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def der(certificate: x509.Certificate) -> bytes:
    """The certificate's DER, which the room hashes are made of."""
    return certificate.public_bytes(Encoding.DER)


def pem(certificate: x509.Certificate) -> str:
    """The certificate's PEM, in one spelling."""
    return certificate.public_bytes(Encoding.PEM).decode()


def load_ca(text: str, what: str, now: datetime) -> x509.Certificate:
    """The one CA certificate in `text`, in time. ProtocolError naming `what` otherwise."""
    certificate = load_certificate(text, what)
    check_ca(certificate, what)
    check_time(certificate, what, now)
    return certificate


def check_ca(certificate: x509.Certificate, what: str) -> None:
    """ProtocolError unless it says of itself that it is a CA."""
    try:
        is_ca = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        is_ca = False
    if not is_ca:
        raise ProtocolError(f"{what} is not a CA certificate")


def load_certificate(text: str, what: str) -> x509.Certificate:
    """The one certificate in `text`. ProtocolError naming `what` when there is none, or more than one."""
    certificates = load_bundle(text, what)
    if len(certificates) != 1:
        raise ProtocolError(f"{what} is {len(certificates)} certificates, not one")
    return certificates[0]


def load_bundle(text: str, what: str) -> list[x509.Certificate]:
    """The certificates in `text`, at least one. ProtocolError naming `what` otherwise."""
    try:
        return x509.load_pem_x509_certificates(text.encode())
    except ValueError:
        raise ProtocolError(f"{what} is not a PEM certificate") from None


def check_leaf(
    certificate: x509.Certificate, ca: x509.Certificate, *, fingerprint: str, role: PartyRole, now: datetime
) -> PartyName:
    """Who holds `certificate`. ProtocolError unless `ca` signed it, in time, and it names exactly that role.

    Exactly one URI SAN, of this cluster and `role`; no other SAN; the extended key usage of the role; not a
    CA.
    """
    what = f"the {role}'s certificate"
    try:
        certificate.verify_directly_issued_by(ca)
    except (InvalidSignature, ValueError, TypeError):
        raise ProtocolError(f"{what} is not signed by the pinned tunnel CA") from None
    check_time(ca, "the tunnel CA", now)
    check_time(certificate, what, now)
    try:
        extensions = certificate.extensions
        names = list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        usages = list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        raise ProtocolError(f"{what} lacks a name or a usage") from None
    try:
        may_sign = extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        may_sign = False
    if may_sign or _USAGE[role] not in usages:
        raise ProtocolError(f"{what} is not made for that role")
    if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):
        raise ProtocolError(f"{what} does not carry exactly one name")
    party = parse_uri(names[0].value)
    if party.fingerprint != fingerprint or party.role != role:
        raise ProtocolError(f"{what} names another party", on=names[0].value)
    return party


def check_own(certificate: x509.Certificate, key: BrokerKey) -> None:
    """ProtocolError unless the certificate carries exactly the key that we made."""
    if spki_der(certificate) != key.spki:
        raise ProtocolError("the certificate that the bridge sent is not for our key")


def check_pin(ca: x509.Certificate, pin: str, formers: Iterable[x509.Certificate] = ()) -> None:
    """ProtocolError unless `pin` is empty, the CA's own, or that of one of the CAs that it descends from."""
    found = spki_pin(spki_der(ca))
    if pin and pin != found and all(pin != spki_pin(spki_der(former)) for former in formers):
        raise ProtocolError(
            f"the bridge's tunnel CA is not the pinned one: it has {found}",
            on="bridge pin",
            fix="compare with `cloudtaser-cli source show`: somebody else may be answering, or the CA was "
            "rotated and this cluster's ConfigMap cloudtaser-trust is gone",
        )


def check_room(ca: x509.Certificate, info_hash: str, formers: Iterable[x509.Certificate] = ()) -> None:
    """ProtocolError unless `info_hash` is empty, the SHA-256 of the CA, or of one that it descends from."""
    known = [hashlib.sha256(der(one)).hexdigest() for one in (ca, *formers)]
    if info_hash and info_hash not in known:
        raise ProtocolError(
            f"the bridge's tunnel CA is not the one of the info hash: its SHA-256 begins {known[0][:12]}",
            on="--beacon-info-hash",
            fix="compare with `cloudtaser-cli source show`: somebody else may be answering, or the CA was "
            "rotated and this cluster's ConfigMap cloudtaser-trust is gone",
        )


def check_info_hash(ca: x509.Certificate, info_hash: str) -> None:
    """ProtocolError unless the hash is the CA's."""
    if hashlib.sha256(der(ca)).hexdigest() != info_hash.lower():
        raise ProtocolError("the info hash that the bridge sent is not that of its tunnel CA")


def check_signature(certificate: x509.Certificate, signature: bytes, message: bytes) -> None:
    """ProtocolError unless the certificate's P-256 key made the signature."""
    public = certificate.public_key()
    try:
        if not isinstance(public, ec.EllipticCurvePublicKey):
            raise InvalidSignature
        public.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        raise ProtocolError("the bridge's signature over this handshake is not valid") from None


def now_utc() -> datetime:
    """The clock of every shell that calls these checks."""
    return datetime.now(UTC)


def check_time(certificate: x509.Certificate, what: str, now: datetime) -> None:
    """ProtocolError unless the certificate is in time, give or take the leeway at its beginning."""
    if now > certificate.not_valid_after_utc:
        raise ProtocolError(f"{what} expired at {certificate.not_valid_after_utc.isoformat()}")
    if now + LEEWAY < certificate.not_valid_before_utc:
        raise ProtocolError(
            f"{what} is valid only from {certificate.not_valid_before_utc.isoformat()}",
            fix="check the clocks of both sides",
        )
