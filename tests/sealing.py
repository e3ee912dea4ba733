"""A pod CA and what it signs, right and wrong, for everything that seals or is unsealed in tests.

python -m tests.sealing    writes tests/vectors/envelope.json anew
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID, ObjectIdentifier

from cloudtaser.secret import Secret
from cloudtaser.wire.envelope import Recipient, SigningKey, Token, seal
from cloudtaser.wire.names import operator_uri

VECTORS = Path(__file__).parent / "vectors" / "envelope.json"
FINGERPRINT = "3f1c8a52-7c7e-4e0b-9d5e-0c6f2b7a1d34"
OTHER_FINGERPRINT = "0ad50c05-1153-4508-9237-4cb2912e2c23"
POD_UID = "7f0c2d54-9d3f-4ef3-8a3e-5f6f2f1f0a11"
CONTAINER = "app"
TOKEN = "s.CANARYtokenCANARYtoken01.YcVtkP"
DOCUMENT_SIGNING = ObjectIdentifier("1.3.6.1.5.5.7.3.36")
SERVER_AUTH = ObjectIdentifier("1.3.6.1.5.5.7.3.1")

LeafKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


def p256() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def usage(*, sign: bool = True, certify: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(sign, False, False, False, False, certify, certify, False, False)


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


@dataclass(slots=True)
class Authority:
    """A pod CA, in force for ten years from `begins` (UTC), as OpenBao makes one."""

    begins: datetime
    name: str = "cloudtaser pod CA"
    key: ec.EllipticCurvePrivateKey = field(default_factory=p256)
    certificate: x509.Certificate = field(init=False)

    def __post_init__(self) -> None:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        builder = self._builder(name, self.key, 3650, self.begins)
        builder = builder.add_extension(x509.BasicConstraints(True, 0), critical=True)
        builder = builder.add_extension(usage(sign=False, certify=True), critical=True)
        self.certificate = builder.sign(self.key, hashes.SHA256())

    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def leaf(
        self,
        key: LeafKey,
        *,
        names: Iterable[x509.GeneralName] = (x509.UniformResourceIdentifier(operator_uri(FINGERPRINT)),),
        purposes: Iterable[ObjectIdentifier] = (DOCUMENT_SIGNING,),
        key_usage: x509.KeyUsage | None = None,
        begins: datetime | None = None,
        authority: bool = False,
        extra: x509.ExtensionType | None = None,
    ) -> bytes:
        """One for a day, in DER: that of the cluster's operator unless told otherwise."""
        builder = self._builder(x509.Name([]), key, 1, begins or self.begins)
        builder = builder.add_extension(x509.SubjectAlternativeName(list(names)), critical=True)
        builder = builder.add_extension(key_usage or usage(), critical=True)
        if purposes := list(purposes):
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        if authority:
            builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
        if extra is not None:
            builder = builder.add_extension(extra, critical=True)
        return der(builder.sign(self.key, hashes.SHA256()))

    def _builder(
        self, subject: x509.Name, key: LeafKey, days: int, begins: datetime
    ) -> x509.CertificateBuilder:
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        public = key.public_key()
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(begins).not_valid_after(begins + timedelta(days=days))
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        return builder.add_extension(authority, critical=False)


def wrong_leaves(authority: Authority, key: ec.EllipticCurvePrivateKey) -> dict[str, bytes]:
    """Certificates that no envelope may come under, all for `key`, by what is wrong with each."""
    uri = x509.UniformResourceIdentifier(operator_uri(FINGERPRINT))
    other = Authority(authority.begins)
    days = timedelta(days=2)
    return {
        "another authority of the same name": other.leaf(key),
        "expired": authority.leaf(key, begins=authority.begins - days),
        "not yet valid": authority.leaf(key, begins=authority.begins + days),
        "another cluster": authority.leaf(
            key, names=[x509.UniformResourceIdentifier(operator_uri(OTHER_FINGERPRINT))]
        ),
        "a broker": authority.leaf(
            key, names=[x509.UniformResourceIdentifier(f"cloudtaser://{FINGERPRINT}/broker/1")]
        ),
        "a longer URI": authority.leaf(
            key, names=[x509.UniformResourceIdentifier(f"cloudtaser://{FINGERPRINT}/operator/")]
        ),
        "the bridge": authority.leaf(
            key, names=[x509.DNSName("bridge.cloudtaser.internal")], purposes=[SERVER_AUTH]
        ),
        "the operator's server": authority.leaf(
            key, names=[x509.DNSName("operator.cloudtaser.internal")], purposes=[SERVER_AUTH]
        ),
        "a DNS name added": authority.leaf(key, names=[uri, x509.DNSName("operator.cloudtaser.internal")]),
        "a DNS name instead": authority.leaf(
            key, names=[x509.DNSName(f"cloudtaser://{FINGERPRINT}/operator")]
        ),
        "the URI twice": authority.leaf(key, names=[uri, uri]),
        "a server's purpose": authority.leaf(key, purposes=[SERVER_AUTH]),
        "a second purpose": authority.leaf(key, purposes=[DOCUMENT_SIGNING, SERVER_AUTH]),
        "no purpose": authority.leaf(key, purposes=[]),
        "a key that may not sign": authority.leaf(
            key, key_usage=x509.KeyUsage(False, False, True, False, False, False, False, False, False)
        ),
        "a key that may certify": authority.leaf(key, key_usage=usage(certify=True)),
        "an authority itself": authority.leaf(key, authority=True, key_usage=usage(certify=True)),
        "an unknown critical extension": authority.leaf(
            key, extra=x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"\5\0")
        ),
        "the pod CA's own": der(authority.certificate),
        "bytes behind it": authority.leaf(key) + b"\0",
        "no certificate": b"0\3\2\1\5",
    }


