"""The controllers against a real API server: statuses that are right, written once, whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
import pytest_asyncio

from cloudtaser.errors import UnavailableError
from cloudtaser.kube.allow_list import AllowList
from cloudtaser.kube.client import KubeApi
from cloudtaser.kube.events import EventRecorder
from cloudtaser.kube.kinds import PODS, Kind
from cloudtaser.kube.resources import CLOUDTASER_CONFIGS, DEBUG_REPORTS, SECRET_MAPPINGS, DebugReport
from cloudtaser.kube.watch import Reflector
from cloudtaser.net.http import Response
from cloudtaser.operator.controllers.assembly import Controllers
from cloudtaser.operator.controllers.evidence import OperatorEvidence
from cloudtaser.operator.controllers.injected_pods import pods_reflector
from cloudtaser.operator.controllers.report_controller import ReportController
from cloudtaser.operator.incidents import Incident
from tests.chain_tools import eventually
from tests.charts import beacon, only, render
from tests.cluster.accounts import account, client, namespace
from tests.cluster.control_plane import ControlPlane

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

SYSTEM: Final = "controllers-system"
WHERE: Final = "controllers"
GROUP: Final = "api.cloudtaser.io"
CANARY: Final = "hvs.CAESIJcanarycanarycanary0123456789"


class Broker:
    """The broker's container, as a manager without one sees it."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {
            "tunnels": 2,
            "bridges": ["b1"],
            "beacons": ["beacon.example.com:443"],
            "connections": 3,
            "logins_open": 2,
            "bridge_versions": {"b1": "0.1.0"},
            "certificate_expires": 4102444800,
        }
        self.asked = 0

    async def incidents(self) -> list[Incident]:
        self.asked += 1
        return [
            Incident(1e9 + n, "beacon", "busy", f"attempt {n} with {CANARY}", "beacon.example.com:443", 0.5)
            for n in range(100)
        ]

    async def request(self, method: str, path: str) -> Response:
        return 200, (), b"{}"


class Operator:
    """One manager's controllers, leading from the start."""

    def __init__(self, kube: KubeApi, identity: str, broker: Broker) -> None:
        self.waiting = ""
        self.events = EventRecorder(kube, instance=identity, update_seconds=0.1)
        self.broker = broker
        self.evidence = OperatorEvidence(
            kube,
            broker,
            broker,
            certificates=lambda: [("pod CA", "")],
            webhook_name="cloudtaser-operator-webhook",
            webhook_ca=lambda: "",
        )
        self.controllers = Controllers(
            kube,
            identity=identity,
            namespace=SYSTEM,
            own_address="broker://cloudtaser-broker.cloudtaser-system.svc:8443",
            allowed=AllowList(["https://vault.example.com:8200"]),
            not_ready=lambda: self.waiting,
            events=self.events,
            evidence=self.evidence,
        )

    @contextlib.asynccontextmanager
    async def leading(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        tasks = [
            asyncio.ensure_future(work(stop))
            for work in (self.controllers.run, self.controllers.leader.run, self.events.run)
        ]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*tasks)


@pytest_asyncio.fixture(loop_scope="session")
async def kube(resources: ControlPlane) -> AsyncIterator[KubeApi]:
    await namespace(resources, SYSTEM)
    await namespace(resources, WHERE)
    rules = only(render(beacon()), "ClusterRole", "cloudtaser-operator")["rules"]
    async with client(resources, await account(resources, SYSTEM, "controllers", rules)) as kube:
        yield kube


def made(kind: Kind, name: str, spec: dict[str, Any], where: str = WHERE) -> dict[str, Any]:
    metadata = {"namespace": where, "name": name}
    return {"apiVersion": kind.api_version, "kind": kind.name, "metadata": metadata, "spec": spec}


