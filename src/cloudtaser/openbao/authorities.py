"""Authorities: a cluster's two CAs, made inside OpenBao, checked, and remade when they are damaged.

Used by `registration`, and by `rotation` and `reset`, which have another follow. The keys never leave OpenBao
("internal"). A CA must be a self-signed P-256 root of path length 0 with its key in the mount, in time, and
the one that the registration holds; during a rotation a mount holds the former one besides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloudtaser.errors import CloudtaserError
from cloudtaser.openbao.issuers import (
    Issuer,
    authority_settings,
    forget_issuers,
    list_issuers,
    make_issuer,
    successor_name,
    use_issuer,
)
from cloudtaser.openbao.pki import AUTHORITY_SECONDS, LEAF_SECONDS
from cloudtaser.openbao.recorded import recorded_certificate
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
    current = await _current(steps, namespace, mount, recorded)
    fault = _fault(current, recorded, now) if current is not None else ""
    whole = current is not None and not fault
    if current is not None and whole:
        await use_issuer(steps, namespace, mount, current, f"the {name}")
    else:
        if current is not None:
            why = f"the {name} {fault}: it goes, with all that it signed"
            await steps.do("DELETE", namespace, f"{mount}/root", why)
        why = f"make the {name}, 10 years, its key inside OpenBao"
        path = f"{mount}/root/generate/internal"
        await steps.do("POST", namespace, path, why, authority_settings(name))
        # not the answer: another run may have been faster
        current = await _current(steps, namespace, mount, "")
    why = f"forget expired leaves of the {name}"
    await steps.ensure(namespace, f"{mount}/config/auto-tidy", dict(_TIDY), why)
    if current is None or (steps.dry_run and not whole):
        return None
    return describe(current.pem)


async def recorded_issuer(steps: Steps, namespace: str, mount: str, name: str, recorded: str) -> Issuer:
    """The issuer of the CA in the registration; CloudtaserError if the mount does not hold it and its key."""
    for issuer in await list_issuers(steps, namespace, mount):
        if issuer.bears(recorded) and issuer.key_id:
            return issuer
    raise CloudtaserError(
        f"OpenBao does not hold the {name} of the registration",
        on=f"{namespace}/{mount}",
        fix="run `source register` again, which makes it anew",
    )


async def ensure_successor(
    steps: Steps, namespace: str, mount: str, name: str, *, recorded: str, now: float
) -> Issuer | None:
    """The CA that is to follow the recorded one, made if an earlier run has not; None in a dry run."""
    follows = successor_name(describe(recorded).fingerprint)
    existing = await list_issuers(steps, namespace, mount)
    begun = next((issuer for issuer in existing if issuer.name == follows), None)
    if begun is not None:
        fault = _fault(begun, "", now)
        if not fault:
            steps.fine(namespace, f"{mount}/issuer/{begun.id}", f"the next {name}")
            return begun
        faulty = begun.id
        why = f"the next {name} {fault}"
        await forget_issuers(steps, namespace, mount, lambda issuer: issuer.id != faulty, why)
    why = f"make the next {name}, 10 years, its key inside OpenBao"
    return await make_issuer(steps, namespace, mount, name, follows, why)


async def _current(steps: Steps, namespace: str, mount: str, recorded: str) -> Issuer | None:
    """The issuer that the registration names, else the mount's default, else any; None in an empty mount."""
    issuers = await list_issuers(steps, namespace, mount)
    named = [issuer for issuer in issuers if recorded and issuer.bears(recorded)]
    return next(iter(named or issuers), None)


def describe(pem: str) -> Authority:
    """Hash and pin of a CA certificate. ProtocolError when it is none."""
    certificate = recorded_certificate(pem)
    public = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    der = certificate.public_bytes(serialization.Encoding.DER)
    return Authority(pem.strip() + "\n", operational_room(der).hex(), spki_pin(public))


def _fault(current: Issuer, recorded: str, now: float) -> str:
    """What is wrong with a CA, as a phrase that follows its name; "" if nothing is."""
    try:
        certificate = x509.load_pem_x509_certificate(current.pem.encode())
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        certificate.verify_directly_issued_by(certificate)
    except Exception:  # noqa: BLE001  # whatever a stranger put there: it is not our CA
        return "is not a self-signed authority"
    key = certificate.public_key()
    if not constraints.ca or constraints.path_length != 0:
        return "is not an authority of path length 0"
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        return "has no P-256 key"
    if not current.key_id:
        return "is there without its key"
    if certificate.not_valid_after_utc.timestamp() < now + _RENEW_BEFORE_SECONDS:
        return "has expired"
    if recorded and not current.bears(recorded):
        return "is not the one in the registration"
    return ""
