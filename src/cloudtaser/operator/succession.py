"""Succession: how one tunnel CA replaces another for those who pinned the first.

Used by `trust` (what is stored) and `exchange` (what a bridge says). Pure. A rotation leaves an endorsement,
a certificate under the former tunnel CA that names the next one by its SHA-256 and nobody else (spec/wire.md,
"CA rotation"); only OpenBao's administrator can have it made. An endorsement is checked for its time when a
CA is changed for its sake, and not afterwards: the lineage that is kept says how the pinned CA came to be,
and whoever held a former CA's key could date what he likes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from cloudtaser.errors import ProtocolError
from cloudtaser.operator.certificates import check_time, der, load_bundle, load_certificate, pem
from cloudtaser.wire.names import parse_successor

LINEAGE_LIMIT: Final = 32
"""Former CAs that are remembered; a bridge pin of an older one no longer fits."""
_WHAT: Final = "the endorsement of the new tunnel CA"


@dataclass(frozen=True, slots=True)
class Former:
    """A tunnel CA that was pinned once, and the endorsement by which the next one replaced it. Both PEM."""

    tunnel_ca: str
    endorsement: str


def succeed(
    pinned: x509.Certificate, successor: x509.Certificate, endorsement: str, fingerprint: str, now: datetime
) -> Former:
    """What to remember when `successor` takes the place of `pinned`.

    ProtocolError unless the endorsement is one certificate, signed by `pinned`, in time, for exactly this
    successor of this cluster's CA.
    """
    if not endorsement:
        raise ProtocolError(
            "the bridge answered with another tunnel CA than the pinned one, without an endorsement",
            fix="compare both with `cloudtaser-cli source show`: somebody else may be answering",
        )
    certificate = load_certificate(endorsement, _WHAT)
    check_endorsement(certificate, pinned, successor, fingerprint)
    check_time(certificate, _WHAT, now)
    return Former(pem(pinned), pem(certificate))


def check_endorsement(
    endorsement: x509.Certificate, former: x509.Certificate, successor: x509.Certificate, fingerprint: str
) -> None:
    """ProtocolError unless `former` signed the endorsement, and it names `successor` and nothing else."""
    try:
        endorsement.verify_directly_issued_by(former)
    except (InvalidSignature, ValueError, TypeError):
        raise ProtocolError(f"{_WHAT} is not signed by the pinned one") from None
    try:
        extensions = endorsement.extensions
        names = list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        may_sign = _may_sign(extensions)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError):
        raise ProtocolError(f"{_WHAT} cannot be read") from None
    if may_sign:
        raise ProtocolError(f"{_WHAT} is itself a CA")
    if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):
        raise ProtocolError(f"{_WHAT} does not carry exactly one name")
    if parse_successor(names[0].value, fingerprint) != hashlib.sha256(der(successor)).digest():
        raise ProtocolError(f"{_WHAT} names another one")


def encode_lineage(lineage: Sequence[Former]) -> str:
    """PEM: each former CA and behind it its endorsement, the oldest first."""
    return "".join(former.tunnel_ca + former.endorsement for former in lineage[-LINEAGE_LIMIT:])


def decode_lineage(text: str, current: x509.Certificate, fingerprint: str) -> tuple[Former, ...]:
    """The lineage of `current` as far back as every step can be verified; what cannot be is left out."""
    try:
        certificates = load_bundle(text, "the lineage of the tunnel CA") if text else []
    except ProtocolError:
        return ()
    lineage: list[Former] = []
    successor = current
    for former, endorsement in _pairs_backwards(certificates[-2 * LINEAGE_LIMIT :]):
        try:
            check_endorsement(endorsement, former, successor, fingerprint)
        except ProtocolError:
            break
        lineage.insert(0, Former(pem(former), pem(endorsement)))
        successor = former
    return tuple(lineage)


def _pairs_backwards(
    certificates: Sequence[x509.Certificate],
) -> Iterable[tuple[x509.Certificate, x509.Certificate]]:
    backwards = certificates[::-1]
    return zip(backwards[1::2], backwards[::2], strict=False)


def _may_sign(extensions: x509.Extensions) -> bool:
    try:
        if extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return True
    except x509.ExtensionNotFound:
        pass
    try:
        return extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        return False
