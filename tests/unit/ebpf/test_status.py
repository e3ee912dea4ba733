"""What the agent says of itself."""

from __future__ import annotations

import json

from cloudtaser.ebpf import vectors
from cloudtaser.ebpf.health import Health, response
from cloudtaser.ebpf.layout import Config, Mode
from cloudtaser.ebpf.probe import Outcome, configuration
from cloudtaser.ebpf.selftest import Result, compare
from cloudtaser.ebpf.status import Figures, metrics, status
from cloudtaser.ebpf.vectors import Tier


def outcome() -> Outcome:
    return Outcome(
        Tier.KILL, vectors.standings(Tier.KILL, frozenset(), enforces=True), {"lsm": "EPERM"}, frozenset({1})
    )


def test_status_gives_how_many_there_are_how_many_hold_and_each() -> None:
    found = json.loads(
        status(outcome(), node="n", mode="enforce", everyone=False, machine={}, figures=Figures())
    )
    listed = found["vectors"]["list"]
    assert found["vectors"]["known"] == len(listed) == 46
    assert found["vectors"]["hold"] == sum(each["standing"] == "holds" for each in listed)
    assert [each["number"] for each in listed if each["self_tested"]] == [1]
    assert found["tier"] == "kill"
    assert {each["number"] for each in listed if each["binds"] == "pods"} == {37, 38, 39, 40, 42}


def test_metrics_carry_the_prefix_and_every_count() -> None:
    text = metrics(outcome(), mode="enforce", figures=Figures(events={"denied": 3}, lost=2))
    assert 'cloudtaser_ebpf_events_total{verdict="denied"} 3' in text
    assert "cloudtaser_ebpf_events_lost_total 2" in text
    assert all(line.startswith(("#", "cloudtaser_ebpf_")) for line in text.splitlines())


def test_what_the_self_test_cannot_show_is_not_believed() -> None:
    before = {1: Result.SUCCEEDED, 2: Result.REFUSED, 3: Result.SUCCEEDED}
    after = {1: Result.REFUSED, 2: Result.REFUSED, 3: Result.SUCCEEDED}
    found = compare(before, after)
    assert found.stopped == {1}
    assert found.missed == {3}


def test_who_must_not_kill_only_sees_where_nothing_can_be_denied() -> None:
    assert configuration(Config(), Tier.KILL, Mode.ENFORCE, kills=False).mode == Mode.DETECT
    assert configuration(Config(), Tier.KILL, Mode.ENFORCE, kills=True).mode == Mode.ENFORCE
    assert configuration(Config(), Tier.KILL, Mode.ENFORCE, kills=True).kills == vectors.KILLS
    denies = configuration(Config(kills=1), Tier.LSM, Mode.ENFORCE, kills=True)
    assert (denies.mode, denies.kills) == (Mode.ENFORCE, 0)


def test_pages_answer_get_and_head_only() -> None:
    health = Health({"/healthz": lambda: (200, "text/plain", "ok\n")})
    assert health.page(b"GET /healthz?x HTTP/1.1") == ((200, "text/plain", "ok\n"), False)
    assert health.page(b"HEAD /healthz HTTP/1.1")[1]
    assert health.page(b"POST /healthz HTTP/1.1")[0][0] == 405
    assert health.page(b"GET /etc HTTP/1.1")[0][0] == 404
    assert response((200, "text/plain", "ok\n"), head=True).endswith(b"\r\n\r\n")
