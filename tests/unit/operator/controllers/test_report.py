"""Report: sections that a person can read, the first broken thing in one line, and a bound on all of it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cloudtaser.operator.controllers import report as sections
from cloudtaser.operator.controllers.injected_pods import InjectedPod, is_of
from cloudtaser.operator.controllers.report import CertificateState, Hop, WebhookState
from cloudtaser.operator.incidents import Incident

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


def pod(name: str, *, ready: bool = True, owner: tuple[str, str] = ("", "")) -> InjectedPod:
    return InjectedPod("shop", name, "", '{"injected":["app"]}', "Running", ready, 0, "n1", "", owner)


def event(name: str, minute: int, kind: str = "Pod", namespace: str = "shop") -> dict[str, Any]:
    return {
        "eventTime": f"2026-05-01T12:{minute:02}:00.000000Z",
        "reason": "InjectionFailed",
        "type": "Warning",
        "note": f"note {minute}",
        "regarding": {"kind": kind, "namespace": namespace, "name": name},
    }


def test_a_hop_that_was_not_tried_says_neither_yes_nor_no() -> None:
    found = sections.hops([Hop("bridge", False, "away", 0.0123, "start it"), Hop("OpenBao", None)])
    assert found == [
        {"name": "bridge", "ok": False, "milliseconds": 12.3, "detail": "away", "fix": "start it"},
        {"name": "OpenBao"},
    ]


def test_a_certificate_that_has_ended_is_a_problem() -> None:
    found = sections.certificates(
        [CertificateState("a", NOW + timedelta(hours=1)), CertificateState("b", NOW - timedelta(hours=1))],
        NOW,
    )
    assert [(one["secondsLeft"], one.get("problem")) for one in found] == [
        (3600, None),
        (-3600, "it has ended"),
    ]


def test_events_are_of_the_target_and_the_newest_comes_first() -> None:
    items = [
        event("web-abc-1", 1),
        event("web-abc-2", 3),
        event("web", 2, "Deployment"),
        event("other", 4),
        event("web-abc-1", 5, namespace="else"),
    ]
    items[0]["series"] = {"count": 7, "lastObservedTime": "2026-05-01T12:30:00.000000Z"}
    found = sections.events(items, "shop", "Deployment", "web")
    assert [(one["regarding"], one["count"]) for one in found] == [
        ("Pod shop/web-abc-1", 7),
        ("Pod shop/web-abc-2", 1),
        ("Deployment shop/web", 1),
    ]
    assert len(sections.events(items, "", "", "")) == 5
    assert len(sections.events([event("x", n % 60) for n in range(500)], "", "", "")) == 100


@pytest.mark.parametrize(
    ("kind", "name", "owner", "is_meant"),
    [
        ("", "", ("", ""), True),
        ("Pod", "web-1", ("", ""), True),
        ("Pod", "web", ("", ""), False),
        ("Deployment", "web", ("ReplicaSet", "web-7d9f8b6c5d"), True),
        ("Deployment", "web", ("ReplicaSet", "web-api-7d9f8b6c5d"), False),
        ("CronJob", "web", ("Job", "web-28000000"), True),
        ("StatefulSet", "web", ("StatefulSet", "web"), True),
        ("StatefulSet", "web", ("DaemonSet", "web"), False),
    ],
)
def test_a_pod_belongs_to_its_workload(kind: str, name: str, owner: tuple[str, str], is_meant: bool) -> None:
    assert is_of(pod("web-1", owner=owner), "shop", kind, name) is is_meant
    assert not is_of(pod("web-1", owner=owner), "else", kind, name)


def test_pods_that_are_not_ready_come_first_and_not_all_are_shown() -> None:
    found = sections.pods([pod(f"p{n:03}") for n in range(300)] + [pod("z", ready=False)])
    assert len(found) == sections.MAX_PODS
    assert found[0]["name"] == "z"


def test_the_newest_error_is_the_last() -> None:
    found = sections.errors([Incident(float(n), "beacon", "busy", "m", "b", 0.5) for n in range(250, 0, -1)])
    assert len(found) == 100
    assert found[-1]["time"] == "1970-01-01T00:04:10Z"
    assert found[-1]["reconnectDelay"] == 0.5


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (
            {"hops": [{"name": "broker", "ok": True}, {"name": "bridge", "ok": False, "detail": "away"}]},
            "away",
        ),
        ({"webhook": sections.webhook(WebhookState(False, problem="not registered"))}, "not registered"),
        ({"certificates": [{"name": "pod CA", "problem": "it has ended"}]}, "pod CA: it has ended"),
        ({"failed": {"events": "forbidden"}}, "could not look at events"),
        ({"pods": [{"ready": False}], "injectedPods": 9}, "1 of 9 injected pods"),
        ({}, "nothing is wrong"),
    ],
)
def test_the_first_broken_thing_is_the_message(report: dict[str, Any], words: str) -> None:
    assert words in sections.summary(report)


def test_a_report_fits_and_says_that_it_was_shortened() -> None:
    report = {
        "events": [{"note": f"{n} " + "x" * 1000} for n in range(100)],
        "errors": [{"message": f"{n} " + "y" * 400} for n in range(100)],
        "versions": {"operator": "1"},
    }
    found = sections.finished(report, 20_000)
    assert len(json.dumps(found)) <= 20_000
    assert found["truncated"] is True
    assert found["versions"] == {"operator": "1"}
    assert found["events"][0]["note"].startswith("0 ")  # the newest
    assert found["errors"][-1]["message"].startswith("99 ")  # the newest
    assert "truncated" not in sections.finished(report)


@pytest.mark.parametrize(
    "told", ["[" * 2000, '{"injected":' + "[" * 2000, '{"other":' + "[" * 900 + "]" * 900 + "}"]
)
def test_what_a_tenant_writes_into_a_pods_status_costs_no_report(told: str) -> None:
    (shown,) = sections.pods([replace(pod("web"), told=told)])
    assert shown["status"].startswith(told[:9])
    assert len(shown["status"]) <= 200
