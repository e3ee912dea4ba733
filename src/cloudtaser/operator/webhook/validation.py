"""The validation: what could never work is refused on a pod, and said of a workload whose pods would meet it.

Used by `service`. Pure. A workload is never refused: its author sees warnings at once, where otherwise he
would have to look for the events of a ReplicaSet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cloudtaser.kube.annotations import GRAMMAR, INJECT, PREFIX, TEMPLATE, is_asked, parse
from cloudtaser.operator.webhook import enforcement
from cloudtaser.operator.webhook.errors import BadRequestError, NotInjectedError
from cloudtaser.operator.webhook.plan import Plan
from cloudtaser.operator.webhook.pods import Container, mapping, strings
from cloudtaser.operator.webhook.settings import WebhookSettings

Json = dict[str, Any]
Prepare = Callable[[Mapping[str, Any]], tuple[Plan, list[Container]]]
"""The plan for a pod and its containers that get the wrapper. Raises NotInjectedError."""

WORKLOADS: Final = ("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a pod may be, why not, and what its author should know."""

    refusal: NotInjectedError | None = None
    warnings: tuple[str, ...] = ()


def of_pod(pod: Mapping[str, Any], prepare: Prepare, settings: WebhookSettings, *, required: bool) -> Verdict:
    """The verdict on a pod that is to be made; `required`: its namespace is fail-closed."""
    metadata = mapping(pod, "metadata")
    annotations, labels = strings(metadata, "annotations"), strings(metadata, "labels")
    if not is_asked(annotations, labels):
        _, problems = parse(annotations, labels)
        if problems and annotations.get(INJECT) != "false":
            return Verdict(BadRequestError(problems))
        return Verdict(warnings=(*map(str, problems), *_idle(annotations)))
    try:
        plan, selected = prepare(pod)
    except BadRequestError as error:
        return Verdict(error)
    except NotInjectedError as error:
        return Verdict(error) if required else Verdict(warnings=(error.diagnostic(),))
    if required:
        faults = enforcement.faults(pod, plan, selected, settings)
        if faults:
            return Verdict(
                NotInjectedError(
                    "enforcement",
                    f"in this namespace a pod gets its secrets or does not start: {', '.join(faults)}",
                )
            )
    return Verdict()


def of_ephemeral(pod: Mapping[str, Any]) -> Verdict:
    """The verdict on ephemeral containers that are to be added to a pod of a fail-closed namespace."""
    faults = enforcement.ephemeral_faults(pod)
    return Verdict(NotInjectedError("enforcement", ", ".join(faults))) if faults else Verdict()


def of_change(old: Mapping[str, Any], pod: Mapping[str, Any], settings: WebhookSettings) -> Verdict:
    """The verdict on a change to a pod of a fail-closed namespace."""
    faults = enforcement.change_faults(old, pod, settings)
    return Verdict(NotInjectedError("enforcement", ", ".join(faults))) if faults else Verdict()


def of_workload(workload: Mapping[str, Any], prepare: Prepare) -> tuple[str, ...]:
    """What is to be said of a workload."""
    template = _template(workload)
    metadata = mapping(template, "metadata")
    annotations, labels = strings(metadata, "annotations"), strings(metadata, "labels")
    warnings = list(_misplaced(mapping(workload, "metadata"), annotations, labels))
    if not is_asked(annotations, labels):
        _, problems = parse(annotations, labels)
        return (*warnings, *map(str, problems), *_idle(annotations))
    try:
        prepare(template)
    except BadRequestError as error:
        warnings += map(str, error.problems)
    except NotInjectedError as error:
        warnings.append(error.diagnostic())
    return tuple(warnings)


def _template(workload: Mapping[str, Any]) -> Mapping[str, Any]:
    spec = mapping(workload, "spec")
    if workload.get("kind") == "CronJob":
        spec = mapping(mapping(spec, "jobTemplate"), "spec")
    return mapping(spec, "template")


def _misplaced(
    metadata: Mapping[str, Any], annotations: Mapping[str, str], labels: Mapping[str, str]
) -> list[str]:
    """Annotations of the workload itself, which nobody reads."""
    misplaced = [
        name for name in strings(metadata, "annotations") if _is_for_pods(name) and name not in annotations
    ]
    if strings(metadata, "labels").get(INJECT) == "true" and INJECT not in (*labels, *annotations):
        misplaced.append(f"label {INJECT}")
    if not misplaced:
        return []
    return [f"{', '.join(misplaced)}: belongs into the pod template's metadata; here it has no effect"]


def _is_for_pods(name: str) -> bool:
    short = name.removeprefix(PREFIX)
    return name.startswith(PREFIX) and (short in GRAMMAR or short.startswith(TEMPLATE))


def _idle(annotations: Mapping[str, str]) -> list[str]:
    if INJECT in annotations or not any(map(_is_for_pods, annotations)):
        return []
    return [f'{INJECT} is not "true": the other annotations have no effect']
