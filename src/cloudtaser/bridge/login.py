"""Login: from a pod's login body to the one that OpenBao gets, and from its answer to who holds the token.

Used by `session` for what `gate` marks LOGIN. The body that goes on is built here from two checked fields;
the role that a pod did not choose is the most specific one granted to its ServiceAccount. Pure: the cluster's
view and the time are passed in.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container
from dataclasses import dataclass
from typing import Any, Final

from cloudtaser.bridge.refusal import RequestRefused
from cloudtaser.bridge.reply import MAX_HELD
from cloudtaser.bridge.token_forms import token_suffix
from cloudtaser.bridge.tokens import MAX_TOKEN, KeySet, PodIdentity, Reason, TokenRefused, verify
from cloudtaser.errors import ProtocolError
from cloudtaser.openbao.layout import DEFAULT_ROLE, OPERATOR_ROLE
from cloudtaser.wire.names import operator_audience, pod_audience
from cloudtaser.wire.strict_json import dump_object, parse_object

MAX_LOGIN: Final = 16384

_ROLE: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,510})", re.ASCII)


@dataclass(frozen=True, slots=True)
class LoginRequest:
    """What a pod asked for. `jwt` is a credential: shown nowhere."""

    role: str
    jwt: str

    def __repr__(self) -> str:
        return f"LoginRequest(role={self.role!r}, jwt=***)"


@dataclass(frozen=True, slots=True)
class Issued:
    """What is kept of a login's answer: never the token itself."""

    token_hash: bytes
    namespace_id: str
    lease_seconds: float


def parse(body: bytes) -> LoginRequest:
    """A pod's login body: one strict JSON object of `jwt` and perhaps `role`. RequestRefused otherwise."""
    try:
        fields = parse_object(body, what="the login body", limit=MAX_LOGIN)
    except ProtocolError as error:
        raise RequestRefused(400, error.what, "login_form") from None
    unknown = fields.keys() - {"role", "jwt"}
    if unknown:
        raise RequestRefused(
            400, f"the login body holds a field besides role and jwt: {min(unknown)[:64]!r}", "login_form"
        )
    role, jwt = fields.get("role") or DEFAULT_ROLE, fields.get("jwt")
    if not isinstance(jwt, str) or not 0 < len(jwt) <= MAX_TOKEN:
        raise RequestRefused(400, "the login body holds no jwt", "login_form")
    if not isinstance(role, str) or not _ROLE.fullmatch(role):
        raise RequestRefused(400, "the login body's role is no role name", "login_form")
    return LoginRequest(role, jwt)


def identify(
    request: LoginRequest,
    *,
    fp8: str,
    keys: KeySet,
    issuer: str,
    operator: str,
    on_operator_stream: bool,
    now: float,
) -> PodIdentity:
    """Who logs in. `operator` is the recorded subject of the cluster's operator, which alone may ask for its
    role, on its own stream, with a token for that audience. TokenRefused or RequestRefused otherwise."""
    if request.role != OPERATOR_ROLE:
        return verify(request.jwt, keys=keys, issuer=issuer, audience=pod_audience(fp8), now=now)
    if not on_operator_stream:
        raise RequestRefused(403, f"the role {OPERATOR_ROLE} is the operator's alone", "operator_role")
    identity = verify(
        request.jwt, keys=keys, issuer=issuer, audience=operator_audience(fp8), now=now, require_pod=False
    )
    if identity.subject != operator:
        raise TokenRefused(Reason.WRONG_SUBJECT)
    return identity


def role_for(requested: str, identity: PodIdentity, granted: Container[str]) -> str:
    """The role to log in with: the one asked for, or for `default` the most specific one granted."""
    if requested != DEFAULT_ROLE:
        return requested
    for role in (f"{identity.namespace}_{identity.serviceaccount}", f"{identity.namespace}_"):
        if role in granted:
            return role
    return DEFAULT_ROLE


def build(role: str, jwt: str) -> bytes:
    """The body that OpenBao gets."""
    return dump_object({"role": role, "jwt": jwt})


def token_hash(token: str) -> bytes:
    """What the bridge remembers of a token."""
    return hashlib.sha256(token.encode()).digest()


def read_answer(body: bytes) -> Issued | None:
    """What to keep of a successful login's answer; None when it holds no token (a wrapped answer)."""
    try:
        answer = parse_object(body, what="the login's answer", limit=MAX_HELD)
    except ProtocolError:
        return None
    auth: Any = answer.get("auth")
    if not isinstance(auth, dict):
        return None
    token, seconds = auth.get("client_token"), auth.get("lease_duration")
    if not isinstance(token, str) or not token:
        return None
    return Issued(token_hash(token), token_suffix(token), float(seconds) if isinstance(seconds, int) else 0.0)
