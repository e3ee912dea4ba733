"""Statuses: conditions that keep their time, and a write only where something changed.

Used by every controller. `merged` and `difference` are pure; `write` patches the status of the very object
that was looked at, never of one that has its name by now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from cloudtaser.kube.errors import ConflictError, NotFoundError
from cloudtaser.kube.kinds import Kind
from cloudtaser.kube.resources import Metadata

Json = dict[str, Any]


class StatusApi(Protocol):
    """What is asked of the API server; `kube.client.KubeApi` does it."""

    async def patch_object(
        self, kind: Kind, namespace: str | None, name: str, patch: Any, *, subresource: str = ""
    ) -> Json:
        """Merge-patch an object."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One entry of `status.conditions`. `holds` None is Unknown."""

    type: str
    holds: bool | None
    reason: str
    """CamelCase."""
    message: str


def stamp(now: datetime) -> str:
    """As the API server writes times."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_stamp(text: object) -> datetime | None:
    """The other way; None for what is none."""
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def merged(before: object, conditions: Sequence[Condition], generation: int, now: datetime) -> list[Json]:
    """The conditions as they are written: one whose status is as before keeps the time of its last change."""
    known = {
        entry.get("type"): entry
        for entry in (before if isinstance(before, list) else ())
        if isinstance(entry, dict)
    }
    words = {True: "True", False: "False", None: "Unknown"}
    written = []
    for condition in conditions:
        former = known.get(condition.type, {})
        same = former.get("status") == words[condition.holds] and former.get("lastTransitionTime")
        written.append(
            {
                "type": condition.type,
                "status": words[condition.holds],
                "reason": condition.reason,
                "message": condition.message,
                "observedGeneration": generation,
                "lastTransitionTime": former["lastTransitionTime"] if same else stamp(now),
            }
        )
    return written


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> Json:
    """The merge patch that makes `after` of `before`; empty when they are the same."""
    patch: Json = {name: None for name in before if name not in after}
    patch |= {name: value for name, value in after.items() if before.get(name) != value}
    return patch


async def write(
    api: StatusApi, kind: Kind, metadata: Metadata, before: Mapping[str, Any], after: Mapping[str, Any]
) -> bool:
    """Write what differs; whether anything did. An object that is gone, or another by now, is let be."""
    patch = difference(before, after)
    if not patch:
        return False
    body = {"metadata": {"uid": metadata.uid}, "status": patch}
    try:
        await api.patch_object(kind, metadata.namespace, metadata.name, body, subresource="status")
    except (NotFoundError, ConflictError):
        return False
    return True
