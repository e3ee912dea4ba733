"""Seating: what a login goes through once the bridge itself believes its token.

Used by `calls`, and by `response` to tell which tokens are gone. In strict mode the cluster's API server is
asked (`review`); then the pod gets its seat (`seats`), or is refused a second one where pods may log in once.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from cloudtaser.bridge.seats import Seat
from cloudtaser.bridge.tokens import PodIdentity
from cloudtaser.wire.names import pod_audience

if TYPE_CHECKING:
    from cloudtaser.bridge.session import Session

_UNKNOWN: Final = ["permission denied"]
"""OpenBao's whole answer to a token that it does not know; to one that may not, it counts its errors."""


async def enter(session: Session, jwt: str, identity: PodIdentity) -> Seat | None:
    """A seat for a pod, None for the operator. RequestRefused when the API server does not confirm the token,
    cannot be asked, or the pod has a seat and may have one only."""
    cluster, services = session.cluster, session.services
    if services.review is not None:
        await services.review(cluster, jwt, identity)
    if identity.audience != pod_audience(cluster.fp8):
        return None
    return services.seats.ask(cluster.fingerprint, identity.pod_uid, session.loop.time())


def is_dead(refusal: bytes) -> bool:
    """Whether the body of a 403 says that OpenBao knows no such token, as against one whose policy denies."""
    try:
        said = json.loads(refusal)["errors"]
    except (ValueError, KeyError, TypeError):
        return False
    return said == _UNKNOWN or (isinstance(said, list) and any("invalid token" in str(line) for line in said))
