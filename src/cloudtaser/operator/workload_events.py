"""WorkloadEvents: what happens to a pod is told on its workload too, where people look.

Given to the webhook and the token method as their `EventSink`, before `kube.events.EventRecorder`. A pod's
Deployment is found by owner references, one look at a time; what cannot be found out costs nothing but that
second event.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from cloudtaser.errors import CloudtaserError
from cloudtaser.kube.events import EventSink, Occurred, Occurrence
from cloudtaser.kube.kinds import JOBS, PODS, REPLICA_SETS, Kind
from cloudtaser.net.log import get_logger

Json = dict[str, Any]
MAX_WAITING: Final = 500
"""Occurrences whose workload is still to be found; beyond, they stay with the pod alone."""
MAX_KNOWN: Final = 2048
MAX_STEPS: Final = 3
"""Pod, ReplicaSet, Deployment."""
_OWNED: Final[Mapping[str, Kind]] = {"Pod": PODS, "ReplicaSet": REPLICA_SETS, "Job": JOBS}
"""Kinds that something else may have made."""

_log = get_logger("operator.workload_events")


class OwnerApi(Protocol):
    """What is asked of the API server; `kube.client.KubeApi` does it."""

    async def get_object(
        self, kind: Kind, namespace: str | None, name: str, *, metadata_only: bool = False
    ) -> Json:
        """The object; NotFoundError when there is none."""


@dataclass(frozen=True, slots=True)
class _Reference:
    namespace: str
    kind: str
    name: str
    uid: str
    api_version: str


class WorkloadEvents:
    """`record` from anywhere in the loop; `run` finds the workloads."""

    def __init__(self, sink: EventSink, api: OwnerApi) -> None:
        self._sink = sink
        self._api = api
        self._waiting: deque[Occurred] = deque()
        self._wake = asyncio.Event()
        self._owners: OrderedDict[_Reference, _Reference | None] = OrderedDict()

    def record(self, occurrence: Occurred) -> None:
        """An event on the object itself at once, on its workload soon. Never waits."""
        self._sink.record(occurrence)
        if occurrence.kind in _OWNED and len(self._waiting) < MAX_WAITING:
            self._waiting.append(occurrence)
            self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`."""
        tasks = [asyncio.ensure_future(self._work()), asyncio.ensure_future(stop.wait())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _work(self) -> None:
        while True:
            while not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            occurrence = self._waiting.popleft()
            try:
                workload = await self._workload(occurrence)
            except CloudtaserError as error:
                _log.debug("a workload is not told", name=occurrence.name, error=error.diagnostic())
                continue
            if workload is not None:
                self._tell(workload, occurrence)

    def _tell(self, workload: _Reference, occurrence: Occurred) -> None:
        message = occurrence.message
        if occurrence.kind == "Pod":
            message = f"Pod {occurrence.name}: {message}"
        self._sink.record(
            Occurrence(
                workload.namespace,
                workload.kind,
                workload.name,
                workload.uid,
                workload.api_version,
                occurrence.reason,
                message,
                occurrence.type,
            )
        )

    async def _workload(self, occurrence: Occurred) -> _Reference | None:
        """What made it in the end; None where nothing did."""
        made = _Reference(
            occurrence.namespace, occurrence.kind, occurrence.name, occurrence.uid, occurrence.api_version
        )
        found: _Reference | None = None
        for _ in range(MAX_STEPS):
            kind = _OWNED.get(made.kind)
            if kind is None or kind.api_version != made.api_version or not made.name:
                break
            owner = await self._owner(made, kind)
            if owner is None:
                break
            found = made = owner
        return found

    async def _owner(self, made: _Reference, kind: Kind) -> _Reference | None:
        if made not in self._owners:
            item = await self._api.get_object(kind, made.namespace, made.name, metadata_only=True)
            metadata = item.get("metadata") or {}
            if made.uid and metadata.get("uid") != made.uid:
                return None  # another one by now
            self._owners[made] = _controller(made.namespace, metadata)
            if len(self._owners) > MAX_KNOWN:
                self._owners.popitem(last=False)
        self._owners.move_to_end(made)
        return self._owners[made]


def _controller(namespace: str, metadata: Json) -> _Reference | None:
    for owner in metadata.get("ownerReferences") or ():
        if owner.get("controller") is True:
            fields = (str(owner.get(field) or "") for field in ("kind", "name", "uid", "apiVersion"))
            return _Reference(namespace, *fields)
    return None
