"""ServingKeys: the webhook's certificate and the CA above it, made here, kept in memory only.

Used by `serving`. Pure: the caller passes the time. Each CA signs one certificate and its key is gone the
moment it has: what a replica publishes is a certificate that nobody can sign under any more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloudtaser.errors import ProtocolError
from cloudtaser.net.tls import Identity
from cloudtaser.operator.certificates import check_ca, check_time, der, load_bundle, pem
from cloudtaser.secret import Secret

BACKDATED: Final = timedelta(hours=1)
"""An API server whose clock is behind must not refuse what was just made."""
MAX_PUBLISHED: Final = 8
"""CAs of one replica that are believed: the present one, the next, and the former."""


@dataclass(frozen=True, slots=True)
class ServingKeys:
    """One certificate under one CA. `ca_id` is the first 16 hex digits of the CA's SHA-256."""

    ca_pem: str
    ca_id: str
    identity: Identity
    not_before: float
    not_after: float
    """Unix seconds."""


def make_keys(names: Sequence[str], now: float, lifetime: float) -> ServingKeys:
    """Keys for a server that is called by any of `names`, from `now` on for `lifetime` seconds."""
    start, end = datetime.fromtimestamp(now, UTC), datetime.fromtimestamp(now + lifetime, UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = _name("cloudtaser webhook CA")
    ca = (
        _builder(issuer, issuer, ca_key.public_key(), start, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    leaf = (
        _builder(_name(names[0][:64]), issuer, key.public_key(), start, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    identity = Identity(leaf.public_bytes(Encoding.PEM), Secret(private))
    return ServingKeys(pem(ca), ca_id(ca), identity, now, leaf.not_valid_after_utc.timestamp())


def ca_id(ca: x509.Certificate) -> str:
    """By which a CA is called in Leases and logs."""
    return hashlib.sha256(der(ca)).hexdigest()[:16]


def read_published(text: str, now: datetime) -> dict[str, str]:
    """The CAs in what a replica published, by id, as PEM; those that are none or not in time are left out."""
    try:
        certificates = load_bundle(text, "a webhook's CA")[:MAX_PUBLISHED]
    except ProtocolError:
        return {}
    found: dict[str, str] = {}
    for certificate in certificates:
        try:
            check_ca(certificate, "a webhook's CA")
            check_time(certificate, "a webhook's CA", now)
        except ProtocolError:
            continue
        found[ca_id(certificate)] = pem(certificate)
    return found


def service_names(service: str, namespace: str) -> tuple[str, ...]:
    """What an API server calls a Service; the first is what it checks."""
    return f"{service}.{namespace}.svc", f"{service}.{namespace}.svc.cluster.local", f"{service}.{namespace}"


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - BACKDATED)
        .not_valid_after(end)
    )


def _usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
