"""Token forms: which strings are OpenBao tokens, and of which namespace, without asking OpenBao.

Used by `gate` and `target` for what a request shows, by `bodies` for what a body names, by `login` and
`identification` for what OpenBao issued. OpenBao ends a token, an accessor and a lease id of a namespace with
a dot and that namespace's id. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from cloudtaser.bridge.refusal import RequestRefused
from cloudtaser.bridge.verdict import SHOWS_JWT, Kind, Pin

_TOKEN: Final = re.compile(r"(?:s|b|r|hvs|hvb|hvr)\.[A-Za-z0-9_-]{1,4096}(?:\.([A-Za-z0-9]{1,32}))?")
_JWT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
LOOKS_LIKE_TOKEN: Final = re.compile(r"(?:[sbr]|hv[sbr])\.[A-Za-z0-9_-]{16,}(?:\.[A-Za-z0-9]{1,32})?")
HELD_IN_PATH: Final = re.compile(
    r"(?<![^/])(?:(?:[sbr]|hv[sbr])\.[A-Za-z0-9_-]{16,}(?:\.[A-Za-z0-9]+)?|eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_.-]+)"
)
_BEARER: Final = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +([^ ]+)")


def foreign(identifier: str, namespace_id: str) -> bool:
    """Whether a token, accessor or lease id is not plainly one of the namespace: the suffix behind its last
    dot, as OpenBao reads it, differs or is missing."""
    last = identifier.rpartition("/")[2]
    stem, dot, suffix = last.rpartition(".")
    return not (dot and stem and suffix == namespace_id)


def token_suffix(token: str) -> str:
    """The namespace id that a token names; empty for a token of the root namespace or another form."""
    match = _TOKEN.fullmatch(token)
    return (match.group(1) or "") if match else ""


def token_of(taken: Mapping[bytes, bytes]) -> str:
    """The one token of a request, from either header; `taken` has each name once."""
    token = taken.get(b"x-vault-token", b"")
    authorization = taken.get(b"authorization", b"")
    if authorization:
        bearer = _BEARER.fullmatch(authorization)
        if bearer is None:
            raise RequestRefused(400, "Authorization takes a bearer token only", "authorization")
        if token:
            raise RequestRefused(400, "give X-Vault-Token or Authorization, not both", "token_twice")
        token = bearer.group(1)
    try:
        return token.decode("ascii")
    except UnicodeDecodeError:
        raise RequestRefused(403, "permission denied: that is no OpenBao token", "token_form") from None


def check_token(token: str, kind: Kind, pin: Pin) -> bool:
    """Refuses a token of another namespace. True when that cannot be told yet."""
    if kind in SHOWS_JWT:
        if not _JWT.fullmatch(token):
            whose = "cloudtaser-admin's" if kind is Kind.MIGRATE else "the operator's own"
            raise RequestRefused(401, f"{whose} ServiceAccount token is needed here", "token_form")
        return False
    if not token:
        return False
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise RequestRefused(
            403, "permission denied: that is no OpenBao token of this cluster's space", "token_form"
        )
    if pin.namespace_id is None:
        return True
    if (match.group(1) or "") != pin.namespace_id:
        raise RequestRefused(403, "permission denied: the token belongs to another space", "foreign_token")
    return False
