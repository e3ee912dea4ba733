"""The webhook configurations: the two objects by which an API server learns whom to ask, about what, and
what to do without an answer.

The chart renders the same objects, and a test holds the two together; tests against an API server take them
from here with the URL of a server on loopback.

Which entry a pod meets is decided by its namespace alone, so that no pod is asked about twice: the label
`cloudtaser.io/enforce=required` leads to the entries that fail closed, everything else to the others. The
entries call different paths, which is how the server knows whether a failure means a refusal or a warning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cloudtaser.operator.webhook.pods import INIT_CONTAINER
from cloudtaser.operator.webhook.settings import FailurePolicy
from cloudtaser.wire.names import SYSTEM_NAMESPACE

Json = dict[str, Any]

NAME: Final = "cloudtaser-operator-webhook"
"""Of both objects, and of the Service."""
ENFORCE_LABEL: Final = "cloudtaser.io/enforce"
REQUIRED: Final = "required"
EXCLUDED: Final = ("kube-system", "kube-public", "kube-node-lease")

MUTATE: Final = "/mutate-v1-pod"
MUTATE_REQUIRED: Final = "/mutate-v1-pod/required"
VALIDATE: Final = "/validate-v1-pod"
VALIDATE_REQUIRED: Final = "/validate-v1-pod/required"
VALIDATE_WORKLOAD: Final = "/validate-workload"

_ASKED: Final = " || ".join(
    f"object.?metadata.?{part}[?'cloudtaser.io/inject'].orValue('') == 'true'"
    for part in ("annotations", "labels")
)


def _mentions(metadata: str) -> str:
    """Whether the metadata there carries any annotation of ours, or the label."""
    return (
        f"{metadata}.?annotations.orValue({{}}).exists(k, k.startsWith('cloudtaser.io/'))"
        f" || {metadata}.?labels.orValue({{}}).exists(k, k == 'cloudtaser.io/inject')"
    )


def _installer(pod: str) -> str:
    """The image of the init container that brings the wrapper: a list of one, or of none."""
    containers = f"{pod}.?spec.?initContainers.orValue([])"
    return f"{containers}.filter(c, c.name == '{INIT_CONTAINER}').map(c, c.?image.orValue(''))"


_OURS: Final = _mentions("object.?metadata")
_OURS_OR_CHANGED: Final = (
    "request.operation == 'UPDATE' && request.?subResource.orValue('') == ''"
    f" ? {_installer('object')} != {_installer('oldObject')} : {_OURS}"
)
"""Of a pod that is changed, annotations say nothing: they can be taken away first. Every other change passes
without us, so that none waits while we are down: a finalizer that goes, above all."""
_WORKLOADS: Final = " || ".join(
    map(
        _mentions,
        (
            "object.?metadata",
            "object.?spec.?template.?metadata",
            "object.?spec.?jobTemplate.?spec.?template.?metadata",
        ),
    )
)


@dataclass(frozen=True, slots=True)
class Registration:
    """What differs from one installation to another."""

    ca_bundle: str = ""
    """base64 of PEM; empty until the leader has set it."""
    url: str = ""
    """Base URL of the server instead of the Service: tests only."""
    namespace: str = SYSTEM_NAMESPACE
    service: str = NAME
    failure_policy: FailurePolicy = "Ignore"
    timeout_seconds: int = 10
    object_selector: Mapping[str, Any] | None = None
    namespace_selector: Mapping[str, Any] | None = None
    """Besides what is always excluded."""
    labels: Mapping[str, str] | None = None


def mutating(registration: Registration) -> Json:
    """The MutatingWebhookConfiguration."""
    webhooks = [
        _webhook(registration, "inject.cloudtaser.io", MUTATE, registration.failure_policy, required=False),
        _webhook(registration, "inject-required.cloudtaser.io", MUTATE_REQUIRED, "Fail", required=True),
    ]
    for webhook in webhooks:
        webhook["reinvocationPolicy"] = "IfNeeded"
        webhook["rules"] = [_rule("", ["pods"], ["CREATE"])]
        webhook["matchConditions"] = [{"name": "asks-for-secrets", "expression": _ASKED}]
    return _object("MutatingWebhookConfiguration", registration, webhooks)


def validating(registration: Registration) -> Json:
    """The ValidatingWebhookConfiguration."""
    pods = _webhook(registration, "validate.cloudtaser.io", VALIDATE, registration.failure_policy, False)
    pods["rules"] = [_rule("", ["pods"], ["CREATE"])]
    pods["matchConditions"] = [{"name": "has-our-annotations", "expression": _OURS}]
    required = _webhook(registration, "validate-required.cloudtaser.io", VALIDATE_REQUIRED, "Fail", True)
    required["rules"] = [
        _rule("", ["pods"], ["CREATE", "UPDATE"]),
        _rule("", ["pods/ephemeralcontainers"], ["UPDATE"]),
    ]
    required["matchConditions"] = [{"name": "is-ours-or-changed", "expression": _OURS_OR_CHANGED}]
    workloads = _webhook(registration, "workloads.cloudtaser.io", VALIDATE_WORKLOAD, "Ignore", None)
    workloads["rules"] = [
        _rule("apps", ["deployments", "statefulsets", "daemonsets"], ["CREATE", "UPDATE"]),
        _rule("batch", ["jobs", "cronjobs"], ["CREATE", "UPDATE"]),
    ]
    workloads["matchConditions"] = [{"name": "has-our-annotations", "expression": _WORKLOADS}]
    return _object("ValidatingWebhookConfiguration", registration, [pods, required, workloads])


def _object(kind: str, registration: Registration, webhooks: list[Json]) -> Json:
    metadata: Json = {"name": NAME}
    if registration.labels:
        metadata["labels"] = dict(registration.labels)
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": kind,
        "metadata": metadata,
        "webhooks": webhooks,
    }


def _webhook(
    registration: Registration, name: str, path: str, policy: FailurePolicy, required: bool | None
) -> Json:
    """One entry; `required` says for which namespaces: those that are fail-closed, the others, or all."""
    webhook: Json = {
        "name": name,
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "matchPolicy": "Equivalent",
        "timeoutSeconds": registration.timeout_seconds,
        "failurePolicy": policy,
        "clientConfig": _client(registration, path),
        "namespaceSelector": _namespaces(registration, required),
    }
    if registration.object_selector and not required:
        webhook["objectSelector"] = dict(registration.object_selector)
    return webhook


def _client(registration: Registration, path: str) -> Json:
    if registration.url:
        client: Json = {"url": registration.url + path}
    else:
        service = {
            "namespace": registration.namespace,
            "name": registration.service,
            "path": path,
            "port": 443,
        }
        client = {"service": service}
    if registration.ca_bundle:
        client["caBundle"] = registration.ca_bundle
    return client


def _namespaces(registration: Registration, required: bool | None) -> Json:
    given = registration.namespace_selector or {}
    excluded = [*EXCLUDED, registration.namespace]
    expressions: list[Json] = [
        {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": excluded},
        *given.get("matchExpressions", ()),
    ]
    if required is not None:
        operator = "In" if required else "NotIn"
        expressions.append({"key": ENFORCE_LABEL, "operator": operator, "values": [REQUIRED]})
    selector: Json = {"matchExpressions": expressions}
    if given.get("matchLabels"):
        selector["matchLabels"] = dict(given["matchLabels"])
    return selector


def _rule(group: str, resources: Sequence[str], operations: Sequence[str]) -> Json:
    return {
        "apiGroups": [group],
        "apiVersions": ["v1"],
        "operations": list(operations),
        "resources": list(resources),
        "scope": "Namespaced",
    }
