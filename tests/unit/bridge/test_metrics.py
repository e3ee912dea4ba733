"""Every bound of the bridge shows in its metrics when it is hit."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from prometheus_client import generate_latest

from cloudtaser.bridge.metrics import Metrics

CLUSTER: dict[str, Any] = {
    "fingerprint": "0ad50c05-1153-4508-9237-4cb2912e2c23",
    "parked": {"operational": 2},
    "tunnels": 2,
    "streams": 7,
    "certificate_ends": 1.0,
    "keys_pending": False,
}


@dataclass
class Pool:
    connections: int = 3
    waiting: int = 5


def test_refusals_are_counted_by_their_reason_and_nothing_names_a_pod() -> None:
    requests = Counter({("allowed", ""): 10, ("refused", "rate_limit"): 4})
    page = generate_latest(
        Metrics(
            lambda: {"ready": True, "clusters": [CLUSTER], "audit_dropped": 6, "migrations": {"stored": 9}},
            requests,
            Pool(),
        ).registry
    ).decode()
    assert 'cloudtaser_bridge_requests_total{reason="rate_limit",verdict="refused"} 4.0' in page
    assert 'cloudtaser_bridge_migrations_total{outcome="stored"} 9.0' in page
    assert "cloudtaser_bridge_openbao_waiting 5.0" in page
    assert "cloudtaser_bridge_audit_dropped_total 6.0" in page
    assert 'cloudtaser_bridge_tunnels{cluster="0ad50c05"} 2.0' in page
    assert CLUSTER["fingerprint"] not in page