def injected_pod(name: str, config: str, where: str = WHERE) -> dict[str, Any]:
    annotations = {"cloudtaser.io/status": '{"injected":["app"]}', "cloudtaser.io/config": config}
    container = {"name": "app", "image": "tests.invalid/x"}
    return made(PODS, name, {"containers": [container]}, where) | {
        "metadata": {"namespace": where, "name": name, "annotations": annotations}
    }


async def until(
    plane: ControlPlane,
    kind: Kind,
    name: str,
    holds: Callable[[dict[str, Any]], bool],
    where: str = WHERE,
) -> dict[str, Any]:
    """The status once it is as it should be."""
    status: dict[str, Any] = {}

    async def is_there() -> bool:
        item = await plane.get(f"{kind.plural}.{kind.group}", name, "-n", where)
        status.clear()
        status.update(item.get("status") or {})
        return holds(status)

    try:
        await eventually(is_there, f"the status of {kind.name} {name}", timeout=240, every=0.3)
    except AssertionError as error:
        raise AssertionError(f"{error}; it is {status}") from None
    return dict(status)


async def test_a_configuration_is_ready_and_its_pods_are_counted(
    resources: ControlPlane, kube: KubeApi
) -> None:
    spec = {"secretPaths": ["secret/data/a"], "vaultAddress": "https://vault.example.com:8200"}
    await resources.apply(
        made(CLOUDTASER_CONFIGS, "counted", spec),
        made(CLOUDTASER_CONFIGS, "counted", spec, SYSTEM),
        made(CLOUDTASER_CONFIGS, "shared", spec, SYSTEM),
        injected_pod("one", "counted"),
        injected_pod("two", "counted"),
        injected_pod("three", "shared"),
        injected_pod("four", "shared", SYSTEM),
    )
    async with Operator(kube, "operator-0", Broker()).leading():
        status = await until(resources, CLOUDTASER_CONFIGS, "counted", lambda it: it.get("injectedPods") == 2)
        assert (status["ready"], status["message"]) == (True, "pods can be injected")
        assert status["observedGeneration"] == 1
        assert {entry["type"]: entry["status"] for entry in status["conditions"]} == {
            "Valid": "True",
            "Ready": "True",
        }
        assert datetime.fromisoformat(status["lastValidated"]) > datetime.now(UTC) - timedelta(minutes=5)
        await until(resources, CLOUDTASER_CONFIGS, "shared", lambda it: it.get("injectedPods") == 2, SYSTEM)
        await until(resources, CLOUDTASER_CONFIGS, "counted", lambda it: it.get("injectedPods") == 0, SYSTEM)
        await resources.kubectl("delete", "pod", "one", "-n", WHERE, "--force", "--grace-period=0")
        await until(resources, CLOUDTASER_CONFIGS, "counted", lambda it: it.get("injectedPods") == 1)


async def test_a_configuration_that_cannot_be_used_says_why_and_what_to_do(
    resources: ControlPlane, kube: KubeApi
) -> None:
    spec = {"secretPaths": ["secret/data/a"], "vaultAddress": "https://evil.example.com"}
    await resources.apply(made(CLOUDTASER_CONFIGS, "bad", spec | {"envMap": "no mapping"}))
    operator = Operator(kube, "operator-0", Broker())
    async with operator.leading():
        status = await until(resources, CLOUDTASER_CONFIGS, "bad", lambda it: it.get("ready") is False)
        assert "'no mapping' is not field=NAME" in status["message"]
        assert "not on the operator's list of allowed addresses" in status["message"]
        await resources.apply(made(CLOUDTASER_CONFIGS, "bad", {"secretPaths": ["secret/data/a"]}))
        status = await until(resources, CLOUDTASER_CONFIGS, "bad", lambda it: it.get("ready") is True)
        assert status["observedGeneration"] == 2

        async def told() -> bool:
            found = await resources.get("events.events.k8s.io", "-n", WHERE)
            mine = [item for item in found["items"] if item["regarding"]["name"] == "bad"]
            return {item["reason"] for item in mine} == {"ConfigCannotBeUsed", "ConfigUsable"}

        await eventually(told, "events on the configuration", timeout=180, every=0.3)


