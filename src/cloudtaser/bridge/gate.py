"""Gate: what the bridge lets through, and in which words it passes it on (spec/openbao.md).

Used by `session` for every request, before a body byte is read. Pure: a request's head and the tunnel's pin
go in, `Allowed` with a newly written request or `Refused` with one clear line comes out. Nothing of what a
pod sent is forwarded as it came: the path is decoded once, checked as segments and encoded again; headers
come from an allow-list; the namespace comes from the tunnel alone. The gate only narrows: whatever it lets
through, OpenBao's policies still decide.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from cloudtaser.bridge import mounted
from cloudtaser.bridge.refusal import RequestRefused
from cloudtaser.bridge.target import (
    as_listing,
    read_path,
    read_query,
    shown,
    without_trailing_slash,
    write_target,
)
from cloudtaser.bridge.token_forms import check_token, token_of
from cloudtaser.bridge.verdict import CORRELATION_HEADER, SHOWS_JWT, Allowed, Kind, Pin, Refused, Verdict
from cloudtaser.openbao.layout import POD_TOKEN_ROLE, Space
from cloudtaser.wire.migration import MIGRATE_TARGET
from cloudtaser.wire.names import OPERATOR_CERTIFICATES_PATH, POD_CA_PATH, REVIEWER_PATH

MAX_TARGET: Final = 4096

_TOKENLESS: Final = frozenset({Kind.LOGIN, Kind.HEALTH, Kind.SEAL_STATUS, Kind.POD_CA})
_REWRITTEN: Final = frozenset({Kind.LOGIN, Kind.INSPECT})
_MIGRATE: Final = MIGRATE_TARGET.encode()
_METHODS: Final = frozenset({b"GET", b"LIST", b"SCAN", b"PUT", b"POST", b"PATCH", b"DELETE"})
_WRITES: Final = frozenset({b"PUT", b"POST"})
_READ: Final = frozenset({b"GET"})
_POST: Final = frozenset({b"POST"})

# first segments that belong to OpenBao itself or to cloudtaser; everything below them is decided by _LISTED
RESERVED: Final = frozenset({"auth", "sys", "identity", "cubbyhole", "pki-tunnel", "pki-pod"})

_LISTED: Final = {
    "auth/token/lookup-self": (_READ, Kind.FORWARD),
    "auth/token/renew-self": (_WRITES, Kind.INSPECT),
    "auth/token/revoke-self": (_WRITES, Kind.INSPECT),
    f"auth/token/create/{POD_TOKEN_ROLE}": (_WRITES, Kind.INSPECT),
    "auth/token/renew-accessor": (_WRITES, Kind.INSPECT),
    "auth/token/revoke-accessor": (_WRITES, Kind.INSPECT),
    "sys/wrapping/unwrap": (_WRITES, Kind.INSPECT),
    "sys/wrapping/lookup": (_WRITES, Kind.INSPECT),
    "sys/leases/renew": (_WRITES, Kind.INSPECT),
    "sys/leases/lookup": (_WRITES, Kind.INSPECT),
    "sys/capabilities-self": (_WRITES, Kind.INSPECT),
    "sys/internal/ui/mounts": (_READ, Kind.FORWARD),
    "sys/health": (_READ, Kind.HEALTH),
    "sys/seal-status": (_READ, Kind.SEAL_STATUS),
}
_MOUNT_INFO: Final = "sys/internal/ui/mounts/"
_REVIEWER: Final = REVIEWER_PATH.removeprefix("/v1/")
_POD_CA: Final = POD_CA_PATH.removeprefix("/v1/")
_OPERATOR_CERTIFICATES: Final = OPERATOR_CERTIFICATES_PATH.removeprefix("/v1/")

_TEXT: Final = re.compile(rb"[\x20-\x7e]{1,256}")
_HEADER_FORMS: Final = {
    b"x-vault-wrap-ttl": re.compile(rb"[0-9][0-9.smhd]{0,15}"),
    b"content-type": _TEXT,
    b"accept": _TEXT,
    CORRELATION_HEADER: re.compile(rb"[A-Za-z0-9._:-]{1,128}"),
}
_TAKEN: Final = frozenset(_HEADER_FORMS) | {b"x-vault-token", b"authorization"}
_REQUEST: Final = (b"x-vault-request", b"true")


def judge(method: bytes, target: bytes, headers: Sequence[tuple[bytes, bytes]], pin: Pin) -> Verdict:
    """Whether a request may pass, and the request to send instead of it.

    `headers` have lower-case names and arrive in order, duplicates included. Content-Length, Host and
    transfer coding are the sender's business and are not among the returned headers.
    """
    path = ""
    try:
        if method not in _METHODS:
            raise RequestRefused(
                405, "cloudtaser-bridge passes GET, LIST, SCAN, PUT, POST, PATCH and DELETE only", "method"
            )
        if len(target) > MAX_TARGET:
            raise RequestRefused(414, f"the path is longer than {MAX_TARGET} bytes", "target_too_long")
        if target == _MIGRATE and pin.admin is not None:
            path = MIGRATE_TARGET.removeprefix("/")
            return _write(_only(method, _POST, {}, path, Kind.MIGRATE), method, path, {}, headers, pin)
        raw_path, mark, raw_query = target.partition(b"?")
        path = read_path(raw_path)
        queries = read_query(raw_query) if mark else {}
        method = as_listing(method, queries)
        if path.endswith("/"):
            path = without_trailing_slash(path, method)
        kind = _route(method, path, queries, pin)
        return _write(kind, method, path, queries, headers, pin)
    except RequestRefused as refusal:
        return Refused(refusal.status, refusal.what, refusal.reason, path)


def _route(method: bytes, path: str, queries: dict[str, str], pin: Pin) -> Kind:
    first, _, rest = path.partition("/")
    if first == "cloudtaser":
        if pin.operator and path == _REVIEWER and method == b"PUT":
            return Kind.REVIEWER
        if pin.operator and path == _OPERATOR_CERTIFICATES:
            return _only(method, _POST, queries, path, Kind.OPERATOR_CERTIFICATES)
        if path == _POD_CA:
            return _only(method, _READ, queries, path, Kind.POD_CA)
        raise RequestRefused(404, f"no such call of the bridge: {shown(path)}", "not_listed")
    if first == "shared":
        raise RequestRefused(
            403,
            "shared/ cannot be read here: OpenBao accepts a token of one space in no other namespace;"
            " copy the secret to the space of this cluster",
            "shared",
        )
    if first not in RESERVED:
        return Kind.FORWARD
    if first == "auth" and rest.endswith("/login") and rest[:-6] in pin.login_mounts:
        if pin.admin is not None:
            raise RequestRefused(403, "pods do not log in on an admin stream", "not_listed")
        return _only(method, _WRITES, queries, path, Kind.LOGIN)
    listed = _LISTED.get(path)
    if listed is not None:
        methods, kind = listed
        if kind in (Kind.HEALTH, Kind.SEAL_STATUS):
            queries.clear()
        return _only(method, methods, queries, path, kind)
    if path.startswith(_MOUNT_INFO):
        return _only(method, _READ, queries, path, Kind.FORWARD)
    if pin.admin is not None and pin.admin.lets(method, path):
        return Kind.FORWARD
    raise RequestRefused(403, f"cloudtaser-bridge does not let {shown(path)} through", "not_listed")


def _only(method: bytes, methods: frozenset[bytes], queries: dict[str, str], path: str, kind: Kind) -> Kind:
    if method not in methods:
        raise RequestRefused(
            405, f"cloudtaser-bridge lets {shown(path)} through with another method only", "method"
        )
    if queries:
        raise RequestRefused(400, f"{shown(path)} takes no query", "query_refused")
    return kind


def _write(
    kind: Kind,
    method: bytes,
    path: str,
    queries: dict[str, str],
    headers: Sequence[tuple[bytes, bytes]],
    pin: Pin,
) -> Verdict:
    taken: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _TAKEN:
            if name in taken:
                raise RequestRefused(400, f"the header {name.decode()} is given twice", "header_duplicate")
            if value:
                taken[name] = value
    if kind is Kind.MIGRATE and b"authorization" not in taken:
        raise RequestRefused(
            401, "a bearer token of ServiceAccount cloudtaser-admin is needed here", "token_form"
        )
    token = "" if kind in _TOKENLESS else token_of(taken)
    unproven = check_token(token, kind, pin)
    if kind in _REWRITTEN:
        taken[b"content-type"] = b"application/json"
    written = [_REQUEST]
    if pin.namespace:
        written.append((b"x-vault-namespace", pin.namespace.encode()))
    if token and kind not in SHOWS_JWT:
        written.append((b"x-vault-token", token.encode()))
    correlation = ""
    for name, value in taken.items():
        form = _HEADER_FORMS.get(name)
        if form is None:
            continue
        if not form.fullmatch(value):
            raise RequestRefused(
                400, f"the header {name.decode()} holds what is not let through", "header_value"
            )
        if name == CORRELATION_HEADER:
            correlation = value.decode("ascii")
        else:
            written.append((name, value))
    real = path if pin.mounted is None else _in_the_root(pin.mounted, path)
    target = write_target(real, queries)
    return Allowed(kind, method, target, tuple(written), path, token, correlation, unproven)


def _in_the_root(space: Space, path: str) -> str:
    real = mounted.real(space, path)
    if real is None:
        raise RequestRefused(
            403, f"permission denied: {shown(path)} is no path of this cluster's space", "foreign_path"
        )
    return real
