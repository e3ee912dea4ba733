"""Target: a request's path and query, read once, checked, and written anew.

Used by `gate` for every request, and by `account` to show a path. What could be read in two ways is refused,
not repaired: RequestRefused. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote_from_bytes

from cloudtaser.bridge.refusal import RequestRefused
from cloudtaser.bridge.token_forms import HELD_IN_PATH, LOOKS_LIKE_TOKEN

# a path that needs no decoding: what RFC 3986 allows in a segment, less `%` and `;`
_PLAIN_PATH: Final = re.compile(rb"[A-Za-z0-9_.~/@:!$&'()*+,=-]*")
_ESCAPES_ONLY: Final = re.compile(rb"(?:[A-Za-z0-9_.~/@:!$&'()*+,=-]|%[0-9A-Fa-f]{2})+")
_QUERY: Final = re.compile(rb"(?:[A-Za-z0-9_.~/@:!$'()*+,=&-]|%[0-9A-Fa-f]{2})*")
_FORBIDDEN_DECODED: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\\%;?#\u2028\u2029]")
_PATH_SAFE: Final = "/~@:!$&'()*+,="
_QUERY_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_REFUSED_QUERIES: Final = frozenset({"help", "namespace"})
_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}
_MAX_QUERIES: Final = 32


def read_path(raw: bytes) -> str:
    """Path below `/v1/`, decoded once."""
    if not raw.startswith(b"/v1/"):
        raise RequestRefused(404, "only paths below /v1/ are served here", "not_v1")
    raw = raw[4:]
    if _PLAIN_PATH.fullmatch(raw):
        path = raw.decode("ascii")
    else:
        if not _ESCAPES_ONLY.fullmatch(raw):
            raise RequestRefused(
                400, "the path holds a byte that must be percent-encoded, or a broken escape", "path_bytes"
            )
        try:
            path = _unquote(raw).decode("utf-8")
        except UnicodeDecodeError:
            raise RequestRefused(400, "the path is not UTF-8", "path_not_utf8") from None
        if _FORBIDDEN_DECODED.search(path):
            raise RequestRefused(
                400,
                "the decoded path holds `%`, `\\`, `;`, `?`, `#` or a control character",
                "path_characters",
            )
    segments = path.split("/")
    if segments[-1] == "" and len(segments) > 1:
        segments.pop()  # one slash at the end: judged by `without_trailing_slash`
    if "" in segments or "." in segments or ".." in segments:
        raise RequestRefused(400, "the path holds an empty, `.` or `..` segment", "path_segments")
    return path


def _unquote(raw: bytes) -> bytes:
    head, *rest = raw.split(b"%")
    return head + b"".join(bytes((int(part[:2], 16),)) + part[2:] for part in rest)


def read_query(raw: bytes) -> dict[str, str]:
    """Names and values, decoded once; each name at most once."""
    if not _QUERY.fullmatch(raw):
        raise RequestRefused(
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
            raise RequestRefused(400, "the query is not UTF-8", "query_not_utf8") from None
        if not _QUERY_NAME.fullmatch(name) or _FORBIDDEN_DECODED.search(value.replace("%", "")):
            raise RequestRefused(
                400, "the query holds a name or value that is not let through", "query_characters"
            )
        if name in found or len(found) >= _MAX_QUERIES:
            raise RequestRefused(400, f"the query names {name} twice, or too many names", "query_duplicate")
        if name.lower() in _REFUSED_QUERIES:
            raise RequestRefused(403, f"the query {name} is not let through", "query_refused")
        if LOOKS_LIKE_TOKEN.fullmatch(value):
            raise RequestRefused(
                403, f"the query {name} holds a token; tokens belong in X-Vault-Token", "token_in_query"
            )
        found[name] = value
    return found


def as_listing(method: bytes, queries: dict[str, str]) -> bytes:
    """`?list=true` and `?scan=true` are LIST and SCAN in other words: say them in one."""
    wanted = [b"LIST" if name == "list" else b"SCAN" for name in ("list", "scan") if _boolean(queries, name)]
    if not wanted:
        return method
    if len(wanted) > 1 or (method != b"GET" and method != wanted[0]):
        raise RequestRefused(400, "list= and scan= go with GET, and one at a time", "query_listing")
    return wanted[0]


def _boolean(queries: dict[str, str], name: str) -> bool:
    value = queries.pop(name, None)
    if value is None:
        return False
    if value not in _BOOLEANS:
        raise RequestRefused(400, f"the query {name} is neither true nor false", "query_listing")
    return _BOOLEANS[value]


def without_trailing_slash(path: str, method: bytes) -> str:
    """A directory may be written with its slash where a directory is asked for; OpenBao adds it itself."""
    if method not in (b"LIST", b"SCAN"):
        raise RequestRefused(400, "the path holds an empty, `.` or `..` segment", "path_segments")
    return path[:-1]


def write_target(path: str, queries: Mapping[str, str]) -> bytes:
    """Path and query as they are sent, from what `read_path` and `read_query` gave."""
    target = b"/v1/" + path.encode()
    if not _PLAIN_PATH.fullmatch(target):
        target = quote_from_bytes(target, _PATH_SAFE).encode()
    if queries:
        target += b"?" + "&".join(f"{name}={_quoted(value)}" for name, value in queries.items()).encode()
    return target


def _quoted(value: str) -> str:
    return quote_from_bytes(value.encode(), "")


def shown(path: str) -> str:
    """A path as it may stand in a message or an audit line: printable, at most 200 characters, and without a
    token, which older calls of OpenBao take in the path."""
    text = HELD_IN_PATH.sub("***", path)
    if not text.isprintable():
        text = "".join(character if character.isprintable() else "?" for character in text)
    return f"/v1/{text}" if len(text) <= 200 else f"/v1/{text[:200]}…"
