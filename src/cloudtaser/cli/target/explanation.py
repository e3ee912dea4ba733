"""Explanation: why a pod was or was not injected, made of what the API server shows of it.

Pure. Used by `explain`. Reasons are judged from the pod spec, the namespace and the webhook configuration as
they are now; what the pod's annotations say of themselves decides nothing, since whoever edits pods can write
them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cloudtaser.kube import annotations as grammar
from cloudtaser.kube.injection import Wrapped, wrapped_containers

Json = dict[str, Any]

WEBHOOK: Final = "cloudtaser-operator-webhook"
NEVER: Final = ("kube-system", "kube-public", "kube-node-lease")
_PROGRAM: Final = "cloudtaser-wrapper"
_OWNERS: Final = {"ReplicaSet": "Deployment"}


@dataclass(frozen=True, slots=True)
class Reason:
    """One line of why, and what to do about it."""

    what: str
    fix: str


@dataclass(frozen=True, slots=True)
class Told:
    """What a container's wrapper wrote to its log, as far as the log was read."""

    score: str = ""
    """`105 of 135`."""
    missing: tuple[str, ...] = ()
    secrets: int = 0
    paths: tuple[str, ...] = ()
    fetched_at: str = ""
    """RFC 3339, UTC."""
    trouble: str = ""
    """The last warning or error."""


@dataclass(frozen=True, slots=True)
class View:
    """What there is to judge by; None: it could not be read, for lack of a right or because it is absent."""

    pod: Mapping[str, Any]
    namespace: Mapping[str, Any] | None
    webhook: Mapping[str, Any] | None
    webhook_readable: bool = True
    system_namespace: str = "cloudtaser-system"
    now_injected: bool | None = None
    """Whether the same pod, created now, would be injected (a dry run); None: not tried."""
    now_said: tuple[str, ...] = ()
    """What the webhook says to that: warnings, or its refusal."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer."""

    injected: bool
    containers: tuple[Wrapped, ...]
    reasons: tuple[Reason, ...]
    """Why not; empty when it was, or when nothing stands in the way now."""
    notes: tuple[str, ...] = field(default=())


def explain(view: View) -> Explanation:
    """Judge a pod."""
    metadata = _of(view.pod, "metadata")
    wrapped = wrapped_containers(view.pod)
    request, problems = grammar.parse(_texts(metadata, "annotations"), _texts(metadata, "labels"))
    del request
    notes = [f"{problem}" for problem in problems]
    if wrapped:
        return Explanation(True, wrapped, (), tuple(notes))
    reasons = [*_not_asked(view, metadata), *_in_the_way(view, metadata)]
    if not reasons:
        reasons.append(_now(view))
    return Explanation(False, (), tuple(reasons), (*notes, *view.now_said))


def _not_asked(view: View, metadata: Mapping[str, Any]) -> list[Reason]:
    annotations, labels = _texts(metadata, "annotations"), _texts(metadata, "labels")
    if grammar.is_asked(annotations, labels):
        return []
    said = annotations.get(grammar.INJECT, labels.get(grammar.INJECT))
    owner = next(iter(metadata.get("ownerReferences") or ()), None)
    place = "the pod template" if owner else "the pod"
    if said is not None:
        return [Reason(f"{grammar.INJECT} is {said!r}, not 'true'", f"set it to 'true' on {place}")]
    fix = f"set the annotation {grammar.INJECT}: 'true' on {place}"
    if owner:
        kind = _OWNERS.get(str(owner.get("kind")), str(owner.get("kind")))
        fix += f" (spec.template.metadata of the {kind}, not on the {kind} itself)"
    return [Reason(f"it does not ask: neither annotation nor label {grammar.INJECT} is there", fix)]


def _in_the_way(view: View, metadata: Mapping[str, Any]) -> list[Reason]:
    found: list[Reason] = []
    namespace = str(metadata.get("namespace") or "")
    if namespace in (*NEVER, view.system_namespace):
        found.append(
            Reason(f"pods of namespace {namespace} are never injected", "run it in another namespace")
        )
    if _of(view.pod, "spec").get("hostPID") is True:
        shared = "it shares the node's process ids (hostPID): its secrets could not be kept"
        found.append(Reason(shared, "leave hostPID out"))
    if view.webhook is None and view.webhook_readable:
        found.append(Reason(f"there is no MutatingWebhookConfiguration {WEBHOOK}", "install the chart"))
    elif view.webhook is not None:
        hooks = [one for one in view.webhook.get("webhooks") or () if isinstance(one, dict)]
        if not any(_of(one, "clientConfig").get("caBundle") for one in hooks):
            found.append(
                Reason(
                    "the webhook has no caBundle yet, so that the API server cannot ask it",
                    f"see kubectl -n {view.system_namespace} logs deploy/cloudtaser-operator -c manager",
                )
            )
    return found


def _now(view: View) -> Reason:
    if view.now_injected:
        return Reason(
            "nothing stands in the way now: it was made before the webhook, or while that was away",
            "make it anew (kubectl rollout restart)",
        )
    if view.now_injected is False:
        why = view.now_said[-1] if view.now_said else "the webhook did not change it, and did not say why"
        return Reason(f"made now, it would not be injected either: {why}", "mend that, and make it anew")
    return Reason(
        "nothing stands in the way that can be seen from here",
        "look at the pod's events and at the operator's log",
    )


def read_log(text: str) -> Told:
    """What a container's wrapper said, out of a log that is mostly the application's."""
    told = Told()
    for line in text.splitlines():
        if _PROGRAM not in line or not line.startswith("{"):
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("program") == _PROGRAM:
            told = _learn(told, entry)
    return told


def _learn(told: Told, entry: Json) -> Told:
    event, level, at = str(entry.get("event")), entry.get("level"), str(entry.get("time"))
    score, of = entry.get("score"), entry.get("max")
    shown, missing, trouble = told.score, told.missing, told.trouble
    if isinstance(score, int) and isinstance(of, int):
        shown = f"{score} of {of}"
        named = entry.get("missing")
        missing = tuple(map(str, named)) if isinstance(named, list) else ()
    elif level in ("warning", "error"):
        detail = next((str(entry[name]) for name in ("reason", "error", "what") if entry.get(name)), "")
        trouble = f"{at} {event}: {detail}" if detail else f"{at} {event}"
    secrets, paths, fetched = told.secrets, told.paths, told.fetched_at
    if event == "secrets loaded":
        count, read = entry.get("secret_count"), entry.get("paths")
        secrets, fetched, trouble = count if isinstance(count, int) else 0, at, ""
        paths = tuple(map(str, read)) if isinstance(read, list) else ()
    return Told(shown, missing, secrets, paths, fetched, trouble)


def policies(role: str, namespace: str, service_account: str, method: str) -> Sequence[str]:
    """The OpenBao policies that a pod's login gets (spec/openbao.md): the role's, or the pod's own."""
    own = f"ct-pod_{namespace}_{service_account}"
    if method == "token":
        return (own,)
    return (own,) if role == f"{namespace}_{service_account}" else (f"of role {role}",)


def _of(holder: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = holder.get(name)
    return value if isinstance(value, Mapping) else {}


def _texts(holder: Mapping[str, Any], name: str) -> dict[str, str]:
    return {str(key): str(value) for key, value in _of(holder, name).items()}
