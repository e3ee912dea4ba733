"""Injection: how a pod looks after the webhook, for those who look at pods.

Pure. Used by the CLI and by controllers that count injected pods; the webhook takes its names from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

WRAPPER: Final = "/cloudtaser/wrapper"
COMMAND: Final = (WRAPPER, "--")
"""What a container starts instead of its own command; behind `--` nothing is an option of the wrapper's."""


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A container that the wrapper starts."""

    name: str
    kind: str
    """`app`, `init` or `sidecar`."""
    command: tuple[str, ...]
    """What the wrapper starts."""
    address: str
    method: str
    role: str
    delivery: str
    rotation: str
    paths: tuple[str, ...]


def wrapped_containers(pod: Mapping[str, Any]) -> tuple[Wrapped, ...]:
    """The containers of a pod whose first process is the wrapper, app containers first."""
    spec = pod.get("spec")
    if not isinstance(spec, Mapping):
        return ()
    found = [_wrapped(one, "app") for one in _objects(spec, "containers")]
    found += [
        _wrapped(one, "sidecar" if one.get("restartPolicy") == "Always" else "init")
        for one in _objects(spec, "initContainers")
    ]
    return tuple(one for one in found if one is not None)


def is_injected(pod: Mapping[str, Any]) -> bool:
    """Whether any container's first process is the wrapper."""
    return bool(wrapped_containers(pod))


def _wrapped(container: Mapping[str, Any], kind: str) -> Wrapped | None:
    command = [str(one) for one in container.get("command") or ()]
    if command[:1] != [WRAPPER]:
        return None
    said = {
        str(one.get("name")): str(one.get("value") or "")
        for one in _objects(container, "env")
        if "name" in one
    }
    return Wrapped(
        name=str(container.get("name") or ""),
        kind=kind,
        command=(
            *command[2 if command[1:2] == ["--"] else 1 :],
            *(str(one) for one in container.get("args") or ()),
        ),
        address=said.get("VAULT_ADDR", ""),
        method=said.get("VAULT_AUTH_METHOD", "") or "kubernetes",
        role=said.get("VAULT_AUTH_ROLE", "") or "default",
        delivery=said.get("CLOUDTASER_DELIVERY", "") or "env",
        rotation=said.get("CLOUDTASER_ROTATION", "") or "restart",
        paths=tuple(one.strip() for one in said.get("CLOUDTASER_SECRET_PATHS", "").split(",") if one.strip()),
    )


def _objects(holder: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    value = holder.get(name)
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []
