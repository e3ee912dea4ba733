"""Election: who of several replicas leads, decided from one Lease, one look at a time.

Used by `leadership`, which reads and writes the Lease. Pure: the caller passes the time of its own monotonic
clock. The rules are those of Kubernetes' client-go (`leaderelection`): nobody compares his clock with
another's. A Lease counts as held for as long as it says, from the moment at which *we* saw it change last; a
leader gives up by itself, sooner than that, when it could not renew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

RENEW_DEADLINE: Final = 2 / 3
"""Of the lease's duration: so long a leader goes on without having renewed."""
RETRY: Final = 2 / 15
"""Of the lease's duration: between two looks."""


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """A Lease as it was read. An empty `holder` is one that was released."""

    holder: str
    seconds: int
    acquired: str = ""
    renewed: str = ""
    transitions: int = 0
    annotations: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, lease: Mapping[str, Any]) -> LeaseRecord:
        """What the API server's JSON says; fields that are missing or strange count as empty."""
        spec, metadata = lease.get("spec") or {}, lease.get("metadata") or {}
        seconds, transitions = spec.get("leaseDurationSeconds"), spec.get("leaseTransitions")
        return cls(
            holder=str(spec.get("holderIdentity") or ""),
            seconds=seconds if isinstance(seconds, int) else 0,
            acquired=str(spec.get("acquireTime") or ""),
            renewed=str(spec.get("renewTime") or ""),
            transitions=transitions if isinstance(transitions, int) else 0,
            annotations={str(k): str(v) for k, v in (metadata.get("annotations") or {}).items()},
            metadata=metadata,
        )


@dataclass(frozen=True, slots=True)
class Wait:
    """Another one leads."""

    leader: str


@dataclass(frozen=True, slots=True)
class Write:
    """Write this spec: to lead, or to go on leading. A conflict means that somebody else was first."""

    spec: Mapping[str, Any]


class Election:
    """One candidate's view of it."""

    def __init__(self, identity: str, seconds: int) -> None:
        """`seconds`: the lease's duration. It is held by whoever renews within two thirds of that."""
        self.identity = identity
        self.seconds = seconds
        self._seen: tuple[str, str, int, str] | None = None
        self._seen_at = 0.0
        self._held_until = float("-inf")
        self.leader = ""
        """Who leads as far as we know; empty for nobody."""

    @property
    def deadline(self) -> float:
        """Seconds after the last renewal at which a leader gives up."""
        return self.seconds * RENEW_DEADLINE

    @property
    def retry(self) -> float:
        """Seconds between two looks."""
        return self.seconds * RETRY

    def held(self, now: float) -> bool:
        """Whether we lead at this moment. A process that was stopped for long finds that it does not."""
        return now < self._held_until

    def look(self, found: LeaseRecord | None, now: float, wall: datetime) -> Wait | Write:
        """What to do about the Lease as it is; `wall` is what is written for people to read."""
        if found is None:
            return Write(self._spec(wall, None))
        seen = (found.holder, found.renewed, found.transitions, found.acquired)
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        self.leader = found.holder
        if found.holder not in ("", self.identity) and now < self._seen_at + found.seconds:
            return Wait(found.holder)
        return Write(self._spec(wall, found))

    def wrote(self, began: float) -> None:
        """The Lease was written; `began` is when that was begun: we must not count longer than others do."""
        self._held_until = began + self.deadline
        self.leader = self.identity

    def lost(self) -> None:
        """Somebody else holds it."""
        self._held_until = float("-inf")

    def released(self, found: LeaseRecord, wall: datetime) -> Mapping[str, Any]:
        """The spec with which a leader steps down at once."""
        self.lost()
        return self._spec(wall, found) | {"holderIdentity": "", "leaseDurationSeconds": 1}

    def _spec(self, wall: datetime, found: LeaseRecord | None) -> dict[str, Any]:
        now = micro_time(wall)
        mine = found is not None and found.holder == self.identity and bool(found.acquired)
        transitions = found.transitions if found is not None else 0
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": self.seconds,
            "acquireTime": found.acquired if found is not None and mine else now,
            "renewTime": now,
            "leaseTransitions": transitions if mine or found is None else transitions + 1,
        }


def micro_time(wall: datetime) -> str:
    """A MicroTime as the API server reads it."""
    return wall.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
