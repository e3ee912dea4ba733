"""One registered cluster as this bridge knows it at this moment.

Made and kept right by `registry` from the records in OpenBao; `identity` sets the TLS contexts, `keys` the
key set. The data plane (`session`, `login`, `gate`) reads it for every request and changes only
`namespace_id` and what is counted. It holds values, never decides: what a record means is settled where it is
read.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cloudtaser.bridge.podcas import PodCas
from cloudtaser.bridge.reads import ReadLog
from cloudtaser.openbao.layout import Space

if TYPE_CHECKING:
    from cloudtaser.bridge.tokens import KeySet
    from cloudtaser.openbao.records import Grants, Initialized, Registered


@dataclass(slots=True, eq=False)
class Cluster:
    """Mutable; one object per registration, replaced by none: a changed record changes the object."""

    fingerprint: str
    registered: Registered
    grants: Grants
    keys: KeySet
    """Signing keys of the cluster's ServiceAccount tokens; empty until it is initialised."""
    initialized: Initialized | None = None
    revoked: frozenset[int] = field(default_factory=frozenset)
    """Serial numbers of certificates that no longer open a tunnel."""
    pod_context: ssl.SSLContext | None = None
    """What the pods' TLS begins with; None until the first certificate is signed. Read it per connection."""
    pod_ca: str = ""
    """The pod CA (PEM) that pods should pin from their next connection on."""
    pod_cas: PodCas = field(default_factory=PodCas)
    """The pod CAs that are served, and who pins which."""
    reads: ReadLog = field(default_factory=ReadLog)
    """The paths that pods were let read."""
    namespace_id: str | None = None
    """Suffix of this space's tokens (after the last dot), once learnt."""

    @property
    def fp8(self) -> str:
        """The first eight characters of the fingerprint, as in audiences."""
        return self.fingerprint[:8]

    @property
    def namespace(self) -> str:
        """OpenBao namespace that every request of this cluster is pinned to; empty without namespaces."""
        return self.registered.namespace

    @property
    def mounted(self) -> Space | None:
        """The cluster's space on a server without namespaces; None where it is one."""
        registered = self.registered
        return None if registered.namespace else Space.recorded(registered.space, "")

    @property
    def issuer(self) -> str:
        """`iss` of the cluster's tokens as recorded at first initialisation; empty before it."""
        return self.initialized.issuer if self.initialized else ""

    @property
    def operator_subject(self) -> str:
        """`sub` of the operator's own token as recorded at first initialisation."""
        return self.initialized.subject if self.initialized else self.registered.operator_subject
