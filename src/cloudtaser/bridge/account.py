"""Account: what is known about one request, from its first byte to its line in the audit.

Filled by `turn` as it learns, written once when the answer is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cloudtaser.bridge.audit import Verdict
from cloudtaser.bridge.target import shown
from cloudtaser.bridge.tokens import PodIdentity

if TYPE_CHECKING:
    from cloudtaser.bridge.seats import Seat
    from cloudtaser.bridge.session import Session


@dataclass(slots=True)
class Account:
    """One request. `started` is the loop's clock; `path` is decoded and has no query."""

    started: float
    method: bytes = b""
    path: str = ""
    identity: PodIdentity | None = None
    verdict: Verdict = "refused"
    reason: str = ""
    """One word; empty for what passed."""
    role: str = ""
    """That a login asks for, as the pod calls it; not in the audit."""
    seat: Seat | None = None
    """Of a pod's login."""
    via: str = ""
    """Which door of the bridge it came through; empty for a pod's and the operator's."""
    version: int = 0
    """Of the secret that a migration stored or found."""
    written: bool = False

    def write(self, session: Session, correlation: str, status: int) -> None:
        """The line in the audit, the first time this is called."""
        if self.written:
            return
        self.written = True
        identity = self.identity
        session.services.audit.write(
            now=session.services.now(),
            cluster=session.cluster.fingerprint,
            id=correlation,
            peer=session.peer,
            namespace=identity.namespace if identity else "",
            serviceaccount=identity.serviceaccount if identity else "",
            pod=identity.pod_name if identity else "",
            method=self.method.decode("latin-1")[:16],
            path=shown(self.path) if self.path else "",
            verdict=self.verdict,
            status=status,
            milliseconds=(session.loop.time() - self.started) * 1000,
            reason=self.reason,
            via=self.via,
            version=self.version,
        )
