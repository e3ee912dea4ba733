"""Renewal of all leaves: new certificates for bridges and brokers, and an end to those that are out.

Used by `cloudtaser-cli source rotate`. The registration is told first (`rotated_at`), so that bridges renew
and hint their brokers; what was out before counts no more 90 seconds later, or at once. The instant is by
OpenBao's clock, as certificates are. `Revoked.pending_from` says for which rotation the list was made: it is
made once, as in the second of its making certificates old and new cannot be told apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from cryptography import x509

from cloudtaser.errors import ProtocolError
from cloudtaser.openbao import pregenerated
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.clock import server_time
from cloudtaser.openbao.clusters import not_registered, open_layout
from cloudtaser.openbao.layout import Layout, Space
from cloudtaser.openbao.pki import BACKDATE_SECONDS
from cloudtaser.openbao.records import Records, Revoked, instant, seconds
from cloudtaser.openbao.steps import Action, Steps
from cloudtaser.wire.hashes import check_fingerprint
from cloudtaser.wire.names import parse_uri

GRACE_SECONDS: Final = 90
"""What operators have to come with a new certificate before the old one counts no more."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """What a run came to: which serials count no more, from when on, and which leaves were made anew here."""

    fingerprint: str
    rotated_at: str
    revoked: tuple[str, ...]
    pending: tuple[str, ...]
    pending_from: str
    pairs: tuple[str, ...]
    actions: tuple[Action, ...]
    changed: bool


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A certificate that OpenBao keeps: serial with colons, and since when and until when it counts."""

    serial: str
    issued: float
    ends: float


async def rotate_leaves(
    client: OpenBao,
    fingerprint: str,
    *,
    at_once: bool = False,
    dry_run: bool = False,
    layout: Layout | None = None,
    now: float | None = None,
) -> Renewal:
    """Have all certificates of the cluster's tunnel made anew, and the former revoked: in 90 seconds, or
    `at_once`, which closes all tunnels for a moment.

    Run again within these 90 seconds it completes what is under way and begins nothing. `now` is OpenBao's
    time. Raises CloudtaserError, CasConflict.
    """
    check_fingerprint(fingerprint)
    detected, _ = await open_layout(client)
    layout = layout or detected
    records, steps = Records(client, layout), Steps(client, dry_run)
    recorded, version = await records.registered_version(fingerprint)
    if recorded is None:
        raise not_registered(fingerprint)
    space = layout.space(recorded.space)
    moment = await server_time(client) if now is None else now
    out = await _leaves(steps, space)
    begun = seconds(recorded.rotated_at) if recorded.rotated_at else 0.0
    if not moment < begun + GRACE_SECONDS:
        # later than any certificate that is out, to the second
        begun = max([moment, *(leaf.issued + 1 for leaf in out)])
        recorded = replace(recorded, rotated_at=instant(begun))
        path = layout.record_path(layout.registered(fingerprint))
        why = "record the rotation: bridges have themselves certified anew, and tell their brokers"
        steps.actions.append(Action("POST", layout.system_namespace, path, why, True))
        if not dry_run:
            await records.write_registered(recorded, version)
    revoked = await _revoke(steps, records, layout, fingerprint, out, begun, moment, at_once)
    pairs: tuple[pregenerated.Party, ...] = ()
    if recorded.pregenerated:
        both = pregenerated.Authorities(recorded.tunnel_ca, recorded.pod_ca)
        pairs = await pregenerated.pregenerate(
            steps, layout, space, fingerprint, both, now=begun, made_before=recorded.rotated_at
        )
    return Renewal(
        fingerprint=fingerprint,
        rotated_at=recorded.rotated_at,
        revoked=revoked.serials,
        pending=revoked.pending,
        pending_from=revoked.pending_from,
        pairs=tuple(pairs),
        actions=tuple(steps.actions),
        changed=steps.changed,
    )


async def _revoke(
    steps: Steps,
    records: Records,
    layout: Layout,
    fingerprint: str,
    out: list[_Leaf],
    begun: float,
    now: float,
    at_once: bool,
) -> Revoked:
    """Have the record of revoked serials hold what was out before, and forget what has ended since."""
    current, version = await records.revoked_version(fingerprint)
    lives = {leaf.serial for leaf in out if leaf.ends > now}
    counts = instant(begun + GRACE_SECONDS)
    due, waiting = set(current.serials), set(current.pending)
    if current.pending_from != counts:
        due |= waiting if current.pending_from and now >= seconds(current.pending_from) else set()
        waiting |= {leaf.serial for leaf in out if leaf.issued < begun}
    if at_once:
        due |= waiting
    wanted = Revoked(tuple(sorted(due & lives)), tuple(sorted((waiting & lives) - due)), counts)
    path = layout.record_path(layout.revoked(fingerprint))
    why = "the former certificates count no more" + ("" if at_once else f" in {GRACE_SECONDS} seconds")
    if wanted == current:
        steps.fine(layout.system_namespace, path, why)
    else:
        body = {"serials": list(wanted.serials), "pending": list(wanted.pending)}
        steps.actions.append(Action("POST", layout.system_namespace, path, why, True, body))
        if not steps.dry_run:
            await records.write_revoked(fingerprint, wanted, version)
    return wanted


async def _leaves(steps: Steps, space: Space) -> list[_Leaf]:
    """Every certificate for a tunnel that OpenBao still keeps."""
    mount, where = space.pki_tunnel, space.namespace
    found = []
    for serial in await steps.client.list(f"{mount}/certs", namespace=where):
        about = await steps.find(where, f"{mount}/cert/{serial}")
        if about is None:
            continue
        certificate = x509.load_pem_x509_certificate(str(about["certificate"]).encode())
        if _opens_a_tunnel(certificate):
            issued = certificate.not_valid_before_utc.timestamp() + BACKDATE_SECONDS
            found.append(_Leaf(serial, issued, certificate.not_valid_after_utc.timestamp()))
    return found


def _opens_a_tunnel(certificate: x509.Certificate) -> bool:
    """Whether it names a party; a CA does not, nor does what one CA said of the next."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return all(parse_uri(uri) for uri in names.get_values_for_type(x509.UniformResourceIdentifier))
    except (x509.ExtensionNotFound, ProtocolError):
        return False
