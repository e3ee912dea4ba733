"""TunnelWatch: says on the operator's own pod, as an event, that no tunnel is up, and that one is again.

Used by `manager_container`. A tunnel that is away for a moment is nothing to tell: a bridge or a beacon was
restarted. Readiness does not depend on it, so somebody who looks at the pod has to find it elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

from cloudtaser.errors import CloudtaserError
from cloudtaser.kube.events import EventSink, Occurrence
from cloudtaser.kube.kinds import PODS, Kind
from cloudtaser.net.log import get_logger

LOOK_SECONDS: Final = 5.0
PATIENCE: Final = 60.0
"""Seconds without a tunnel before it is told."""

_log = get_logger("operator.tunnel_watch")


class Pods(Protocol):
    """What is needed of the API server; `kube.client.KubeApi` has it."""

    async def get_object(self, kind: Kind, namespace: str | None, name: str) -> dict[str, Any]:
        """The object; NotFoundError when there is none."""


class TunnelWatch:
    """Looks until cancelled."""

    def __init__(
        self,
        state: Callable[[], Mapping[str, Any]],
        kube: Pods,
        namespace: str,
        pod: str,
        events: EventSink,
        *,
        patience: float = PATIENCE,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """`state`: how the broker is, as it said last."""
        self._state = state
        self._kube = kube
        self._namespace = namespace
        self._pod = pod
        self._events = events
        self._patience = patience
        self._sleep = sleep
        self._clock = clock or asyncio.get_running_loop().time
        self._down_since = self._clock()
        self._told_down = False

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            await self._sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """One look."""
        state, now = self._state(), self._clock()
        if state.get("tunnels"):
            self._down_since = now
            if self._told_down:
                self._told_down = False
                await self._tell("TunnelUp", "Normal", "a tunnel to a bridge is up again")
            return
        if not self._told_down and now - self._down_since >= self._patience:
            self._told_down = True
            await self._tell("TunnelDown", "Warning", _why(state))

    async def _tell(self, reason: str, kind: str, message: str) -> None:
        _log.log(logging.WARNING if kind == "Warning" else logging.INFO, message)
        try:
            pod = await self._kube.get_object(PODS, self._namespace, self._pod)
        except CloudtaserError:
            return  # outside of a pod, or without an API server: the log and /readyz?verbose say it
        uid = str((pod.get("metadata") or {}).get("uid") or "")
        self._events.record(Occurrence(self._namespace, "Pod", self._pod, uid, "v1", reason, message, kind))


def _why(state: Mapping[str, Any]) -> str:
    if not state:
        return "no tunnel to a bridge is up: container broker does not answer"
    if state.get("parked"):
        return "no tunnel to a bridge is up: we are parked at the beacon, and no bridge comes"
    return "no tunnel to a bridge is up, and pods wait for secrets; the log of container broker says why"