async def test_a_configuration_waits_for_the_operator(resources: ControlPlane, kube: KubeApi) -> None:
    await resources.apply(made(CLOUDTASER_CONFIGS, "waits", {"secretPaths": ["secret/data/a"]}))
    operator = Operator(kube, "operator-0", Broker())
    operator.waiting = "the pod CA is not known yet"
    async with operator.leading():
        status = await until(resources, CLOUDTASER_CONFIGS, "waits", lambda it: it.get("ready") is False)
        assert status["message"] == "the pod CA is not known yet"
        assert {entry["type"]: entry["status"] for entry in status["conditions"]}["Valid"] == "True"
        operator.waiting = ""
        await resources.kubectl("label", "ctc", "waits", "-n", WHERE, "looked=again", "--overwrite")
        await until(resources, CLOUDTASER_CONFIGS, "waits", lambda it: it.get("ready") is True)


async def test_a_mapping_follows_its_workload_out_of_kubernetes_secrets(
    resources: ControlPlane, kube: KubeApi
) -> None:
    variable = {"name": "P", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}}
    container: dict[str, Any] = {"name": "app", "image": "tests.invalid/x", "env": [variable]}
    template: dict[str, Any] = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container]}}
    web: dict[str, Any] = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"namespace": WHERE, "name": "web"},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "web"}}, "template": template},
    }
    mapping = {
        "tenant": "shop",
        "workload": {"kind": "Deployment", "name": "web"},
        "secrets": [{"source": "db", "vaultPath": "secret/data/db", "fields": {"password": "P"}}],
    }

    async def look() -> None:
        """Once a minute by itself; here at once."""
        stamp = datetime.now(UTC).strftime("%H%M%S%f")
        await resources.kubectl("annotate", "ctm", "web", "-n", WHERE, f"look={stamp}", "--overwrite")

    async def phase(wanted: str) -> dict[str, Any]:
        await look()
        return await until(resources, SECRET_MAPPINGS, "web", lambda it: it.get("phase") == wanted)

    await resources.apply(made(SECRET_MAPPINGS, "web", mapping))
    async with Operator(kube, "operator-0", Broker()).leading():
        await phase("Missing")
        await resources.apply(web)
        status = await phase("Pending")
        assert (status["remaining"], status["remainingSecrets"]) == (1, ["db"])
        template["metadata"]["annotations"] = {
            "cloudtaser.io/inject": "true",
            "cloudtaser.io/secret-paths": "secret/data/db",
        }
        await resources.apply(web)
        assert "still uses the Kubernetes Secret db" in (await phase("Incomplete"))["message"]
        container.pop("env")
        await resources.apply(web)
        status = await phase("Migrated")
        assert (status["remaining"], status["remainingSecrets"]) == (0, [])
        skipped = mapping | {"status": "skipped", "reason": "goes next year"}
        await resources.apply(made(SECRET_MAPPINGS, "web", skipped))
        assert (await phase("Skipped"))["message"] == "goes next year"
    table = await resources.kubectl("get", "ctm", "web", "-n", WHERE)
    assert table.splitlines()[1].split()[:5] == ["web", "Deployment", "web", "skipped", "Skipped"]


def registered() -> dict[str, Any]:
    """The webhook as the chart registers it, for no namespace of the other tests."""
    found = only(render(beacon()), "MutatingWebhookConfiguration", "cloudtaser-operator-webhook")
    webhook = found["webhooks"][0]
    webhook["namespaceSelector"] = {"matchLabels": {"nobody": "has-this"}}
    return {**found, "webhooks": [webhook]}


