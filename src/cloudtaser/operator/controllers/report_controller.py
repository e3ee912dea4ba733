"""ReportController: makes the report that a DebugReport asks for, once, and deletes it when its time is over.

Run on the leader. A report is claimed by a write that only one leader can win; one that a dead leader left
behind is taken over. Whose report it is bounds what it is about: only who may write in the operator's own
namespace learns of other namespaces.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from cloudtaser.errors import CloudtaserError
from cloudtaser.kube.errors import ConflictError, NotFoundError
from cloudtaser.kube.kinds import Kind
from cloudtaser.kube.resources import DEBUG_REPORTS, DebugReport, Metadata, ReportTarget
from cloudtaser.kube.watch import Key, Reflector
from cloudtaser.net.log import get_logger
from cloudtaser.operator.controllers import report as sections
from cloudtaser.operator.controllers.injected_pods import InjectedPod, is_of
from cloudtaser.operator.controllers.report import CertificateState, Hop, WebhookState
from cloudtaser.operator.controllers.status import parse_stamp, stamp
from cloudtaser.operator.controllers.work import Work, described
from cloudtaser.operator.incidents import Incident

Json = dict[str, Any]
SECTION_SECONDS: Final = 30.0
"""For one section of a report."""
STALE_SECONDS: Final = 300.0
"""A report that has been running for longer was left behind."""
LOOK_SECONDS: Final = 600.0
"""Between two looks at a report that waits to expire: somebody may set a clock."""
MAX_KEPT: Final = 50
"""Finished reports of one namespace; the oldest go before their time."""

_log = get_logger("operator.controllers")


class ReportApi(Protocol):
    """What is asked of the API server; `kube.client.KubeApi` does it."""

    async def patch_object(
        self, kind: Kind, namespace: str | None, name: str, patch: Any, *, subresource: str = ""
    ) -> Json:
        """Merge-patch an object."""

    async def delete_object(self, kind: Kind, namespace: str | None, name: str, *, uid: str = "") -> None:
        """Delete it."""


class Evidence(Protocol):
    """What a report is made of. What one raises costs that section only."""

    async def hops(self) -> Sequence[Hop]:
        """Each step on the way to OpenBao, tried now."""

    async def versions(self) -> Mapping[str, str]:
        """Part → release."""

    async def certificates(self) -> Iterable[CertificateState]:
        """What ends when."""

    async def events(self, namespace: str) -> Iterable[Json]:
        """Events of ours, of one namespace or (empty) of all."""

    async def webhook(self) -> WebhookState:
        """How the API server calls us."""

    async def incidents(self) -> Iterable[Incident]:
        """What went wrong lately."""


@dataclass(frozen=True, slots=True)
class Made:
    """What came of one attempt."""

    phase: str
    message: str
    report: Json


class ReportController:
    """Reports of all namespaces, one at a time."""

    def __init__(
        self,
        api: ReportApi,
        reports: Reflector[DebugReport],
        pods: Reflector[InjectedPod],
        evidence: Evidence,
        *,
        identity: str,
        system_namespace: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        section_seconds: float = SECTION_SECONDS,
    ) -> None:
        """`identity`: ours among replicas and their restarts."""
        self._api = api
        self._reports = reports
        self._pods = pods
        self._evidence = evidence
        self._identity = identity
        self._system_namespace = system_namespace
        self._now = now
        self._section_seconds = section_seconds
        self._work = Work("DebugReport", self.reconcile, workers=1)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`."""
        changes = self._reports.subscribe()
        try:
            await self._work.run(stop, changes)
        finally:
            self._reports.unsubscribe(changes)

    async def reconcile(self, key: Key) -> float | None:
        """The next step of one report."""
        report = self._reports.get(*key)
        if report is None or report.metadata.deleting:
            return None
        if report.phase in ("Complete", "Failed"):
            return await self._expire(report)
        if report.phase == "Running" and (left := self._running_for(report)) > 0:
            return left
        version = await self._claim(report)
        if version is None:
            return 1.0  # somebody else was faster, or the object changed: look again
        try:
            made = await self._make(report)
        except asyncio.CancelledError:
            with contextlib.suppress(CloudtaserError):  # the next leader need not wait until it is stale
                await self._write(report.metadata, version, {"phase": "Pending", "startedAt": None})
            raise
        await self._finish(report, version, made)
        return None  # what was written comes back as a change

    # --- whose it is

    def _running_for(self, report: DebugReport) -> float:
        """Seconds for which whoever claimed it may go on; none when that was we in an earlier life of this
        loop, or too long ago, or in the future."""
        started = parse_stamp(report.status.get("startedAt"))
        if started is None or report.status.get("madeBy") == self._identity:
            return 0.0
        age = (self._now() - started).total_seconds()
        return STALE_SECONDS - age if -60.0 < age < STALE_SECONDS else 0.0

    async def _claim(self, report: DebugReport) -> str | None:
        """Say that we make it; the object's version then, None when somebody else was faster."""
        status = {
            "phase": "Running",
            "message": "the operator is looking",
            "startedAt": stamp(self._now()),
            "madeBy": self._identity,
            "observedGeneration": report.metadata.generation,
        }
        return await self._write(report.metadata, report.metadata.resource_version, status)

    async def _write(self, metadata: Metadata, version: str, status: Json) -> str | None:
        body = {"metadata": {"uid": metadata.uid, "resourceVersion": version}, "status": status}
        try:
            written = await self._api.patch_object(
                DEBUG_REPORTS, metadata.namespace, metadata.name, body, subresource="status"
            )
        except (ConflictError, NotFoundError):
            return None
        return Metadata.parse(written).resource_version

    async def _finish(self, report: DebugReport, version: str, made: Made) -> None:
        now = self._now()
        status = {
            "phase": made.phase,
            "message": made.message,
            "completedAt": stamp(now),
            "expiresAt": stamp(now + timedelta(seconds=report.ttl)),
            "report": made.report,
        }
        if await self._write(report.metadata, version, status) is None:
            _log.info("a report changed while it was made", namespace=report.metadata.namespace)

    # --- making it

    async def _make(self, report: DebugReport) -> Made:
        """All sections. What cannot be had is said in its place."""
        try:
            about = self._about(report)
        except CloudtaserError as error:
            return Made("Failed", error.diagnostic(), {})
        made: Json = {}
        failed: dict[str, str] = {}
        for check in report.checks:
            try:
                async with asyncio.timeout(self._section_seconds):
                    made |= await self._section(check, about)
            except TimeoutError:
                failed[check] = f"not within {self._section_seconds:g} s"
            except CloudtaserError as error:
                failed[check] = error.diagnostic()
            except Exception as fault:  # noqa: BLE001  # of what somebody wrote; the other sections are there
                failed[check] = described(fault)
                _log.error("a section of a report cannot be made", section=check, error=failed[check])
        if failed:
            made["failed"] = failed
        finished = sections.finished(made)
        phase = "Failed" if len(failed) == len(report.checks) else "Complete"
        return Made(phase, sections.summary(finished), finished)

    def _about(self, report: DebugReport) -> ReportTarget:
        """Empty namespace: all of them."""
        target, own = report.target, report.metadata.namespace
        if own == self._system_namespace:
            return target
        if target.namespace not in ("", own):
            raise CloudtaserError(
                f"a DebugReport in {own} cannot be about {target.namespace}",
                fix=f"make it in {self._system_namespace}, or in the namespace that it is about",
            )
        return ReportTarget(own, target.kind, target.name)

    async def _section(self, check: str, about: ReportTarget) -> Json:
        make: dict[str, Callable[[ReportTarget], Awaitable[Json]]] = {
            "hops": self._hops,
            "versions": self._versions,
            "certificates": self._certificates,
            "events": self._events,
            "pods": self._injected,
            "webhook": self._webhook,
            "errors": self._errors,
        }
        return await make[check](about)

    async def _hops(self, about: ReportTarget) -> Json:
        return {"hops": sections.hops(await self._evidence.hops())}

    async def _versions(self, about: ReportTarget) -> Json:
        return {"versions": dict(await self._evidence.versions())}

    async def _certificates(self, about: ReportTarget) -> Json:
        return {"certificates": sections.certificates(await self._evidence.certificates(), self._now())}

    async def _events(self, about: ReportTarget) -> Json:
        found = await self._evidence.events(about.namespace)
        return {"events": sections.events(found, about.namespace, about.kind, about.name)}

    async def _injected(self, about: ReportTarget) -> Json:
        await self._pods.wait_synced()
        found = [pod for pod in self._pods.values() if is_of(pod, about.namespace, about.kind, about.name)]
        return {"injectedPods": len(found), "pods": sections.pods(found)}

    async def _webhook(self, about: ReportTarget) -> Json:
        return {"webhook": sections.webhook(await self._evidence.webhook())}

    async def _errors(self, about: ReportTarget) -> Json:
        return {"errors": sections.errors(await self._evidence.incidents())}

    # --- its end

    async def _expire(self, report: DebugReport) -> float | None:
        """Delete it when its time is over; seconds until the next look."""
        completed = parse_stamp(report.status.get("completedAt")) or self._now()
        expires = parse_stamp(report.status.get("expiresAt")) or completed + timedelta(seconds=report.ttl)
        left = (expires - self._now()).total_seconds()
        if left > 0 and not self._is_surplus(report):
            return min(left + 1.0, LOOK_SECONDS)
        metadata = report.metadata
        with contextlib.suppress(NotFoundError, ConflictError):
            await self._api.delete_object(DEBUG_REPORTS, metadata.namespace, metadata.name, uid=metadata.uid)
        return None

    def _is_surplus(self, report: DebugReport) -> bool:
        """Whether its namespace has MAX_KEPT finished ones that are newer."""

        def age(one: DebugReport) -> tuple[str, str]:
            return str(one.status.get("completedAt", "")), one.metadata.name

        newer = [
            one
            for one in self._reports.values()
            if one.metadata.namespace == report.metadata.namespace
            and one.phase in ("Complete", "Failed")
            and age(one) > age(report)
        ]
        return len(newer) >= MAX_KEPT
