"""Paths that a pod may be granted: checked so strictly that no policy says more than it seems to.

Pure. Used by `grants`; names of Kubernetes objects are checked here too, as they become names of policies and
roles.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from cloudtaser.errors import UsageError
from cloudtaser.openbao.layout import Space

MAX_PATH: Final = 512
_SEGMENT: Final = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
_NAMESPACE: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_SERVICE_ACCOUNT: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)
_NOT_SECRETS: Final = ("auth", "sys", "identity", "cubbyhole")


def check_namespace(name: str) -> str:
    """`name` itself if a Kubernetes namespace can bear it; else UsageError."""
    if not _NAMESPACE.fullmatch(name):
        raise UsageError(f"not a Kubernetes namespace: {name[:80]!r}", on="--namespace")
    return name


def check_service_account(name: str) -> str:
    """`name` itself if a ServiceAccount can bear it, or "" for any; else UsageError."""
    if name and not _SERVICE_ACCOUNT.fullmatch(name):
        raise UsageError(f"not a ServiceAccount: {name[:80]!r}", on="--serviceaccount")
    return name


def check_path(path: str) -> str:
    """`path` itself if it is made of plain segments: no wildcard, template, empty or dot segment."""
    segments = path.split("/")
    plain = all(_SEGMENT.fullmatch(segment) and segment not in (".", "..") for segment in segments)
    if not plain or len(segments) < 2 or len(path) > MAX_PATH:
        raise UsageError(
            f"not a path that can be granted: {path[:80]!r}",
            on="--path",
            fix="give one secret, such as secret/data/shop/db: letters, digits, dots, dashes and underscores "
            "between slashes, no wildcard",
        )
    return path


def check_in_space(path: str, space: Space, mounts: Mapping[str, Any]) -> None:
    """UsageError unless `path` lies on a mount of the space that holds secrets; `mounts` are the space's own,
    by plain name."""
    first = path.split("/", 1)[0]
    closed = (*_NOT_SECRETS, space.asked(space.pki_tunnel), space.asked(space.pki_pod))
    if first in closed:
        raise UsageError(f"no pod is granted anything under {first}/", on=f"--path {path}")
    found = [mount for mount in mounts if f"{path}/".startswith(mount)]
    if not found:
        known = ", ".join(sorted(mount for mount in mounts if mount.split("/", 1)[0] not in closed))
        raise UsageError(
            "no secrets engine is mounted there", on=f"--path {path}", fix=f"{space.shown} has {known}"
        )
    mount = max(found, key=len)
    rest = path[len(mount) :]
    if not rest:
        raise UsageError(
            "that is a whole secrets engine", on=f"--path {path}", fix="grant single paths below it"
        )
    if is_kv2(mounts[mount]) and not re.fullmatch(r"data/.+", rest):
        raise UsageError(
            "a secret of a KV version 2 engine is read below data/",
            on=f"--path {path}",
            fix=f"did you mean {mount}data/{rest.removeprefix('metadata/')}",
        )


def is_kv2(mount: Mapping[str, Any]) -> bool:
    """Whether sys/mounts describes a KV version 2 engine."""
    return mount.get("type") == "kv" and (mount.get("options") or {}).get("version") == "2"
