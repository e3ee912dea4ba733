"""Kinds: under which path the API server keeps which objects, and what our errors call them.

Used by `verbs` and by everybody who names a kind to it. Only the kinds that somebody needs; the custom ones
are in `resources`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object at one version. `group` is empty for the core group."""

    group: str
    version: str
    plural: str
    name: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """As an object's `apiVersion` has it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str = "") -> str:
        """Of the collection, in one namespace or in all of them, or of one object in it."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if namespace and self.namespaced:
            parts += ["namespaces", _segment(namespace)]
        parts.append(self.plural)
        if name is not None:
            parts.append(_segment(name))
        if subresource:
            parts.append(subresource)
        return "/" + "/".join(parts)

    def describe(self, namespace: str | None = None, name: str | None = None, subresource: str = "") -> str:
        """For a person and for a Role's author: `pods shop/web-0`, `deployments.apps/status shop/web`."""
        what = f"{self.plural}.{self.group}" if self.group else self.plural
        where = "/".join(part for part in (namespace if self.namespaced else None, name) if part)
        return " ".join(part for part in (f"{what}/{subresource}" if subresource else what, where) if part)


PODS: Final = Kind("", "v1", "pods", "Pod")
NAMESPACES: Final = Kind("", "v1", "namespaces", "Namespace", namespaced=False)
NODES: Final = Kind("", "v1", "nodes", "Node", namespaced=False)
CONFIG_MAPS: Final = Kind("", "v1", "configmaps", "ConfigMap")
SERVICES: Final = Kind("", "v1", "services", "Service")
SERVICE_ACCOUNTS: Final = Kind("", "v1", "serviceaccounts", "ServiceAccount")
EVENTS: Final = Kind("events.k8s.io", "v1", "events", "Event")
LEASES: Final = Kind("coordination.k8s.io", "v1", "leases", "Lease")
DEPLOYMENTS: Final = Kind("apps", "v1", "deployments", "Deployment")
REPLICA_SETS: Final = Kind("apps", "v1", "replicasets", "ReplicaSet")
STATEFUL_SETS: Final = Kind("apps", "v1", "statefulsets", "StatefulSet")
DAEMON_SETS: Final = Kind("apps", "v1", "daemonsets", "DaemonSet")
JOBS: Final = Kind("batch", "v1", "jobs", "Job")
CRON_JOBS: Final = Kind("batch", "v1", "cronjobs", "CronJob")
MUTATING_WEBHOOKS: Final = Kind(
    "admissionregistration.k8s.io",
    "v1",
    "mutatingwebhookconfigurations",
    "MutatingWebhookConfiguration",
    namespaced=False,
)
VALIDATING_WEBHOOKS: Final = Kind(
    "admissionregistration.k8s.io",
    "v1",
    "validatingwebhookconfigurations",
    "ValidatingWebhookConfiguration",
    namespaced=False,
)
CUSTOM_RESOURCE_DEFINITIONS: Final = Kind(
    "apiextensions.k8s.io",
    "v1",
    "customresourcedefinitions",
    "CustomResourceDefinition",
    namespaced=False,
)


def _segment(text: str) -> str:
    return quote(text, safe="")
