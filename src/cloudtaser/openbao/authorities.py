"""Authorities: a cluster's two CAs, made inside OpenBao, checked, and remade when they are damaged.

Used by `registration`. The keys never leave OpenBao ("internal"). A CA must be a self-signed P-256 root of
path length 0 with its key in the mount, in time, and the one that the registration holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloudtaser.openbao.pki import AUTHORITY_SECONDS, LEAF_SECONDS
from cloudtaser.openbao.steps import Steps
from cloudtaser.wire.hashes import operational_room, spki_pin

_MAX_LEASE_SECONDS: Final = AUTHORITY_SECONDS + 24 * 3600
_TIDY: Final = {
    "enabled": True,
    "tidy_cert_store": True,
    "tidy_revoked_certs": True,
    "interval_duration": 12 * 3600,
    "safety_buffer": LEAF_SECONDS,
}
_RENEW_BEFORE_SECONDS: Final = LEAF_SECONDS  # an authority that cannot sign a full day is of no use


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA certificate. `pem` is what OpenBao answers; `fingerprint` is SHA-256 of its DER, hex."""

    pem: str
    fingerprint: str
    pin: str


async def ensure_authority(
    steps: Steps, namespace: str, mount: str, name: str, *, recorded: str, now: float
) -> Authority | None:
    """The CA of the PKI mount, made if there is none, remade if it is not the recorded one or not usable.

    `recorded` is the PEM in the registration, "" before there is one; `now` in seconds since the epoch. None
    in a dry run that would make it.
    """
    await steps.mount(namespace, mount, "pki", f"holds the {name}", max_lease_ttl=_MAX_LEASE_SECONDS)
    path = f"{mount}/issuer/default"
    current = await steps.find(namespace, path)
    fault = _fault(current, recorded, now) if current is not None else ""
    whole = current is not None and not fault
    if whole:
        steps.fine(namespace, path, f"the {name}")
    else:
        if current is not None:
            why = f"the {name} {fault}: it goes, with all that it signed"
            await steps.do("DELETE", namespace, f"{mount}/root", why)
        body = {
            "common_name": f"cloudtaser {name}",
            "key_type": "ec",
            "key_bits": 256,
            "signature_bits": 256,
            "max_path_length": 0,
            "ttl": AUTHORITY_SECONDS,
            "exclude_cn_from_sans": True,
        }
        why = f"make the {name}, 10 years, its key inside OpenBao"
        await steps.do("POST", namespace, f"{mount}/root/generate/internal", why, body)
        current = await steps.find(namespace, path)  # not the answer: another run may have been faster
    why = f"forget expired leaves of the {name}"
    await steps.ensure(namespace, f"{mount}/config/auto-tidy", dict(_TIDY), why)
    if current is None or (steps.dry_run and not whole):
        return None
    return describe(str(current["certificate"]))


def describe(pem: str) -> Authority:
    """Hash and pin of a CA certificate."""
    certificate = x509.load_pem_x509_certificate(pem.encode())
    public = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    der = certificate.public_bytes(serialization.Encoding.DER)
    return Authority(pem.strip() + "\n", operational_room(der).hex(), spki_pin(public))


def _fault(current: dict[str, object], recorded: str, now: float) -> str:
    """What is wrong with a CA, as a phrase that follows its name; "" if nothing is."""
    try:
        certificate = x509.load_pem_x509_certificate(str(current["certificate"]).encode())
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        certificate.verify_directly_issued_by(certificate)
    except Exception:  # noqa: BLE001  # whatever a stranger put there: it is not our CA
        return "is not a self-signed authority"
    key = certificate.public_key()
    if not constraints.ca or constraints.path_length != 0:
        return "is not an authority of path length 0"
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        return "has no P-256 key"
    if not current.get("key_id"):
        return "is there without its key"
    if certificate.not_valid_after_utc.timestamp() < now + _RENEW_BEFORE_SECONDS:
        return "has expired"
    if recorded and not _same_certificate(recorded, certificate):
        return "is not the one in the registration"
    return ""


def _same_certificate(recorded: str, certificate: x509.Certificate) -> bool:
    try:
        return x509.load_pem_x509_certificate(recorded.encode()) == certificate
    except ValueError:
        return False
