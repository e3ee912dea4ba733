"""Gate: what the bridge lets through, and in which words it passes it on (spec/openbao.md).

Used by `session` for every request, before a body byte is read. Pure: a request's head and the tunnel's pin
go in, `Allowed` with a newly written request or `Refused` with one clear line comes out. Nothing of what a
pod sent is forwarded as it came: the path is decoded once, checked as segments and encoded again; headers
come from an allow-list; the namespace comes from the tunnel alone. The gate only narrows: whatever it lets
through, OpenBao's policies still decide.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote_from_bytes

from cloudtaser.bridge import mounted
from cloudtaser.bridge.admin_rules import AdminRules
from cloudtaser.openbao.layout import POD_TOKEN_ROLE, Space
from cloudtaser.wire.migration import MIGRATE_TARGET
from cloudtaser.wire.names import POD_CA_PATH, REVIEWER_PATH

CORRELATION_HEADER: Final = b"x-correlation-id"
MAX_TARGET: Final = 4096

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
    POD_CA = enum.auto()
    """A pod asks which pod CA to pin from its next connection on: the bridge's own answer."""
    MIGRATE = enum.auto()
    """An administrator without a token of OpenBao's has a secret stored."""


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
    """OpenBao's token; for REVIEWER and MIGRATE the caller's JWT. For the one call that needs
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


class _No(Exception):
    def __init__(self, status: int, message: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.message, self.reason = status, message, reason


_TOKENLESS: Final = frozenset({Kind.LOGIN, Kind.HEALTH, Kind.SEAL_STATUS, Kind.POD_CA})
_REWRITTEN: Final = frozenset({Kind.LOGIN, Kind.INSPECT})
SHOWS_JWT: Final = frozenset({Kind.REVIEWER, Kind.MIGRATE})
"""Calls of the bridge itself, whose caller proves by a ServiceAccount token who it is."""
_MIGRATE: Final = MIGRATE_TARGET.encode()
_METHODS: Final = frozenset({b"GET", b"LIST", b"SCAN", b"PUT", b"POST", b"PATCH", b"DELETE"})
_WRITES: Final = frozenset({b"PUT", b"POST"})
_READ: Final = frozenset({b"GET"})
_POST: Final = frozenset({b"POST"})

# a path that needs no decoding: what RFC 3986 allows in a segment, less `%` and `;`
_PLAIN_PATH: Final = re.compile(rb"[A-Za-z0-9_.~/@:!$&'()*+,=-]*")
_ESCAPES_ONLY: Final = re.compile(rb"(?:[A-Za-z0-9_.~/@:!$&'()*+,=-]|%[0-9A-Fa-f]{2})+")
_QUERY: Final = re.compile(rb"(?:[A-Za-z0-9_.~/@:!$'()*+,=&-]|%[0-9A-Fa-f]{2})*")
_FORBIDDEN_DECODED: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\\%;?#\u2028\u2029]")
_PATH_SAFE: Final = "/~@:!$&'()*+,="

# first segments that belong to OpenBao itself or to cloudtaser; everything below them is decided by _LISTED
RESERVED: Final = frozenset({"auth", "sys", "identity", "cubbyhole", "pki-tunnel", "pki-pod"})

_LISTED: Final = {
    "auth/token/lookup-self": (_READ, Kind.FORWARD),
    "auth/token/renew-self": (_WRITES, Kind.INSPECT),
    "auth/token/revoke-self": (_WRITES, Kind.INSPECT),
    f"auth/token/create/{POD_TOKEN_ROLE}": (_WRITES, Kind.INSPECT),
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

_TOKEN: Final = re.compile(r"(?:s|b|r|hvs|hvb|hvr)\.[A-Za-z0-9_-]{1,4096}(?:\.([A-Za-z0-9]{1,32}))?")
_JWT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_LOOKS_LIKE_TOKEN: Final = re.compile(r"(?:[sbr]|hv[sbr])\.[A-Za-z0-9_-]{16,}(?:\.[A-Za-z0-9]{1,32})?")
_HELD_IN_PATH: Final = re.compile(
    r"(?<![^/])(?:(?:[sbr]|hv[sbr])\.[A-Za-z0-9_-]{16,}(?:\.[A-Za-z0-9]+)?|eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_.-]+)"
)
_BEARER: Final = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +([^ ]+)")

_TEXT: Final = re.compile(rb"[\x20-\x7e]{1,256}")
_HEADER_FORMS: Final = {
    b"x-vault-wrap-ttl": re.compile(rb"[0-9][0-9.smhd]{0,15}"),
    b"content-type": _TEXT,
    b"accept": _TEXT,
    CORRELATION_HEADER: re.compile(rb"[A-Za-z0-9._:-]{1,128}"),
}
_TAKEN: Final = frozenset(_HEADER_FORMS) | {b"x-vault-token", b"authorization"}
_REQUEST: Final = (b"x-vault-request", b"true")
_QUERY_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_REFUSED_QUERIES: Final = frozenset({"help", "namespace"})
_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}
_MAX_QUERIES: Final = 32


def judge(method: bytes, target: bytes, headers: Sequence[tuple[bytes, bytes]], pin: Pin) -> Verdict:
    """Whether a request may pass, and the request to send instead of it.

    `headers` have lower-case names and arrive in order, duplicates included. Content-Length, Host and
    transfer coding are the sender's business and are not among the returned headers.
    """
    path = ""
    try:
        if method not in _METHODS:
            raise _No(
                405, "cloudtaser-bridge passes GET, LIST, SCAN, PUT, POST, PATCH and DELETE only", "method"
            )
        if len(target) > MAX_TARGET:
            raise _No(414, f"the path is longer than {MAX_TARGET} bytes", "target_too_long")
        if target == _MIGRATE and pin.admin is not None:
            path = MIGRATE_TARGET.removeprefix("/")
            return _write(_only(method, _POST, {}, path, Kind.MIGRATE), method, path, {}, headers, pin)
        raw_path, mark, raw_query = target.partition(b"?")
        path = _decode_path(raw_path)
        queries = _queries(raw_query) if mark else {}
        method = _listing(method, queries)
        if path.endswith("/"):
            path = _without_trailing_slash(path, method)
        kind = _route(method, path, queries, pin)
        return _write(kind, method, path, queries, headers, pin)
    except _No as refusal:
        return Refused(refusal.status, refusal.message, refusal.reason, path)


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


def _decode_path(raw: bytes) -> str:
    """Path below `/v1/`, decoded once. What could be read in two ways is refused, not repaired."""
    if not raw.startswith(b"/v1/"):
        raise _No(404, "only paths below /v1/ are served here", "not_v1")
    raw = raw[4:]
    if _PLAIN_PATH.fullmatch(raw):
        path = raw.decode("ascii")
    else:
        if not _ESCAPES_ONLY.fullmatch(raw):
            raise _No(
                400, "the path holds a byte that must be percent-encoded, or a broken escape", "path_bytes"
            )
        try:
            path = _unquote(raw).decode("utf-8")
        except UnicodeDecodeError:
            raise _No(400, "the path is not UTF-8", "path_not_utf8") from None
        if _FORBIDDEN_DECODED.search(path):
            raise _No(
                400,
                "the decoded path holds `%`, `\\`, `;`, `?`, `#` or a control character",
                "path_characters",
            )
    segments = path.split("/")
    if segments[-1] == "" and len(segments) > 1:
        segments.pop()  # one slash at the end: judged by `_without_trailing_slash`
    if "" in segments or "." in segments or ".." in segments:
        raise _No(400, "the path holds an empty, `.` or `..` segment", "path_segments")
    return path


def _unquote(raw: bytes) -> bytes:
    head, *rest = raw.split(b"%")
    return head + b"".join(bytes((int(part[:2], 16),)) + part[2:] for part in rest)


def _queries(raw: bytes) -> dict[str, str]:
    """Names and values, decoded once; each name at most once."""
    if not _QUERY.fullmatch(raw):
        raise _No(
            400, "the query holds a byte that must be percent-encoded, or a broken escape", "query_bytes"
        )
    found: dict[str, str] = {}
    for pair in raw.split(b"&"):
        if not pair:
            continue
        name_raw, _, value_raw = pair.partition(b"=")
        try:
            name = _unquote(name_raw.replace(b"+", b" ")).decode()
            value = _unquote(value_raw.replace(b"+", b" ")).decode()
        except UnicodeDecodeError:
            raise _No(400, "the query is not UTF-8", "query_not_utf8") from None
        if not _QUERY_NAME.fullmatch(name) or _FORBIDDEN_DECODED.search(value.replace("%", "")):
            raise _No(400, "the query holds a name or value that is not let through", "query_characters")
        if name in found or len(found) >= _MAX_QUERIES:
            raise _No(400, f"the query names {name} twice, or too many names", "query_duplicate")
        if name.lower() in _REFUSED_QUERIES:
            raise _No(403, f"the query {name} is not let through", "query_refused")
        if _LOOKS_LIKE_TOKEN.fullmatch(value):
            raise _No(
                403, f"the query {name} holds a token; tokens belong in X-Vault-Token", "token_in_query"
            )
        found[name] = value
    return found


def _listing(method: bytes, queries: dict[str, str]) -> bytes:
    """`?list=true` and `?scan=true` are LIST and SCAN in other words: say them in one."""
    wanted = [b"LIST" if name == "list" else b"SCAN" for name in ("list", "scan") if _boolean(queries, name)]
    if not wanted:
        return method
    if len(wanted) > 1 or (method != b"GET" and method != wanted[0]):
        raise _No(400, "list= and scan= go with GET, and one at a time", "query_listing")
    return wanted[0]


def _boolean(queries: dict[str, str], name: str) -> bool:
    value = queries.pop(name, None)
    if value is None:
        return False
    if value not in _BOOLEANS:
        raise _No(400, f"the query {name} is neither true nor false", "query_listing")
    return _BOOLEANS[value]


def _without_trailing_slash(path: str, method: bytes) -> str:
    """A directory may be written with its slash where a directory is asked for; OpenBao adds it itself."""
    if method not in (b"LIST", b"SCAN"):
        raise _No(400, "the path holds an empty, `.` or `..` segment", "path_segments")
    return path[:-1]


def _route(method: bytes, path: str, queries: dict[str, str], pin: Pin) -> Kind:
    first, _, rest = path.partition("/")
    if first == "cloudtaser":
        if pin.operator and path == _REVIEWER and method == b"PUT":
            return Kind.REVIEWER
        if path == _POD_CA:
            return _only(method, _READ, queries, path, Kind.POD_CA)
        raise _No(404, f"no such call of the bridge: {shown(path)}", "not_listed")
    if first == "shared":
        raise _No(
            403,
            "shared/ cannot be read here: OpenBao accepts a token of one space in no other namespace;"
            " copy the secret to the space of this cluster",
            "shared",
        )
    if first not in RESERVED:
        return Kind.FORWARD
    if first == "auth" and rest.endswith("/login") and rest[:-6] in pin.login_mounts:
        if pin.admin is not None:
            raise _No(403, "pods do not log in on an admin stream", "not_listed")
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
    raise _No(403, f"cloudtaser-bridge does not let {shown(path)} through", "not_listed")


def _only(method: bytes, methods: frozenset[bytes], queries: dict[str, str], path: str, kind: Kind) -> Kind:
    if method not in methods:
        raise _No(405, f"cloudtaser-bridge lets {shown(path)} through with another method only", "method")
    if queries:
        raise _No(400, f"{shown(path)} takes no query", "query_refused")
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
                raise _No(400, f"the header {name.decode()} is given twice", "header_duplicate")
            if value:
                taken[name] = value
    if kind is Kind.MIGRATE and b"authorization" not in taken:
        raise _No(401, "a bearer token of ServiceAccount cloudtaser-admin is needed here", "token_form")
    token = "" if kind in _TOKENLESS else _token(taken)
    unproven = _check_token(token, kind, pin)
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
            raise _No(400, f"the header {name.decode()} holds what is not let through", "header_value")
        if name == CORRELATION_HEADER:
            correlation = value.decode("ascii")
        else:
            written.append((name, value))
    target = b"/v1/" + (path if pin.mounted is None else _in_the_root(pin.mounted, path)).encode()
    if not _PLAIN_PATH.fullmatch(target):
        target = quote_from_bytes(target, _PATH_SAFE).encode()
    if queries:
        target += b"?" + "&".join(f"{name}={_quoted(value)}" for name, value in queries.items()).encode()
    return Allowed(kind, method, target, tuple(written), path, token, correlation, unproven)


def _in_the_root(space: Space, path: str) -> str:
    real = mounted.real(space, path)
    if real is None:
        raise _No(403, f"permission denied: {shown(path)} is no path of this cluster's space", "foreign_path")
    return real


def _quoted(value: str) -> str:
    return quote_from_bytes(value.encode(), "")


def _token(taken: dict[bytes, bytes]) -> str:
    """The one token of a request, from either header."""
    token = taken.get(b"x-vault-token", b"")
    authorization = taken.get(b"authorization", b"")
    if authorization:
        bearer = _BEARER.fullmatch(authorization)
        if bearer is None:
            raise _No(400, "Authorization takes a bearer token only", "authorization")
        if token:
            raise _No(400, "give X-Vault-Token or Authorization, not both", "token_twice")
        token = bearer.group(1)
    try:
        return token.decode("ascii")
    except UnicodeDecodeError:
        raise _No(403, "permission denied: that is no OpenBao token", "token_form") from None


def _check_token(token: str, kind: Kind, pin: Pin) -> bool:
    """Refuses a token of another namespace. True when that cannot be told yet."""
    if kind in SHOWS_JWT:
        if not _JWT.fullmatch(token):
            whose = "the operator's own" if kind is Kind.REVIEWER else "cloudtaser-admin's"
            raise _No(401, f"{whose} ServiceAccount token is needed here", "token_form")
        return False
    if not token:
        return False
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise _No(403, "permission denied: that is no OpenBao token of this cluster's space", "token_form")
    if pin.namespace_id is None:
        return True
    if (match.group(1) or "") != pin.namespace_id:
        raise _No(403, "permission denied: the token belongs to another space", "foreign_token")
    return False


def shown(path: str) -> str:
    """A path as it may stand in a message or an audit line: printable, at most 200 characters, and without a
    token, which older calls of OpenBao take in the path."""
    text = _HELD_IN_PATH.sub("***", path)
    if not text.isprintable():
        text = "".join(character if character.isprintable() else "?" for character in text)
    return f"/v1/{text}" if len(text) <= 200 else f"/v1/{text[:200]}…"
