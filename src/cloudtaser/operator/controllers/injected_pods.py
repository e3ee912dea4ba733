"""InjectedPods: the pods that the webhook has injected, as far as controllers and reports need them.

Kept in memory on the leader only. A pod counts when it carries the webhook's annotation
`cloudtaser.io/status`; who may make pods can write it too, so the numbers are for people.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

from cloudtaser.kube.annotations import PREFIX, STATUS
from cloudtaser.kube.kinds import PODS
from cloudtaser.kube.resources import Metadata
from cloudtaser.kube.watch import Key, Reflector, WatchApi

Json = dict[str, Any]
CONFIG: Final = PREFIX + "config"
MAX_PODS: Final = 50_000
_MAX_STATUS: Final = 2048


@dataclass(frozen=True, slots=True)
class InjectedPod:
    """One of them."""

    namespace: str
    name: str
    config: str
    """The CloudTaserConfig that it names, empty for none."""
    told: str
    """What the webhook wrote."""
    phase: str
    ready: bool
    restarts: int
    node: str
    created: str
    owner: Key
    """Kind and name of what made it."""

    @classmethod
    def parse(cls, item: Json) -> InjectedPod | None:
        """Of a pod as the API server sends it; None for one that is not injected."""
        metadata = Metadata.parse(item)
        told = metadata.annotations.get(STATUS, "")
        if not told:
            return None
        status, spec = item.get("status") or {}, item.get("spec") or {}
        conditions = {entry.get("type"): entry.get("status") for entry in status.get("conditions") or ()}
        containers = status.get("containerStatuses") or ()
        return cls(
            namespace=metadata.namespace,
            name=metadata.name,
            config=metadata.annotations.get(CONFIG, ""),
            told=told[:_MAX_STATUS],
            phase=str(status.get("phase") or "Unknown"),
            ready=conditions.get("Ready") == "True",
            restarts=sum(int(entry.get("restartCount") or 0) for entry in containers),
            node=str(spec.get("nodeName") or ""),
            created=metadata.creation_timestamp,
            owner=_owner(item),
        )

    @property
    def summary(self) -> str:
        """What the webhook wrote, without what is the same for all."""
        try:
            fields = json.loads(self.told)
            if isinstance(fields, dict):
                shown = {name: fields[name] for name in ("injected", "method", "role") if name in fields}
                return json.dumps(shown or fields)[:200]
        except (ValueError, RecursionError):  # who may make pods can write anything there
            pass
        return self.told[:200]


def _owner(item: Json) -> Key:
    for owner in (item.get("metadata") or {}).get("ownerReferences") or ():
        if owner.get("controller"):
            return str(owner.get("kind") or ""), str(owner.get("name") or "")
    return "", ""


def pods_reflector(api: WatchApi) -> Reflector[InjectedPod]:
    """All of the cluster."""
    return Reflector(api, PODS, InjectedPod.parse, max_objects=MAX_PODS)


def counted(pods: Reflector[InjectedPod]) -> Counter[Key]:
    """How many name which configuration: (namespace, name) → pods."""
    return Counter((pod.namespace, pod.config) for pod in pods.values() if pod.config)


def is_of(pod: InjectedPod, namespace: str, kind: str, name: str) -> bool:
    """Whether a report about that namespace (empty: all), kind and name (empty: all) is about this pod.

    A Deployment's pods belong to a ReplicaSet, a CronJob's to a Job, whose names begin with its own.
    """
    if namespace and pod.namespace != namespace:
        return False
    if not kind:
        return True
    if kind == "Pod":
        return pod.name == name
    owner_kind, owner = pod.owner
    if kind in ("Deployment", "CronJob"):
        between = {"Deployment": "ReplicaSet", "CronJob": "Job"}[kind]
        return owner_kind == between and owner.rpartition("-")[0] == name
    return (owner_kind, owner) == (kind, name)
