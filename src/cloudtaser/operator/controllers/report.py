"""Report: what a DebugReport says, section by section, from what was found; small enough for etcd.

Used by `report_controller`, with what `evidence` gathers. Pure: plain data in, JSON of the schema in
`charts/cloudtaser/crds/debugreports.yaml` out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from cloudtaser.operator.controllers.injected_pods import InjectedPod
from cloudtaser.operator.controllers.redaction import redacted
from cloudtaser.operator.controllers.status import parse_stamp, stamp
from cloudtaser.operator.incidents import KEPT, Incident

Json = dict[str, Any]

MAX_EVENTS: Final = 100
MAX_PODS: Final = 200
MAX_REPORT: Final = 256 * 1024
"""Bytes of JSON; etcd takes 1.5 MiB, and people read this."""
_LISTS: Final = ("events", "pods", "errors", "certificates", "hops")
"""What is shortened first."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One step on the way to OpenBao. `ok` None: it was not tried, because an earlier one failed."""

    name: str
    ok: bool | None
    detail: str = ""
    seconds: float | None = None
    fix: str = ""


@dataclass(frozen=True, slots=True)
class CertificateState:
    """A certificate that is in use. `not_after` None: there is none, and `problem` says why."""

    name: str
    not_after: datetime | None
    subject: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class WebhookState:
    """How the API server calls us. `trusted` None: it cannot be told."""

    configured: bool
    trusted: bool | None = None
    entries: tuple[tuple[str, str, int], ...] = ()
    """Name, failure policy, seconds."""
    problem: str = ""


def hops(found: Iterable[Hop]) -> list[Json]:
    """The section `hops`."""
    return [
        _without_empty(
            name=hop.name,
            ok=hop.ok,
            milliseconds=None if hop.seconds is None else round(hop.seconds * 1000, 1),
            detail=hop.detail,
            fix=hop.fix,
        )
        for hop in found
    ]


def certificates(found: Iterable[CertificateState], now: datetime) -> list[Json]:
    """The section `certificates`."""
    return [
        _without_empty(
            name=one.name,
            subject=one.subject,
            notAfter=stamp(one.not_after) if one.not_after else None,
            secondsLeft=int((one.not_after - now).total_seconds()) if one.not_after else None,
            problem=one.problem or ("it has ended" if one.not_after and one.not_after <= now else ""),
        )
        for one in found
    ]


def events(items: Iterable[Json], namespace: str, kind: str, name: str) -> list[Json]:
    """The section `events`: those about that namespace (empty: all), kind and name (empty: all), newest
    first. `items` are Events as the API server sends them."""
    found = []
    for item in items:
        regarding = item.get("regarding") or {}
        if namespace and regarding.get("namespace") != namespace:
            continue
        if kind and not _is_about(regarding, kind, name):
            continue
        series = item.get("series") or {}
        at = parse_stamp(series.get("lastObservedTime") or item.get("eventTime"))
        where = "/".join(filter(None, (regarding.get("namespace"), regarding.get("name"))))
        found.append(
            (
                at or datetime.fromtimestamp(0, UTC),
                _without_empty(
                    time=stamp(at) if at else None,
                    type=item.get("type"),
                    reason=item.get("reason"),
                    regarding=f"{regarding.get('kind', '')} {where}".strip(),
                    note=item.get("note"),
                    count=int(series.get("count") or 1),
                ),
            )
        )
    found.sort(key=lambda entry: entry[0], reverse=True)
    return [entry for _, entry in found[:MAX_EVENTS]]


def _is_about(regarding: Json, kind: str, name: str) -> bool:
    """About the workload itself, or about a pod or ReplicaSet whose name begins with its own."""
    regarded = str(regarding.get("name") or "")
    if regarding.get("kind") == kind:
        return regarded == name
    return kind != "Pod" and regarded.startswith(f"{name}-")


def pods(found: Sequence[InjectedPod]) -> list[Json]:
    """The section `pods`, by namespace and name; those that are not ready first."""
    ordered = sorted(found, key=lambda pod: (pod.ready, pod.namespace, pod.name))
    return [
        _without_empty(
            namespace=pod.namespace,
            name=pod.name,
            phase=pod.phase,
            ready=pod.ready,
            restarts=pod.restarts,
            node=pod.node,
            created=pod.created,
            config=pod.config,
            status=pod.summary,
        )
        for pod in ordered[:MAX_PODS]
    ]


def webhook(state: WebhookState) -> Json:
    """The section `webhook`."""
    return _without_empty(
        configured=state.configured,
        caBundleTrusts=state.trusted,
        entries=[
            {"name": name, "failurePolicy": policy, "timeoutSeconds": seconds}
            for name, policy, seconds in state.entries
        ],
        problem=state.problem,
    )


def errors(found: Iterable[Incident]) -> list[Json]:
    """The section `errors`, the newest last."""
    ordered = sorted(found, key=lambda incident: incident.time)[-KEPT:]
    return [
        _without_empty(
            time=stamp(datetime.fromtimestamp(incident.time, UTC)),
            part=incident.part,
            beacon=incident.beacon,
            code=incident.code,
            message=incident.message,
            reconnectDelay=incident.delay,
        )
        for incident in ordered
    ]


def summary(report: Json) -> str:
    """The report in one line: the first broken hop, or what else is wrong."""
    for hop in report.get("hops", ()):
        if hop.get("ok") is False:
            return f"{hop['name']} does not work: {hop.get('detail', '')}".rstrip(": ")
    if (report.get("webhook") or {}).get("problem"):
        return f"the webhook: {report['webhook']['problem']}"
    for certificate in report.get("certificates", ()):
        if certificate.get("problem"):
            return f"{certificate['name']}: {certificate['problem']}"
    if report.get("failed"):
        return f"could not look at {', '.join(sorted(report['failed']))}"
    waiting = sum(not pod.get("ready") for pod in report.get("pods", ()))
    if waiting:
        return f"{waiting} of {report.get('injectedPods', waiting)} injected pods are not ready"
    return "nothing is wrong with what was looked at"


def finished(report: Json, limit: int = MAX_REPORT) -> Json:
    """The report without what looks like a credential, shortened until it fits."""
    report = redacted(report)
    while len(json.dumps(report)) > limit:
        longest = max(_LISTS, key=lambda name: len(json.dumps(report.get(name, []))))
        entries = report.get(longest) or []
        if not entries:
            return {"truncated": True, "failed": {"report": "it is too large"}}
        half = len(entries) // 2
        report[longest] = entries[-half:] if longest == "errors" and half else entries[:half]
        report["truncated"] = True
    return report


def _without_empty(**fields: Any) -> Json:
    return {name: value for name, value in fields.items() if value not in (None, "", [])}