def _hex(key: X25519PrivateKey) -> str:
    return key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()).hex()


def public(key: X25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def altered(envelope: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The envelope with its members changed."""
    fields = json.loads(envelope)
    change(fields)
    return json.dumps(fields, separators=(",", ":")).encode()


def make_vectors() -> dict[str, Any]:
    begins = datetime(2026, 1, 1)  # UTC, as X.509 has it
    authority = Authority(begins)
    mine, ephemeral = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    recipient = Recipient(public(mine), POD_UID, CONTAINER)
    token = Token(Secret(TOKEN), 3600)

    def sealed(key: SigningKey, leaf: bytes, **changes: Any) -> bytes:
        whom = Recipient(
            changes.get("public_key", recipient.public_key),
            changes.get("pod_uid", POD_UID),
            changes.get("container", CONTAINER),
        )
        return seal(token, whom, leaf, key, ephemeral=ephemeral)

    key, bare = p256(), ed25519.Ed25519PrivateKey.generate()
    good = sealed(key, authority.leaf(key))
    other = seal(token, recipient, authority.leaf(key), key)
    large, weak = ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)
    refused = {name: sealed(key, leaf) for name, leaf in wrong_leaves(authority, key).items()}
    refused |= {
        "for another pod": sealed(key, authority.leaf(key), pod_uid="7f0c2d54-9d3f-4ef3-8a3e-5f6f2f1f0a12"),
        "for another container": sealed(key, authority.leaf(key), container="app2"),
        "for another start": sealed(key, authority.leaf(key), public_key=public(X25519PrivateKey.generate())),
        "another key's signature": sealed(p256(), authority.leaf(key)),
        "a P-384 key": sealed(large, authority.leaf(large)),
        "the content of another envelope": altered(good, lambda f: f.update(ct=json.loads(other)["ct"])),
        "the key of another envelope": altered(good, lambda f: f.update(epk=json.loads(other)["epk"])),
        "a leaf that differs": altered(good, lambda f: f.update(leaf=_b64(authority.leaf(key)))),
        "an RSA key": altered(good, lambda f: f.update(leaf=_b64(authority.leaf(weak)))),
        "a zero key": altered(good, lambda f: f.update(epk=_b64(bytes(32)))),
        "version 1": altered(good, lambda f: f.update(v=1)),
        "version 2.0": good.replace(b'"v":2', b'"v":2.0'),
        "version as text": altered(good, lambda f: f.update(v="2")),
        "version true": altered(good, lambda f: f.update(v=True)),
        "no signature": altered(good, lambda f: f.pop("sig")),
        "an empty signature": altered(good, lambda f: f.update(sig="")),
        "a member more": altered(good, lambda f: f.update(token="s.x")),
        "a member twice": good[:-1] + b',"v":2}',
        "a key cut short": altered(good, lambda f: f.update(epk=f["epk"][:40])),
        "a key with a blank": altered(good, lambda f: f.update(epk=" " + f["epk"])),
        "base64 with loose bits": good.replace(_tail(good), _loose(good)),
        "a tag cut short": altered(good, lambda f: f.update(ct=_b64(base64.b64decode(f["ct"])[:-1]))),
        "text behind it": good + b"{}",
        "an array": b"[" + good + b"]",
        "nothing": b"",
    }
    return {
        "about": "made by tests/sealing.py with the cryptography library; binary values in hex",
        "fingerprint": FINGERPRINT,
        "pod_uid": POD_UID,
        "container": CONTAINER,
        "authority": authority.pem(),
        "at": int((begins + timedelta(hours=12) - datetime(1970, 1, 1)).total_seconds()),
        "private_key": _hex(mine),
        "public_key": recipient.public_key.hex(),
        "ephemeral_private_key": _hex(ephemeral),
        "info": recipient.info().hex(),
        "token": TOKEN,
        "ttl": 3600,
        "good": {"P-256": good.decode(), "Ed25519": sealed(bare, authority.leaf(bare)).decode()},
        "refused": {name: envelope.decode("latin-1") for name, envelope in refused.items()},
    }


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _tail(envelope: bytes) -> bytes:
    return str(json.loads(envelope)["epk"]).encode()


def _loose(envelope: bytes) -> bytes:
    """The same 32 bytes, with bits set that base64 does not use."""
    text = _tail(envelope).decode()
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return (text[:-2] + alphabet[alphabet.index(text[-2]) + 1] + "=").encode()


if __name__ == "__main__":
    VECTORS.write_text(json.dumps(make_vectors(), indent=2) + "\n")
