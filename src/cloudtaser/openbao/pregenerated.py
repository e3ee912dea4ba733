"""The pre-generated form: a cluster's pairs of certificate and key, of one year, kept in OpenBao.

Used by registration and rotation, which make them, by bridges, which show and hand them out, and by
`source register --out-dir`, which writes a bridge's to files. In the ordinary form every key lives in the
memory of whoever made it, for a day; this form is for places where that cannot be. The roles are an
administrator's: no policy of a bridge names them. (spec/wire.md, "Pre-generated form".)
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from cloudtaser.errors import ProtocolError
from cloudtaser.openbao.layout import Layout, Space
from cloudtaser.openbao.pki import BRIDGE_POD_NAMES, PkiRole, new_key, role_settings, sign
from cloudtaser.openbao.records import Pair, Records, instant, seconds
from cloudtaser.openbao.steps import Action, Steps
from cloudtaser.wire.names import bridge_uri, broker_uri

YEAR_SECONDS: Final = 365 * 24 * 3600
RENEW_BEFORE: Final = 30 * 24 * 3600
"""Seconds before the end of a pair from which on `source register` makes it anew."""
INSTANCE: Final = "pregenerated"
"""Bridge and broker share one name each, as all replicas share a pair."""


class Party(enum.StrEnum):
    """Whose pair. The value is the end of its record's name."""

    BRIDGE = "bridge"
    BROKER = "broker"
    BRIDGE_POD = "bridge-pod"

    @property
    def usual(self) -> PkiRole:
        """The role of the ordinary form, from which this one differs by its time."""
        return PkiRole(self.value)

    @property
    def role(self) -> str:
        """The role's name in OpenBao."""
        return f"pregenerated-{self.value}"


@dataclass(frozen=True, slots=True)
class Authorities:
    """The cluster's two CAs, PEM."""

    tunnel: str
    pod: str

    def of(self, party: Party) -> str:
        """The one that signs for `party`."""
        return self.pod if party is Party.BRIDGE_POD else self.tunnel


async def pregenerate(
    steps: Steps,
    layout: Layout,
    space: Space,
    fingerprint: str,
    authorities: Authorities | None,
    *,
    now: float,
    made_before: str = "",
) -> tuple[Party, ...]:
    """Have whole pairs of all parties; those that were made anew.

    Anew is made what is missing, about to end, not under these CAs, damaged, or was made before the instant
    `made_before`: killed anywhere and run again, it completes. `authorities` is None in a dry run that would
    make them.
    """
    made = []
    for party in Party:
        path = f"{party.usual.mount(space)}/roles/{party.role}"
        settings = _role_settings(party, fingerprint)
        await steps.ensure(space.namespace, path, settings, f"what certificates of role {party.role} may say")
        if await _ensure_pair(steps, layout, space, fingerprint, party, authorities, now, made_before):
            made.append(party)
    return tuple(made)


async def _ensure_pair(
    steps: Steps,
    layout: Layout,
    space: Space,
    fingerprint: str,
    party: Party,
    authorities: Authorities | None,
    now: float,
    made_before: str,
) -> bool:
    records, record = Records(steps.client, layout), layout.pair(fingerprint, party)
    path = layout.record_path(record)
    system = layout.system_namespace
    try:
        pair, version = await records.pair(fingerprint, party)
    except ProtocolError:
        found = await steps.client.kv_read(layout.state_mount, record, namespace=system)
        version, fault = found.version if found else 0, "is damaged"
    else:
        fault = "is missing"
        if pair is not None:
            fault = fault_of(pair, party, fingerprint, authorities, now) or _age(pair, made_before)
    if not fault:
        steps.fine(system, path, f"the pair of the {party}")
        return False
    why = f"the pair of the {party} {fault}: make it, of one year"
    signing = f"{party.usual.mount(space)}/sign/{party.role}"
    steps.actions.append(Action("POST", space.namespace, signing, why, True))
    steps.actions.append(Action("POST", system, path, f"keep the pair of the {party} for bridges", True))
    if steps.dry_run:
        return True
    key, csr = new_key()
    issued = await sign(
        steps.client,
        space,
        _Signing(party),
        csr,
        uris=_uris(party, fingerprint),
        names=BRIDGE_POD_NAMES if party is Party.BRIDGE_POD else (),
        ttl=f"{YEAR_SECONDS}s",
    )
    fresh = Pair(
        certificate=(issued.certificate_pem + issued.chain_pem).decode(),
        key=key.reveal_text(),
        serial=issued.serial,
        made_at=instant(now),
    )
    await records.write_pair(fingerprint, party, fresh, version)
    return True


def fault_of(
    pair: Pair,
    party: Party,
    fingerprint: str,
    authorities: Authorities | None,
    now: float,
    *,
    spare: float = RENEW_BEFORE,
) -> str:
    """What is wrong with a stored pair, as a phrase that follows its name; "" if nothing is. It must hold for
    `spare` seconds more."""
    try:
        certificate = x509.load_pem_x509_certificates(pair.certificate.encode())[0]
        key = load_pem_private_key(pair.key.encode(), None)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, x509.ExtensionNotFound):
        return "is damaged"
    der, form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if key.public_key().public_bytes(der, form) != certificate.public_key().public_bytes(der, form):
        return "is damaged"
    if tuple(names.get_values_for_type(x509.UniformResourceIdentifier)) != _uris(party, fingerprint):
        return "names somebody else"
    if certificate.not_valid_after_utc.timestamp() < now:
        return "has expired"
    if certificate.not_valid_after_utc.timestamp() < now + spare:
        return "ends soon"
    if authorities is None:
        return "is of another CA"
    try:
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authorities.of(party).encode()))
    except (ValueError, TypeError, InvalidSignature):
        return "is of another CA"
    return ""


def _age(pair: Pair, made_before: str) -> str:
    if not made_before:
        return ""
    old = not pair.made_at or seconds(pair.made_at) < seconds(made_before)
    return "is to be replaced" if old else ""


@dataclass(frozen=True, slots=True)
class _Signing:
    """A party's role, as `sign` takes one."""

    party: Party

    def mount(self, space: Space) -> str:
        return self.party.usual.mount(space)

    def __str__(self) -> str:
        return self.party.role


def _uris(party: Party, fingerprint: str) -> tuple[str, ...]:
    match party:
        case Party.BRIDGE:
            return (bridge_uri(fingerprint, INSTANCE),)
        case Party.BROKER:
            return (broker_uri(fingerprint, INSTANCE),)
        case Party.BRIDGE_POD:
            return ()


def _role_settings(party: Party, fingerprint: str) -> dict[str, Any]:
    return role_settings(party.usual, fingerprint) | {"ttl": YEAR_SECONDS, "max_ttl": YEAR_SECONDS}