async def test_a_report_says_what_there_is_and_no_secret(resources: ControlPlane, kube: KubeApi) -> None:
    await resources.apply(
        registered(),
        injected_pod("reported", "any", SYSTEM),
        injected_pod("elsewhere", "any", WHERE),
        made(DEBUG_REPORTS, "everything", {}, SYSTEM),
        made(DEBUG_REPORTS, "own", {"checks": ["pods", "errors"]}),
        made(DEBUG_REPORTS, "nosy", {"checks": ["pods"], "target": {"namespace": SYSTEM}}),
    )
    async with Operator(kube, "operator-0", Broker()).leading():
        status = await until(
            resources, DEBUG_REPORTS, "everything", lambda it: it.get("phase") == "Complete", SYSTEM
        )
        report = status["report"]
        hops = {hop["name"]: hop for hop in report["hops"]}
        assert list(hops) == ["API server", "broker", "beacon", "bridge", "OpenBao", "logins"]
        assert all(hop["ok"] for hop in hops.values())
        assert report["versions"]["kubernetes"].startswith("v1.")
        assert report["versions"]["bridge b1"] == "0.1.0"
        assert {entry["name"]: entry.get("problem") for entry in report["certificates"]} == {
            "pod CA": "there is none yet",
            "tunnel certificate": None,
        }
        assert report["webhook"]["configured"] is True
        assert "under no CA yet" in report["webhook"]["problem"]
        assert [entry["name"] for entry in report["webhook"]["entries"]] == ["inject.cloudtaser.io"]
        assert len(report["errors"]) == 100
        assert report["errors"][-1]["reconnectDelay"] == 0.5
        assert report["errors"][-1]["beacon"] == "beacon.example.com:443"
        assert {"reported", "elsewhere"} <= {pod["name"] for pod in report["pods"]}
        assert "failed" not in report
        assert CANARY not in json.dumps(status)
        assert "[redacted]" in report["errors"][-1]["message"]
        assert status["madeBy"] == "operator-0"
        status = await until(resources, DEBUG_REPORTS, "own", lambda it: it.get("phase") == "Complete")
        assert "elsewhere" in {pod["name"] for pod in status["report"]["pods"]}
        assert {pod["namespace"] for pod in status["report"]["pods"]} == {WHERE}
        status = await until(resources, DEBUG_REPORTS, "nosy", lambda it: it.get("phase") == "Failed")
        assert "cannot be about" in status["message"]
        assert status.get("report", {}) == {}
    await resources.kubectl("delete", "mutatingwebhookconfiguration", "cloudtaser-operator-webhook")


async def test_a_report_is_deleted_when_its_time_is_over_whoever_sets_the_clock(
    resources: ControlPlane, kube: KubeApi
) -> None:
    moved = timedelta()
    await resources.apply(made(DEBUG_REPORTS, "expires", {"checks": ["versions"], "ttl": "1h"}))
    reports = Reflector(kube, DEBUG_REPORTS, DebugReport.parse, namespace=WHERE, resync_seconds=0.5)
    pods = pods_reflector(kube)
    controller = ReportController(
        kube,
        reports,
        pods,
        Operator(kube, "operator-0", Broker()).evidence,
        identity="operator-0",
        system_namespace=SYSTEM,
        now=lambda: datetime.now(UTC) + moved,
    )
    stop = asyncio.Event()
    tasks = [asyncio.ensure_future(work.run(stop)) for work in (reports, controller)]
    await until(resources, DEBUG_REPORTS, "expires", lambda it: it.get("phase") == "Complete")
    moved = timedelta(hours=-5)  # set back: it stays
    looked = reports.subscribe()
    for _ in range(3):
        await looked.next()
    assert (await resources.get("debugreports", "expires", "-n", WHERE))["status"]["phase"] == "Complete"
    moved = timedelta(minutes=61)

    async def is_gone() -> bool:
        try:
            await resources.get("debugreports", "expires", "-n", WHERE)
        except UnavailableError as error:
            return "NotFound" in str(error)
        return False

    await eventually(is_gone, "the report is gone", timeout=180, every=0.3)
    stop.set()
    await asyncio.gather(*tasks)


