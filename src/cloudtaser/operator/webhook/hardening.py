"""Hardening: what Pod Security asks of containers.

Used by `mutation`. Pure. Containers of ours pass `restricted` in any pod. In the application's containers
only what their author left open is set, and only what an unchanged program does not notice: the runtime's
own seccomp filter, and no new privileges by setuid programs. A read-only root file system or another user
would break images, so those stay with the author.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cloudtaser.operator.webhook.pods import mapping

Json = dict[str, Any]

NOBODY: Final = 65532
"""The user of our images."""
_GIVES_ALL: Final = ("SYS_ADMIN", "CAP_SYS_ADMIN", "ALL")
_RUNTIME_DEFAULT: Final = {"type": "RuntimeDefault"}


def restricted(pod_context: Mapping[str, Any]) -> Json:
    """The security context of a container of ours. Its user is its image's, which is a number and not root;
    it is said only where the pod says another for all its containers, since platforms may want to choose
    one (OpenShift).
    """
    context: Json = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "seccompProfile": dict(_RUNTIME_DEFAULT),
    }
    if "runAsUser" in pod_context or "runAsGroup" in pod_context:
        context |= {"runAsUser": NOBODY, "runAsGroup": NOBODY}
    return context


def hardened(context: Mapping[str, Any], pod_context: Mapping[str, Any]) -> Json:
    """An application container's security context with what its author left open."""
    result = dict(context)
    if context.get("privileged") is True:
        return result  # it asked for everything, and the API server refuses half of it
    added = mapping(context, "capabilities").get("add")
    if not (isinstance(added, list) and any(name in _GIVES_ALL for name in added)):
        result.setdefault("allowPrivilegeEscalation", False)
    if "seccompProfile" not in pod_context:
        result.setdefault("seccompProfile", dict(_RUNTIME_DEFAULT))
    return result
