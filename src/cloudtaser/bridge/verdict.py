"""Verdict: what the gate is asked with and what it answers: pin in, `Allowed` or `Refused` out.

Made by `gate` (the pin by `session`), read by whatever works on a request after it: `turn`, `admission`,
`passage`, `ownership`, `reads`. Data alone.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from cloudtaser.bridge.admin_rules import AdminRules
from cloudtaser.openbao.layout import Space

CORRELATION_HEADER: Final = b"x-correlation-id"
READS: Final = frozenset({b"GET", b"LIST", b"SCAN"})
"""Methods that take no body."""

Headers = tuple[tuple[bytes, bytes], ...]


class Kind(enum.Enum):
    """What the session does with an allowed request."""

    FORWARD = enum.auto()
    """Send it on; the body streams."""
    INSPECT = enum.auto()
    """Read the body whole, check it with `bodies`, send on what that wrote."""
    LOGIN = enum.auto()
    """Read the body whole, check the token, send on what `login` wrote."""
    HEALTH = enum.auto()
    SEAL_STATUS = enum.auto()
    REVIEWER = enum.auto()
    """The operator hands over the reviewer's token."""
    OPERATOR_CERTIFICATES = enum.auto()
    """The operator has its server and its sealing certificate signed: the bridge's own answer."""
    POD_CA = enum.auto()
    """A pod asks which pod CA to pin from its next connection on: the bridge's own answer."""
    MIGRATE = enum.auto()
    """An administrator without a token of OpenBao's has a secret stored."""


SHOWS_JWT: Final = frozenset({Kind.REVIEWER, Kind.OPERATOR_CERTIFICATES, Kind.MIGRATE})
"""Calls of the bridge itself, whose caller proves by a ServiceAccount token who it is."""


@dataclass(frozen=True, slots=True)
class Pin:
    """What the tunnel alone decides about every request in it."""

    namespace: str
    """OpenBao namespace, without leading or trailing slash; empty on a server without them."""
    namespace_id: str | None
    """Suffix of this namespace's tokens, empty for the root's; None while it is not known."""
    login_mounts: frozenset[str] = frozenset({"jwt"})
    """Mounts below `auth/` at which a pod may log in."""
    operator: bool = False
    """A stream of kind `operator`."""
    mounted: Space | None = None
    """The space on a server without namespaces: its prefix stands before every path of its own."""
    admin: AdminRules | None = None
    """What a stream of kind `admin` reaches beyond a pod's list; None for the other kinds."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """The request as the bridge will write it. `path` is decoded, for people and for `bodies`."""

    kind: Kind
    method: bytes
    target: bytes
    headers: Headers
    path: str
    token: str = ""
    """OpenBao's token; for what `SHOWS_JWT` the caller's JWT. For the one call that needs
    it: never logged."""
    correlation: str = ""
    """The caller's correlation id, if it gave one; not among `headers`."""
    unproven: bool = False
    """The token's namespace could not be checked, because the pin's id is not known yet."""


@dataclass(frozen=True, slots=True)
class Refused:
    """One line for the caller, and one word for the audit."""

    status: int
    message: str
    reason: str
    path: str = ""


Verdict = Allowed | Refused
