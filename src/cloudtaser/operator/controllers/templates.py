"""Templates: what a workload's pod template says of secrets: which Kubernetes Secrets it uses, and which
paths of OpenBao it asks for.

Used by `mapping_controller`. Pure; reads names, never a value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from cloudtaser.kube.annotations import PREFIX, is_asked, paths_in
from cloudtaser.kube.kinds import CRON_JOBS, DAEMON_SETS, DEPLOYMENTS, JOBS, STATEFUL_SETS, Kind
from cloudtaser.kube.resources import WorkloadKind

Json = dict[str, Any]

KINDS: Final[dict[WorkloadKind, Kind]] = {
    "Deployment": DEPLOYMENTS,
    "StatefulSet": STATEFUL_SETS,
    "DaemonSet": DAEMON_SETS,
    "CronJob": CRON_JOBS,
    "Job": JOBS,
}


@dataclass(frozen=True, slots=True)
class Template:
    """What is read of one."""

    injected: bool
    """Whether its pods ask to be."""
    config: str
    """The CloudTaserConfig it names."""
    paths: frozenset[str]
    """Of OpenBao, by annotation and by references in variables."""
    secrets: frozenset[str]
    """Names of Kubernetes Secrets that containers or volumes use; imagePullSecrets do not count."""

    @classmethod
    def of(cls, kind: WorkloadKind, workload: Json) -> Template:
        """Of a workload as the API server sends it."""
        spec = workload.get("spec") or {}
        if kind == "CronJob":
            spec = (spec.get("jobTemplate") or {}).get("spec") or {}
        template = spec.get("template") or {}
        metadata, pod = template.get("metadata") or {}, template.get("spec") or {}
        annotations = {str(key): str(value) for key, value in (metadata.get("annotations") or {}).items()}
        labels = {str(key): str(value) for key, value in (metadata.get("labels") or {}).items()}
        try:
            paths = paths_in(annotations.get(PREFIX + "secret-paths", ""))
        except ValueError:
            paths = ()  # the webhook says what is wrong with it
        return cls(
            injected=is_asked(annotations, labels),
            config=annotations.get(PREFIX + "config", ""),
            paths=frozenset(paths) | frozenset(_referenced(pod)),
            secrets=frozenset(name for name in _secrets(pod) if name),
        )


def _containers(pod: Json) -> Iterator[Json]:
    for group in ("initContainers", "containers"):
        yield from pod.get(group) or ()


def _secrets(pod: Json) -> Iterator[str]:
    for container in _containers(pod):
        for variable in container.get("env") or ():
            yield _name((variable.get("valueFrom") or {}).get("secretKeyRef"), "name")
        for source in container.get("envFrom") or ():
            yield _name(source.get("secretRef"), "name")
    for volume in pod.get("volumes") or ():
        yield _name(volume.get("secret"), "secretName")
        yield _name((volume.get("csi") or {}).get("nodePublishSecretRef"), "name")
        for source in (volume.get("projected") or {}).get("sources") or ():
            yield _name(source.get("secret"), "name")


def _name(reference: Any, field: str) -> str:
    return str(reference.get(field) or "") if isinstance(reference, dict) else ""


def _referenced(pod: Json) -> Iterator[str]:
    """Paths in `vault:PATH#FIELD` and `${vault:PATH#FIELD}` of plain variables."""
    for container in _containers(pod):
        for variable in container.get("env") or ():
            for part in str(variable.get("value") or "").split("vault:")[1:]:
                path, mark, _ = part.partition("#")
                if mark:
                    yield path.removeprefix("/").removeprefix("v1/")
