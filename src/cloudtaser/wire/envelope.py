"""The unseal envelope, version 2: how a token reaches one start of one container, and nobody else.

The operator seals with `seal` for a key that a wrapper announced; `open_envelope` is the receiving side as a
reference, for tests and tools. (The wrapper, which may import nothing outside itself, has its own in
`wrapper/envelope`, held to the same vectors.) Pure: keys, bytes and the time come from the caller.

spec/wire.md, "Unseal envelope, version 2". X25519 (RFC 7748), HKDF (RFC 5869), AES-256-GCM, ECDSA or Ed25519.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ObjectIdentifier

from cloudtaser.errors import ProtocolError
from cloudtaser.secret import Secret
from cloudtaser.wire.names import operator_uri
from cloudtaser.wire.strict_json import dump_object, parse_object

VERSION: Final = 2
KEY_BYTES: Final = 32
MAX_ENVELOPE: Final = 8192
MAX_LEAF: Final = 2048
MAX_TOKEN: Final = 2048
MAX_TTL: Final = 10 * 365 * 24 * 3600
INFO: Final = b"cloudtaser/unseal/v2"
SIGNATURE_LABEL: Final = b"cloudtaser/unseal/v2/sig"

_TAG: Final = 16
_NONCE: Final = bytes(12)  # the key is used once
_MAX_PLAINTEXT: Final = MAX_TOKEN + 64
_MAX_SIGNATURE: Final = 256
_MEMBERS: Final = frozenset(("v", "epk", "ct", "leaf", "sig"))
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}", re.ASCII)
_DOCUMENT_SIGNING: Final = ObjectIdentifier("1.3.6.1.5.5.7.3.36")  # RFC 9336

SigningKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class Recipient:
    """For whom: the X25519 key of one start, and which container of which pod it is."""

    public_key: bytes
    pod_uid: str
    container: str

    def info(self) -> bytes:
        """What key and ciphertext are bound to. ProtocolError for a name that is none."""
        for what, name in (("pod UID", self.pod_uid), ("container name", self.container)):
            if not _NAME.fullmatch(name):
                raise ProtocolError(f"not a {what}: {name[:80]!r}")
        if len(self.public_key) != KEY_BYTES:
            raise ProtocolError(f"an X25519 key has {KEY_BYTES} bytes, not {len(self.public_key)}")
        return INFO + b"\0" + self.pod_uid.encode() + b"\0" + self.container.encode()


@dataclass(frozen=True, slots=True)
class Token:
    """What is inside: an OpenBao token, and how many seconds it lives unless it is renewed."""

    value: Secret
    ttl: int

    def plaintext(self) -> bytes:
        """As it is encrypted. ProtocolError for what no token looks like."""
        value = self.value.reveal()
        if not 0 < len(value) <= MAX_TOKEN or not all(33 <= byte <= 126 for byte in value):
            raise ProtocolError("a token is up to 2048 printable ASCII characters without a blank")
        if not 0 <= self.ttl <= MAX_TTL:
            raise ProtocolError(f"a token's ttl is between 0 and {MAX_TTL} seconds")
        return dump_object({"token": value.decode("ascii"), "ttl": self.ttl})


def seal(
    token: Token,
    recipient: Recipient,
    leaf_der: bytes,
    key: SigningKey,
    *,
    ephemeral: X25519PrivateKey | None = None,
) -> bytes:
    """The envelope as it is posted. `key` belongs to the certificate `leaf_der`; `ephemeral` is for vectors
    only: a fresh one is made otherwise. ProtocolError where the recipient's key or names are no good."""
    info = recipient.info()
    ephemeral = ephemeral or X25519PrivateKey.generate()
    epk = ephemeral.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    encryption_key = _derive(ephemeral, recipient.public_key, epk, recipient.public_key, info)
    ciphertext = AESGCM(encryption_key).encrypt(_NONCE, token.plaintext(), info)
    message = signed_message(epk, recipient, ciphertext, leaf_der)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        signature = key.sign(message)
    else:
        signature = key.sign(message, ec.ECDSA(SHA256()))
    envelope = {
        "v": VERSION,
        "epk": _encode(epk),
        "ct": _encode(ciphertext),
        "leaf": _encode(leaf_der),
        "sig": _encode(signature),
    }
    return dump_object(envelope)


