"""Targets: which container of a pod is sealed, where its wrapper listens, and which tokens the pod has.

Used by `minting` and `keeping`. Pure: the pod as the API server has it goes in. That we injected a container
is judged from the pod's own specification, which nobody can change once the pod is there; its annotation,
which whoever may edit the pod can change, only says which tokens were made for it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cloudtaser.kube.injection import WRAPPER
from cloudtaser.operator.tokens.announcement import Refusal
from cloudtaser.operator.tokens.ports import Json

ACCESSOR_ANNOTATION: Final = "cloudtaser.io/token-accessor"
DEFAULT_PORT: Final = 8199
"""Of the first container; each further one listens on the next (spec/wrapper.md, "Sealed mode")."""

_ENDED: Final = ("Succeeded", "Failed")
_ENTRY: Final = re.compile(r"([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)=([A-Za-z0-9._-]{1,128})", re.ASCII)
_MAX_ENTRIES: Final = 64


@dataclass(frozen=True, slots=True)
class Target:
    """Where a sealed wrapper listens, the pod's tokens so far, and the version of the pod this is true of."""

    host: str
    port: int
    version: str
    accessors: Mapping[str, str]

    @property
    def authority(self) -> str:
        """`host:port`, as in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def find(pod: Json | None, uid: str, container: str) -> Target:
    """Where to bring the container's token. Refusal when the pod is gone or ended, or we did not inject that
    container for the token method.

    Only ever the pod's own address, as the kubelet reported it: whoever writes a pod must not choose whom the
    operator talks to.
    """
    metadata, status = _part(pod, "metadata"), _part(pod, "status")
    if metadata.get("uid") != uid:
        raise Refusal("gone", "the pod is gone")
    if status.get("phase") in _ENDED:
        raise Refusal("gone", "the pod has ended")
    port = _port(_part(pod, "spec"), container)
    return Target(
        _host(status.get("podIP")),
        port,
        str(metadata.get("resourceVersion", "")),
        decode(str(_part(metadata, "annotations").get(ACCESSOR_ANNOTATION, ""))),
    )


def decode(annotation: str) -> dict[str, str]:
    """Accessor by container, of `container=accessor,…`; what is none is left out."""
    found: dict[str, str] = {}
    for item in annotation.split(",")[:_MAX_ENTRIES]:
        entry = _ENTRY.fullmatch(item)
        if entry is not None:
            found[entry.group(1)] = entry.group(2)
    return found


def encode(accessors: Mapping[str, str]) -> str:
    """The annotation's value, in one spelling."""
    return ",".join(f"{container}={accessors[container]}" for container in sorted(accessors))


def _port(spec: Mapping[str, Any], name: str) -> int:
    for container in _containers(spec):
        if container.get("name") == name:
            command, variables = container.get("command"), _variables(container)
            is_wrapped = isinstance(command, list) and command[:1] == [WRAPPER]
            if not is_wrapped or variables.get("VAULT_AUTH_METHOD") != "token":
                break
            text = variables.get("CLOUDTASER_LISTEN_ADDR", f":{DEFAULT_PORT}").rpartition(":")[2]
            if re.fullmatch(r"[1-9][0-9]{0,4}", text, re.ASCII) and int(text) < 65536:
                return int(text)
            raise Refusal("not_ours", f"CLOUDTASER_LISTEN_ADDR of container {name} has no port")
    raise Refusal("not_ours", f"container {name} was not injected for the token method")


def _host(address: object) -> str:
    try:
        found = ipaddress.ip_address(address) if isinstance(address, str) else None
    except ValueError:
        found = None
    if found is None:
        raise Refusal("no_address", "the pod has no address yet")
    if found.is_unspecified or found.is_multicast or found.is_link_local or found.is_loopback:
        raise Refusal("address", "the pod's address is none of a pod")
    return str(found)


def _containers(spec: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for kind in ("containers", "initContainers"):
        containers = spec.get(kind)
        yield from (one for one in containers or () if isinstance(one, dict))


def _variables(container: Mapping[str, Any]) -> dict[str, str]:
    return {
        str(entry.get("name")): entry["value"]
        for entry in container.get("env") or ()
        if isinstance(entry, dict) and isinstance(entry.get("value"), str)
    }


def _part(holder: Mapping[str, Any] | None, name: str) -> Mapping[str, Any]:
    value = (holder or {}).get(name)
    return value if isinstance(value, dict) else {}
