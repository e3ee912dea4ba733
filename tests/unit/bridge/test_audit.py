"""Audit lines: numbered, whole, without secrets."""

from __future__ import annotations

import json
from typing import Any

from cloudtaser.bridge.audit import Audit


def write(audit: Audit, **changes: Any) -> None:
    fields: dict[str, Any] = {
        "now": 1_800_000_000.0625,
        "cluster": "f",
        "id": "c0ffee.1",
        "peer": "10.0.0.7:51324",
        "namespace": "shop",
        "serviceaccount": "web",
        "pod": "web-1",
        "method": "GET",
        "path": "/v1/secret/data/shop/db",
        "verdict": "allowed",
        "status": 200,
        "milliseconds": 1.23456,
    }
    audit.write(**(fields | changes))


def test_a_line_says_who_what_verdict_status_time_and_correlation() -> None:
    lines: list[bytes] = []
    write(Audit(lines.append, run="r1"))
    assert b"\n" not in lines[0]
    assert json.loads(lines[0]) == {
        "event": "request",
        "run": "r1",
        "seq": 1,
        "time": "2027-01-15T08:00:00.062Z",
        "cluster": "f",
        "id": "c0ffee.1",
        "peer": "10.0.0.7:51324",
        "namespace": "shop",
        "serviceaccount": "web",
        "pod": "web-1",
        "method": "GET",
        "path": "/v1/secret/data/shop/db",
        "verdict": "allowed",
        "status": 200,
        "milliseconds": 1.235,
    }


def test_lines_are_numbered_without_gaps_within_a_run() -> None:
    lines: list[bytes] = []
    audit = Audit(lines.append)
    for second in range(3):
        write(audit, now=1_800_000_000.0 + second, reason="policy", verdict="refused")
    found = [json.loads(line) for line in lines]
    assert [line["seq"] for line in found] == [1, 2, 3]
    assert len({line["run"] for line in found}) == 1
    assert [line["time"][-7:] for line in found] == ["00.000Z", "01.000Z", "02.000Z"]
    assert audit.written == 3
    assert Audit(lines.append)._run != audit._run


def test_what_a_pod_wrote_cannot_break_out_of_its_line() -> None:
    lines: list[bytes] = []
    write(Audit(lines.append), path='/v1/x"\n{"seq":9}', id="\u2028\x00")
    assert lines[0].count(b"\n") == 0
    assert json.loads(lines[0])["path"] == '/v1/x"\n{"seq":9}'
