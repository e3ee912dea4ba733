"""Migration: one Kubernetes Secret on its way into OpenBao, as a client posts it to a bridge.

Used by `bridge.migration`, which answers `POST /migrate` on admin streams, and by `net.admin`, which asks.
The request is `{"path":"secret/data/<namespace>/<name>","data":{field: text, …}}`. The answer holds the
version that was made and the SHA-256 of the *canonical form* of `data`, so that the client can see that what
is stored is what it sent before it deletes the original. Canonical form: RFC 8785, which for an object of
texts is UTF-8 JSON without white space, members sorted by UTF-16 code units, and `\\uXXXX` for control
characters alone. Pure.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cloudtaser.errors import ProtocolError
from cloudtaser.wire.strict_json import dump_object, parse_object

MIGRATE_TARGET: Final = "/migrate"
MAX_DATA: Final = 1024 * 1024
"""Bytes of names and texts together in UTF-8, as much as a Kubernetes Secret holds."""
MAX_BODY: Final = MAX_DATA + MAX_DATA // 2
"""Bytes of a request's body: JSON needs more for quotes, line ends and the like."""
MAX_FIELDS: Final = 1024
MAX_PATH: Final = 512
MAX_ANSWER: Final = 16384
MAX_LIFETIME: Final = 900.0
"""Seconds that an administrator's token may live; TokenRequest gives ten minutes at the least."""

_PATH: Final = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)+", re.ASCII)
_FIELD: Final = re.compile(r"[A-Za-z0-9._-]{1,253}", re.ASCII)  # as Kubernetes has the keys of a Secret
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Migration:
    """One secret to store: API path and fields. The texts are shown nowhere."""

    path: str
    data: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Migration(path={self.path!r}, data=***)"

    @property
    def sha256(self) -> str:
        """Hex digest of the canonical form of the data."""
        return hashlib.sha256(canonical(self.data)).hexdigest()

    def encode(self) -> bytes:
        """The request's body. ProtocolError when it is one that no bridge takes."""
        _check(self.path, self.data)
        body = json.dumps(
            {"path": self.path, "data": dict(self.data)}, ensure_ascii=False, separators=(",", ":")
        ).encode()
        if len(body) > MAX_BODY:
            raise ProtocolError(f"the secret is longer than {MAX_BODY} bytes as JSON", on=self.path)
        return body


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is stored at the path now. `created` is False where something was there before; `sha256` is then
    empty unless this bridge stored the very same data itself lately."""

    created: bool
    version: int
    sha256: str

    def encode(self) -> bytes:
        """The answer's body: of status 200, or of 409 where something was there before."""
        fields: dict[str, Any] = {"version": self.version}
        if self.sha256:
            fields["sha256"] = self.sha256
        if not self.created:
            same = "this very data" if self.sha256 else "something"
            fields["errors"] = [f"{same} is stored there already, as version {self.version}"]
        return dump_object(fields)


def canonical(data: Mapping[str, str]) -> bytes:
    """The canonical form (RFC 8785) of an object of texts."""
    members = dict(sorted(data.items(), key=lambda item: item[0].encode("utf-16-be")))
    return json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode()


def parse_migration(body: bytes) -> Migration:
    """The request in `body`. ProtocolError on anything but exactly one, without repeating a text of it."""
    fields = parse_object(body, what="the body", limit=MAX_BODY)
    if fields.keys() != {"path", "data"}:
        raise ProtocolError('the body must be {"path": …, "data": {…}} and nothing else')
    path, data = fields["path"], fields["data"]
    if not isinstance(path, str):
        raise ProtocolError("`path` is no text")
    if not isinstance(data, dict):
        raise ProtocolError("`data` is no object of texts")
    _check(path, data)
    return Migration(path, data)


def parse_outcome(status: int, body: bytes) -> Outcome:
    """What a bridge answered with status 200 or 409. ProtocolError when that is not what it should be."""
    fields = parse_object(body, what="the bridge's answer", limit=MAX_ANSWER)
    version, digest = fields.get("version"), fields.get("sha256", "")
    if not isinstance(version, int) or isinstance(version, bool) or version < 0:
        raise ProtocolError("the bridge's answer names no version")
    if not isinstance(digest, str) or (digest and not _SHA256.fullmatch(digest)):
        raise ProtocolError("the bridge's answer holds no SHA-256")
    if status == 200 and not digest:
        raise ProtocolError("the bridge's answer holds no SHA-256")
    return Outcome(status == 200, version, digest)


def _check(path: str, data: Mapping[str, Any]) -> None:
    if not _PATH.fullmatch(path) or len(path) > MAX_PATH or {".", ".."} & set(path.split("/")):
        raise ProtocolError("`path` is not made of plain segments, as secret/data/shop/db")
    if not 0 < len(data) <= MAX_FIELDS:
        raise ProtocolError(f"`data` holds no field, or more than {MAX_FIELDS}")
    size = 0
    for name, value in data.items():
        if not _FIELD.fullmatch(name):
            raise ProtocolError(f"a field's name is not one of a Secret: {name[:80]!r}")
        if not isinstance(value, str):
            raise ProtocolError(f"the field {name!r} is no text")
        try:
            size += len(name) + len(value.encode())
        except UnicodeEncodeError:
            raise ProtocolError(f"the field {name!r} is no text that UTF-8 can hold") from None
    if size > MAX_DATA:
        raise ProtocolError(f"`data` is longer than {MAX_DATA} bytes")
