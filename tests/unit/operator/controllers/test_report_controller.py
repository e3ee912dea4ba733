"""Reports are made once, by one operator, whatever clocks and leaders do; what cannot be had is said."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from cloudtaser.errors import UnavailableError
from cloudtaser.kube.errors import ConflictError
from cloudtaser.kube.kinds import Kind
from cloudtaser.kube.resources import CHECKS, DebugReport
from cloudtaser.kube.watch import Key, Reflector
from cloudtaser.operator.controllers.injected_pods import InjectedPod
from cloudtaser.operator.controllers.report import Hop, WebhookState
from cloudtaser.operator.controllers.report_controller import MAX_KEPT, STALE_SECONDS, ReportController
from cloudtaser.operator.controllers.status import stamp
from tests.unit.operator.rig import eventually

Json = dict[str, Any]
NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
SYSTEM = "cloudtaser-system"
KEY = ("shop", "why")


class Cluster:
    """DebugReports as an API server has them, and as a reflector has read them: at once."""

    def __init__(self) -> None:
        self.items: dict[Key, Json] = {}
        self.version = 1
        self.conflicts = 0

    def put(self, spec: Json, status: Json | None = None, key: Key = KEY) -> None:
        self.version += 1
        namespace, name = key
        metadata = {"namespace": namespace, "name": name, "uid": name, "resourceVersion": str(self.version)}
        self.items[key] = {"metadata": metadata, "spec": spec, "status": status or {}}

    def status(self, key: Key = KEY) -> Json:
        return dict(self.items[key]["status"])

    # as the API

    async def patch_object(
        self, kind: Kind, namespace: str | None, name: str, patch: Json, *, subresource: str = ""
    ) -> Json:
        assert subresource == "status"
        item = self.items[namespace or "", name]
        if self.conflicts or patch["metadata"]["resourceVersion"] != item["metadata"]["resourceVersion"]:
            self.conflicts -= 1
            raise ConflictError("changed")
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        item["status"] |= patch["status"]
        return item

    async def delete_object(self, kind: Kind, namespace: str | None, name: str, *, uid: str = "") -> None:
        assert self.items.pop((namespace or "", name))["metadata"]["uid"] == uid

    # as the reflector

    def get(self, namespace: str, name: str) -> DebugReport | None:
        item = self.items.get((namespace, name))
        return DebugReport.parse(item) if item else None

    def values(self) -> list[DebugReport]:
        return [DebugReport.parse(item) for item in self.items.values()]


class Pods:
    async def wait_synced(self) -> None:
        pass

    def values(self) -> list[InjectedPod]:
        return [
            InjectedPod(where, "web-0", "", "{}", "Running", True, 0, "n1", "", ("", ""))
            for where in ("shop", "bank")
        ]


class Evidence:
    def __init__(self) -> None:
        self.failing: dict[str, Exception] = {}
        self.asked: list[str] = []
        self.silent = False

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if what in self.failing:
            raise self.failing[what]

    async def hops(self) -> list[Hop]:
        self._ask("hops")
        if self.silent:
            await asyncio.Event().wait()
        return [Hop("API server", True)]

    async def versions(self) -> Mapping[str, str]:
        self._ask("versions")
        return {"operator": "1"}

    async def certificates(self) -> list[Any]:
        self._ask("certificates")
        return []

    async def events(self, namespace: str) -> list[Json]:
        self._ask(f"events of {namespace}")
        return []

    async def webhook(self) -> WebhookState:
        self._ask("webhook")
        return WebhookState(True, True)

    async def incidents(self) -> list[Any]:
        self._ask("errors")
        return []


class Rig:
    def __init__(self, identity: str = "operator-0", cluster: Cluster | None = None) -> None:
        self.cluster = cluster or Cluster()
        self.evidence = Evidence()
        self.now = NOW
        self.controller = ReportController(
            self.cluster,
            cast("Reflector[DebugReport]", self.cluster),
            cast("Reflector[InjectedPod]", Pods()),
            self.evidence,
            identity=identity,
            system_namespace=SYSTEM,
            now=lambda: self.now,
            section_seconds=0.05,
        )

    async def look(self, key: Key = KEY) -> float | None:
        return await self.controller.reconcile(key)


async def test_a_report_is_made_and_then_expires() -> None:
    rig = Rig()
    rig.cluster.put({"ttl": "1h"})
    await rig.look()
    status = rig.cluster.status()
    assert (status["phase"], status["madeBy"]) == ("Complete", "operator-0")
    assert set(status["report"]) >= {"hops", "versions", "pods", "webhook"}
    assert status["expiresAt"] == stamp(NOW + timedelta(hours=1))
    assert await rig.look() == 600.0
    rig.now += timedelta(minutes=59)
    assert await rig.look() == pytest.approx(61.0)
    rig.now += timedelta(minutes=1)
    assert await rig.look() is None
    assert rig.cluster.items == {}
    assert len(rig.evidence.asked) == len(CHECKS) - 1  # pods come from memory


async def test_what_cannot_be_had_is_said_and_the_rest_is_there() -> None:
    rig = Rig()
    rig.evidence.failing = {
        "errors": UnavailableError("the broker is away"),
        "versions": UnavailableError("x"),
    }
    rig.evidence.silent = True
    rig.cluster.put({"checks": ["hops", "versions", "errors", "webhook"]})
    await rig.look()
    status = rig.cluster.status()
    assert status["phase"] == "Complete"
    assert status["report"]["failed"] == {
        "hops": "not within 0.05 s",
        "versions": "x",
        "errors": "the broker is away",
    }
    assert status["report"]["webhook"]["configured"] is True


async def test_a_fault_in_one_section_costs_only_that() -> None:
    rig = Rig()
    rig.evidence.failing = {"errors": OverflowError("what somebody wrote")}
    rig.cluster.put({"checks": ["errors", "webhook"]})
    await rig.look()
    status = rig.cluster.status()
    assert status["phase"] == "Complete"
    assert "OverflowError" in status["report"]["failed"]["errors"]
    assert "somebody" not in status["report"]["failed"]["errors"]
    assert status["report"]["webhook"]["configured"] is True


async def test_a_report_of_which_nothing_can_be_had_has_failed() -> None:
    rig = Rig()
    rig.evidence.failing = {"versions": UnavailableError("x")}
    rig.cluster.put({"checks": ["versions"]})
    await rig.look()
    assert rig.cluster.status()["phase"] == "Failed"


async def test_a_report_is_about_its_own_namespace_unless_it_is_the_operators() -> None:
    rig = Rig()
    for key, target in (
        (("shop", "own"), {}),
        (("shop", "nosy"), {"namespace": "bank"}),
        ((SYSTEM, "all"), {}),
        ((SYSTEM, "bank"), {"namespace": "bank"}),
    ):
        rig.cluster.put({"checks": ["pods"], "target": target}, key=key)
        await rig.look(key)
    seen = {
        key[1]: [pod["namespace"] for pod in item["status"]["report"].get("pods", ())]
        for key, item in rig.cluster.items.items()
    }
    assert seen == {"own": ["shop"], "nosy": [], "all": ["bank", "shop"], "bank": ["bank"]}
    assert rig.cluster.status(("shop", "nosy"))["phase"] == "Failed"


async def test_one_of_two_leaders_makes_it() -> None:
    one = Rig()
    two = Rig("operator-1", one.cluster)
    one.cluster.put({"checks": ["versions"]})
    one.cluster.conflicts = 1
    assert await one.look() == 1.0
    await two.look()
    assert one.cluster.status()["madeBy"] == "operator-1"
    await one.look()
    assert one.evidence.asked == []


async def test_a_report_that_somebody_makes_is_let_be_until_it_must_be_dead() -> None:
    rig = Rig()
    rig.cluster.put(
        {"checks": ["versions"]}, {"phase": "Running", "startedAt": stamp(NOW), "madeBy": "other"}
    )
    assert await rig.look() == STALE_SECONDS
    assert rig.evidence.asked == []
    rig.now += timedelta(seconds=STALE_SECONDS)
    await rig.look()
    assert (rig.cluster.status()["phase"], rig.cluster.status()["madeBy"]) == ("Complete", "operator-0")


@pytest.mark.parametrize("moved", [timedelta(hours=-3), timedelta(hours=3)])
async def test_a_clock_that_was_set_leaves_no_report_behind(moved: timedelta) -> None:
    rig = Rig()
    rig.cluster.put(
        {"checks": ["versions"]}, {"phase": "Running", "startedAt": stamp(NOW), "madeBy": "other"}
    )
    rig.now += moved
    await rig.look()
    assert rig.cluster.status()["phase"] == "Complete"


async def test_an_operator_that_came_back_makes_what_it_had_begun() -> None:
    rig = Rig()
    rig.cluster.put(
        {"checks": ["versions"]}, {"phase": "Running", "startedAt": stamp(NOW), "madeBy": "operator-0"}
    )
    await rig.look()
    assert rig.cluster.status()["phase"] == "Complete"


async def test_a_leader_that_is_told_to_stop_hands_its_report_back() -> None:
    rig = Rig()
    rig.controller._section_seconds = 60.0
    rig.evidence.silent = True
    rig.cluster.put({"checks": ["hops"]})
    task = asyncio.ensure_future(rig.look())
    await eventually(lambda: bool(rig.evidence.asked), "it looks")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert rig.cluster.status()["phase"] == "Pending"
    other = Rig("operator-1", rig.cluster)
    await other.look()
    assert rig.cluster.status()["madeBy"] == "operator-1"


async def test_the_oldest_of_too_many_goes_before_its_time() -> None:
    rig = Rig()
    for number in range(MAX_KEPT + 1):
        done = {"phase": "Complete", "completedAt": stamp(NOW + timedelta(seconds=number))}
        rig.cluster.put({}, done, ("shop", f"r{number:02}"))
    assert await rig.look(("shop", "r01")) is not None
    assert await rig.look(("shop", "r00")) is None
    assert ("shop", "r00") not in rig.cluster.items
    assert len(rig.cluster.items) == MAX_KEPT