async def test_two_leaders_at_once_make_one_report_and_no_quarrel(
    resources: ControlPlane, kube: KubeApi
) -> None:
    brokers = [Broker(), Broker()]
    operators = [Operator(kube, f"operator-{n}", broker) for n, broker in enumerate(brokers)]
    async with contextlib.AsyncExitStack() as stack:
        for operator in operators:
            await stack.enter_async_context(operator.leading())
        for number in range(5):
            await resources.apply(
                made(DEBUG_REPORTS, f"once-{number}", {"checks": ["errors"]}),
                made(CLOUDTASER_CONFIGS, f"once-{number}", {"secretPaths": ["secret/data/a"]}),
            )
        for number in range(5):
            status = await until(
                resources, DEBUG_REPORTS, f"once-{number}", lambda it: it.get("phase") == "Complete"
            )
            assert len(status["report"]["errors"]) == 100
            await until(resources, CLOUDTASER_CONFIGS, f"once-{number}", lambda it: it.get("ready") is True)
        assert sum(broker.asked for broker in brokers) == 5
        before = {
            item["metadata"]["name"]: item["metadata"]["resourceVersion"]
            for item in (await resources.get("ctc", "-n", WHERE))["items"]
            if item["metadata"]["name"].startswith("once-")
        }
        # a change that both look at, and after it another that shows that they have
        await resources.kubectl("label", "ctc", "once-0", "-n", WHERE, "a=b")
        await resources.apply(made(CLOUDTASER_CONFIGS, "last", {"secretPaths": ["secret/data/a"]}))
        await until(resources, CLOUDTASER_CONFIGS, "last", lambda it: it.get("ready") is True)
        after = {
            item["metadata"]["name"]: item["metadata"]["resourceVersion"]
            for item in (await resources.get("ctc", "-n", WHERE))["items"]
            if item["metadata"]["name"].startswith("once-")
        }
        changed = {name for name in before if before[name] != after[name]}
        assert changed <= {"once-0"}


async def test_they_heal_when_the_api_server_is_restarted(resources: ControlPlane, kube: KubeApi) -> None:
    async with Operator(kube, "operator-0", Broker()).leading():
        await resources.apply(made(CLOUDTASER_CONFIGS, "before", {"secretPaths": ["secret/data/a"]}))
        await until(resources, CLOUDTASER_CONFIGS, "before", lambda it: it.get("ready") is True)
        await resources.apiserver.restart()
        await resources.apiserver.wait_until(resources.is_ready, "ready again", 120)
        await resources.apply(
            made(CLOUDTASER_CONFIGS, "after", {"secretPaths": ["secret/data/a"]}),
            made(DEBUG_REPORTS, "after", {"checks": ["versions"]}),
            injected_pod("after", "after"),
        )
        await until(resources, CLOUDTASER_CONFIGS, "after", lambda it: it.get("injectedPods") == 1)
        await until(resources, DEBUG_REPORTS, "after", lambda it: it.get("phase") == "Complete")


async def test_the_rights_are_enough_and_hold_no_secret(resources: ControlPlane, kube: KubeApi) -> None:
    subject = f"system:serviceaccount:{SYSTEM}:controllers"
    asked: dict[bool, set[tuple[str, ...]]] = {True: set(), False: set()}
    for event in resources.audited():
        if event["user"]["username"] == subject:
            about = event.get("objectRef") or {}
            what = (event["verb"], about.get("resource", ""), about.get("subresource", ""))
            asked[event.get("responseStatus", {}).get("code") != 403].add(what)
    assert asked[True]
    assert asked[False] <= asked[True]  # refused only until an API server that starts knows its roles
    assert not any(resource == "secrets" for _, resource, _ in asked[True] | asked[False])
