"""Probes and hooks: what else runs in a wrapped container, and what tells when a sealed one is ready.

Used by `mutation`. Pure; changes the container it is given in place. Commands of probes and hooks run
beside the wrapper and see the container's own environment, as ever; with `cloudtaser.io/wrap-exec` each is
run by a wrapper of its own, which logs in and fetches for it.
"""

from __future__ import annotations

from typing import Any, Final

from cloudtaser.kube.injection import COMMAND, WRAPPER
from cloudtaser.operator.webhook.pods import Kind, mapping

Json = dict[str, Any]

_PROBES: Final = ("livenessProbe", "readinessProbe", "startupProbe")
_HOOKS: Final = ("postStart", "preStop")
_UNSEALED_WITHIN: Final = 8640
"""Times ten seconds: a day, in which nobody restarts a container that waits for its token."""


def wrap(container: Json) -> None:
    """Put the wrapper before every command of a probe or hook."""
    for name in _PROBES:
        if name in container:
            container[name] = _wrapped(container[name])
    lifecycle = mapping(container, "lifecycle")
    if lifecycle:
        hooks = {name: _wrapped(lifecycle[name]) for name in _HOOKS if name in lifecycle}
        container["lifecycle"] = {**lifecycle, **hooks}


def _wrapped(place: Any) -> Any:
    """A probe or hook whose command, if it has one, the wrapper runs."""
    action = mapping(place, "exec") if isinstance(place, dict) else {}
    command = action.get("command")
    if not isinstance(command, list) or not command or command[0] == WRAPPER:
        return place
    return {**place, "exec": {**action, "command": [*COMMAND, *command]}}


def add_sealed_probes(container: Json, kind: Kind, port: int) -> None:
    """Ready only once the application runs, and not restarted for being sealed until then."""
    if kind is Kind.INIT:
        return  # it has no probes: it ends
    ready = {"path": "/readyz", "port": port, "scheme": "HTTP"}
    if "readinessProbe" not in container:
        container["readinessProbe"] = {"httpGet": dict(ready), "periodSeconds": 5}
    if "livenessProbe" in container and "startupProbe" not in container:
        container["startupProbe"] = {
            "httpGet": dict(ready),
            "periodSeconds": 10,
            "failureThreshold": _UNSEALED_WITHIN,
        }