def open_envelope(
    envelope: bytes,
    private_key: X25519PrivateKey,
    recipient: Recipient,
    *,
    authority: x509.Certificate,
    fingerprint: str,
    at: datetime,
) -> Token:
    """The token, if everything about the envelope is right. ProtocolError, which says what is not.

    The signature is looked at before anything else is done with the key. `at` is in UTC, without a zone.
    """
    fields = parse_object(envelope, what="an envelope", limit=MAX_ENVELOPE)
    if fields.get("v") != VERSION or type(fields["v"]) is not int:
        raise ProtocolError("an envelope of another version")
    if set(fields) != _MEMBERS:
        raise ProtocolError("an envelope with other members than v, epk, ct, leaf and sig")
    epk = _decode(fields, "epk", KEY_BYTES, KEY_BYTES)
    ciphertext = _decode(fields, "ct", _TAG + 1, _TAG + _MAX_PLAINTEXT)
    leaf_der = _decode(fields, "leaf", 1, MAX_LEAF)
    signature = _decode(fields, "sig", 1, _MAX_SIGNATURE)
    leaf = check_leaf(leaf_der, authority=authority, fingerprint=fingerprint, at=at)
    info = recipient.info()
    _verify(leaf, signature, signed_message(epk, recipient, ciphertext, leaf_der))
    key = _derive(private_key, epk, epk, recipient.public_key, info)
    try:
        plaintext = AESGCM(key).decrypt(_NONCE, ciphertext, info)
    except InvalidTag:
        raise ProtocolError("the envelope's content does not decrypt") from None
    return _read(plaintext)


def signed_message(epk: bytes, recipient: Recipient, ciphertext: bytes, leaf_der: bytes) -> bytes:
    """What the signature is over: the label, then each part with its length in 4 bytes, big-endian."""
    parts = (
        bytes((VERSION,)),
        epk,
        recipient.public_key,
        recipient.pod_uid.encode(),
        recipient.container.encode(),
        ciphertext,
        hashlib.sha256(leaf_der).digest(),
    )
    return SIGNATURE_LABEL + b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def check_leaf(
    leaf_der: bytes, *, authority: x509.Certificate, fingerprint: str, at: datetime
) -> x509.Certificate:
    """The operator's sealing certificate, or ProtocolError: signed by the pod CA itself, in time, and good
    for nothing but sealing for this cluster."""
    try:
        leaf = x509.load_der_x509_certificate(leaf_der)
        leaf.verify_directly_issued_by(authority)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
        purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        values = [extension.value for extension in leaf.extensions]
        is_authority = any(isinstance(value, x509.BasicConstraints) and value.ca for value in values)
        unknown = any(
            extension.critical and isinstance(extension.value, x509.UnrecognizedExtension)
            for extension in leaf.extensions
        )
    except x509.ExtensionNotFound as error:
        raise ProtocolError(f"the sealing certificate lacks {error.oid._name}") from None
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.DuplicateExtension):
        raise ProtocolError("the sealing certificate is not one of the pod CA") from None
    for certificate in (leaf, authority):
        begins = certificate.not_valid_before_utc.replace(tzinfo=None)
        ends = certificate.not_valid_after_utc.replace(tzinfo=None)
        if not begins <= at <= ends:
            raise ProtocolError("the sealing certificate is out of its time")
    if list(names) != [x509.UniformResourceIdentifier(operator_uri(fingerprint))]:
        raise ProtocolError("the sealing certificate is not that of this cluster's operator")
    if unknown or is_authority or not usage.digital_signature or usage.key_cert_sign or usage.crl_sign:
        raise ProtocolError("the sealing certificate's key is for something else")
    if list(purposes) != [_DOCUMENT_SIGNING]:
        raise ProtocolError("the sealing certificate's key is for something else")
    return leaf


def _verify(leaf: x509.Certificate, signature: bytes, message: bytes) -> None:
    key = leaf.public_key()
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, message)
        elif isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
            key.verify(signature, message, ec.ECDSA(SHA256()))
        else:
            raise ProtocolError("the sealing certificate's key is neither P-256 nor Ed25519")
    except InvalidSignature:
        raise ProtocolError(
            "the envelope's signature does not hold for this pod, container and key"
        ) from None


def _derive(mine: X25519PrivateKey, theirs: bytes, epk: bytes, rpk: bytes, info: bytes) -> bytes:
    try:
        shared = mine.exchange(X25519PublicKey.from_public_bytes(theirs))
    except ValueError:  # a point of small order makes an all-zero secret (RFC 7748, section 6.1)
        raise ProtocolError("an X25519 key that agrees on nothing") from None
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=epk + rpk, info=info).derive(shared)


def _read(plaintext: bytes) -> Token:
    fields = parse_object(plaintext, what="the envelope's content", limit=_MAX_PLAINTEXT)
    value, ttl = fields.get("token"), fields.get("ttl")
    if set(fields) != {"token", "ttl"} or not isinstance(value, str) or type(ttl) is not int:
        raise ProtocolError("the envelope's content is no token and ttl")
    token = Token(Secret(value), ttl)
    token.plaintext()
    return token


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _decode(fields: dict[str, Any], name: str, low: int, high: int) -> bytes:
    """A member's bytes: base64 (RFC 4648, section 4) that could be written no other way."""
    text = fields[name]
    try:
        data = binascii.a2b_base64(text, strict_mode=True) if isinstance(text, str) else b""
    except ValueError:
        data = b""
    if not low <= len(data) <= high or _encode(data) != text:
        raise ProtocolError(f"an envelope whose {name} is not base64 of {low} to {high} bytes")
    return data
