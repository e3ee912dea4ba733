"""Admission: whether a request that the gate let through may go on now, and whose it is.

Used by `turn`. Limits by peer address until its token has been seen to work, by token after that, and by
cluster always.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cloudtaser.bridge.holders import Holder
from cloudtaser.bridge.login import token_hash
from cloudtaser.bridge.refusal import RequestRefused
from cloudtaser.bridge.verdict import SHOWS_JWT, Allowed

if TYPE_CHECKING:
    from cloudtaser.bridge.session import Session

_NOBODY = b""


@dataclass(frozen=True, slots=True)
class Admitted:
    """`token_hash` is empty for a request without OpenBao's token, `holder` None for a token not seen yet."""

    token_hash: bytes
    holder: Holder | None


def admit(session: Session, allowed: Allowed) -> Admitted:
    """Whose request it is. RequestRefused when the cluster is suspended, the token is another cluster's, or
    too many came in too short a time."""
    cluster, services = session.cluster, session.services
    if cluster.registered.suspended:
        raise RequestRefused(403, "this cluster is suspended on the vault's side", "suspended")
    if not allowed.token or allowed.kind in SHOWS_JWT:
        admit_stranger(session)
        return Admitted(_NOBODY, None)
    hashed = token_hash(allowed.token)
    holder = services.holders.find(hashed)
    if holder is None:
        admit_stranger(session)
    elif holder.fingerprint != cluster.fingerprint:
        raise RequestRefused(403, "permission denied: the token belongs to another space", "foreign_token")
    else:
        _check(services.limits.take_holder(cluster.fingerprint, hashed, session.loop.time()))
    return Admitted(hashed, holder)


def admit_stranger(session: Session) -> None:
    """Count a request that no known token speaks for. RequestRefused when there were too many."""
    _check(
        session.services.limits.take_stranger(session.cluster.fingerprint, session.peer, session.loop.time())
    )


def _check(wait: float) -> None:
    if wait:
        raise RequestRefused(429, "too many requests; come back a little later", "rate_limit", wait=wait)
