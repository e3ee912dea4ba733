"""Answers: what the bridge says itself, and what it adds to OpenBao's words.

Used by `session`. Everything is in the form in which OpenBao's clients expect an error,
`{"errors": ["one clear line"]}`: what failed, on what, what to do. Pure.
"""

from __future__ import annotations

import json
import shlex
from typing import Final

from cloudtaser.bridge.tokens import PodIdentity

MAX_EXPLAINED: Final = 16384
"""Bytes of an error answer that is read whole to add a line; a longer one passes as it is."""

SEALED: Final = "OpenBao is sealed; unseal it, the application keeps what it has until then"
STANDBY: Final = "OpenBao's node is a standby and points elsewhere; give the bridge the active node's address"
UNREACHABLE: Final = "OpenBao cannot be reached from the bridge"


def errors(*lines: str) -> bytes:
    """An error answer's body."""
    return json.dumps({"errors": list(lines)}, ensure_ascii=False).encode()


def allow_line(fingerprint: str, identity: PodIdentity | None, path: str) -> str:
    """The command that would permit it."""
    namespace = shlex.quote(identity.namespace) if identity else "NAMESPACE"
    account = shlex.quote(identity.serviceaccount) if identity else "SERVICEACCOUNT"
    return (
        f"cloudtaser-cli source allow {fingerprint} --namespace {namespace} --serviceaccount {account}"
        f" --path {shlex.quote(path)}"
    )


def denied_read(body: bytes, fingerprint: str, identity: PodIdentity | None, path: str) -> bytes:
    """OpenBao's refusal of a read, with the line that would permit it."""
    who = f"{identity.namespace}/{identity.serviceaccount}" if identity else "this token"
    hint = f"{who} may not read {path}; if it should: {allow_line(fingerprint, identity, path)}"
    return errors(*_lines(body), hint)


def refused_login(body: bytes, fingerprint: str, identity: PodIdentity, role: str) -> bytes:
    """OpenBao's refusal of a login under a role, with the line that would permit it."""
    path = f"secret/data/{identity.namespace}/NAME"
    hint = (
        f"no login as {identity.namespace}/{identity.serviceaccount} with the role {role};"
        f" a role is made by: {allow_line(fingerprint, identity, path)}"
    )
    return errors(*_lines(body), hint)


def unavailable(body: bytes) -> str:
    """One line for a 503 of OpenBao."""
    said = " ".join(" ".join(_lines(body)).split()).lower()
    if "sealed" in said:
        return SEALED
    if "standby" in said or "leader" in said or "active" in said:
        return "OpenBao has no active node at the moment; try again"
    return f"OpenBao is unavailable: {said[:200]}" if said else "OpenBao is unavailable"


def _lines(body: bytes) -> list[str]:
    """OpenBao's own words; an answer that is not in its form is left out."""
    try:
        said = json.loads(body)["errors"]
        return [line for line in said if isinstance(line, str)]
    except (ValueError, KeyError, TypeError):
        return []
