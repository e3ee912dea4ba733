"""Mounted: between the paths that pods speak and those of a server without namespaces, there and back.

Used by `gate`, `bodies`, `ownership` and `turn` where a cluster's space is mounts in the root. A pod says
`secret/data/…` and `auth/jwt/login` whatever the server is like; here these become the space's own paths, and
OpenBao's answers lose the prefix again. What does not show by itself whose it is (a lease, a wrapped answer,
a token's origin) is told here too. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from cloudtaser.bridge.refusal import RequestRefused
from cloudtaser.errors import ProtocolError
from cloudtaser.openbao.layout import OURS, POD_POLICY_PREFIX, POD_TOKEN_ROLE, Space
from cloudtaser.wire.strict_json import dump_object, parse_object

LOGIN_MOUNTS: Final = frozenset({"jwt"})
"""Mounts below `auth/` at which a pod may log in, as it calls them."""
META_KEY: Final = "cloudtaser-space"
"""Metadata of a token that an administrator made for a space: its name."""
MAX_PATHS: Final = 128
"""Paths whose capabilities are asked for at a time."""

_LOGIN: Final = "auth/jwt/login"
_CREATE: Final = "auth/token/create/"
_MOUNT_INFO: Final = "sys/internal/ui/mounts"
_CAPABILITIES: Final = "sys/capabilities-self"
_OPENBAOS_OWN: Final = frozenset({"auth", "sys", "identity", "cubbyhole"})
_MAX_ANSWER: Final = 1 << 20


def real(space: Space, path: str) -> str | None:
    """OpenBao's path for one that the gate lets through; None where this cluster has none of that name."""
    first = path.partition("/")[0]
    if first.startswith(OURS) or path.startswith(f"auth/{OURS}"):
        return None
    if path == _LOGIN:
        return f"auth/{space.jwt}/login"
    if path == _CREATE + POD_TOKEN_ROLE:
        return _CREATE + space.pod_token_role
    if path.startswith(_MOUNT_INFO):
        asked = _asked_about(space, path[len(_MOUNT_INFO) + 1 :])
        return f"{_MOUNT_INFO}/{asked}" if asked else None
    return path if first in _OPENBAOS_OWN else space.path(path)


def own_lease(space: Space, lease_id: str) -> bool:
    """Whether a lease was issued by one of the space's mounts: its id begins with the mount."""
    return lease_id.startswith(space.prefix) and _plain(lease_id)


def own_origin(space: Space, path: object, meta: object = None) -> bool:
    """Whether what was issued at `path` is the space's: by its login, its token role, one of its mounts, or
    by an administrator who wrote the space's name into the token's metadata. Both are as OpenBao said."""
    if not isinstance(path, str) or not path:
        return False
    if path.startswith((f"auth/{space.jwt}/", space.prefix)) or path == _CREATE + space.pod_token_role:
        return _plain(path)
    if path.startswith((f"auth/{OURS}", f"{_CREATE}{OURS}", OURS)):
        return False
    return isinstance(meta, dict) and meta.get(META_KEY) == space.name


def body(space: Space, path: str, fields: dict[str, Any]) -> dict[str, Any]:
    """A checked body with the names that OpenBao knows. RequestRefused for what is another space's."""
    written = dict(fields)
    if path == _CREATE + POD_TOKEN_ROLE and isinstance(fields.get("policies"), list):
        written["policies"] = [
            space.own_pod_policy(name) if isinstance(name, str) else name for name in fields["policies"]
        ]
    elif path == _CAPABILITIES:
        for name in fields.keys() & {"path", "paths"}:
            written[name] = _asked_paths(space, fields[name])
    elif "lease_id" in fields and not own_lease(space, str(fields["lease_id"])):
        raise RequestRefused(
            403, "permission denied: the lease_id belongs to another space", "foreign_lease_id"
        )
    return written


def translates(path: str) -> bool:
    """Whether a good answer to `path` holds paths that a pod would not know again."""
    return path == _CAPABILITIES or path.startswith(_MOUNT_INFO)


def answer(space: Space, path: str, status: int, body: bytes) -> bytes:
    """OpenBao's answer in the words in which the pod asked."""
    if status >= 400:
        for there, asked in (*_words(space), *_names(space)):
            body = body.replace(there.encode(), asked.encode())
        return body
    try:
        said = parse_object(body, what="OpenBao's answer", limit=_MAX_ANSWER)
    except ProtocolError:
        return body
    data = said.get("data")
    if path == _CAPABILITIES:
        said = {_as_asked(space, name): value for name, value in said.items()}
        if isinstance(data, dict):
            said["data"] = {_as_asked(space, name): value for name, value in data.items()}
    elif isinstance(data, dict) and isinstance(data.get("path"), str):
        said["data"] = data | {"path": _as_asked(space, data["path"])}
    return dump_object(said)


def _asked_about(space: Space, asked: str) -> str:
    if asked == "auth/jwt" or asked.startswith("auth/jwt/"):
        return f"auth/{space.jwt}{asked[8:]}"
    first = asked.partition("/")[0]
    closed = not asked or first in _OPENBAOS_OWN or f"{first}-".startswith(OURS)
    return "" if closed else space.path(asked)


def _asked_paths(space: Space, asked: Any) -> Any:
    """The paths of a question about capabilities; a single one may stand without a list."""
    paths = asked if isinstance(asked, list) else [asked]
    if len(paths) > MAX_PATHS or not all(isinstance(path, str) and _plain(path) for path in paths):
        raise RequestRefused(
            400, f"the field 'paths' takes up to {MAX_PATHS} paths without `.` or `..`", "body_field"
        )
    known = [real(space, path) for path in paths]
    if None in known:
        raise RequestRefused(403, "permission denied: a path belongs to another space", "foreign_path")
    return known if isinstance(asked, list) else known[0]


def _as_asked(space: Space, text: str) -> str:
    for there, asked in _words(space):
        if text.startswith(there):
            return asked + text[len(there) :]
    return text


def _words(space: Space) -> Iterable[tuple[str, str]]:
    """OpenBao's names and the pods', the longer first."""
    yield f"auth/{space.jwt}", "auth/jwt"
    yield _CREATE + space.pod_token_role, _CREATE + POD_TOKEN_ROLE
    yield f"{space.jwt}/", "jwt/"
    yield space.prefix, ""


def _names(space: Space) -> Iterable[tuple[str, str]]:
    """Roles and policies in the text of an error, which is a JSON string."""
    yield f'\\"{space.role("")}', '\\"'
    yield space.pod_policies, POD_POLICY_PREFIX


def _plain(path: str) -> bool:
    return not {"", ".", ".."} & set(path.rstrip("/").split("/"))
