"""Metrics: the text that Prometheus reads."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from cloudtaser.beacon.metrics import Histogram, render, sample


def test_a_scraper_reads_what_was_counted() -> None:
    histogram = Histogram((0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 7.0):
        histogram.observe(seconds)
    text = render(
        [
            sample("pairs_total", "counter", "Matches made.", 3),
            sample("parked", "gauge", "Waiting.", {"bridge": 2.0, "broker": 0.5}, "role"),
            histogram.lines("parked_seconds", "How long."),
        ]
    )
    families = {family.name: family for family in text_string_to_metric_families(text)}
    values = {
        (s.name, s.labels.get("role") or s.labels.get("le")): s.value
        for family in families.values()
        for s in family.samples
    }
    assert values["cloudtaser_beacon_pairs_total", None] == 3
    assert values["cloudtaser_beacon_parked", "bridge"] == 2
    assert values["cloudtaser_beacon_parked", "broker"] == 0.5
    assert values["cloudtaser_beacon_parked_seconds_bucket", "0.1"] == 2
    assert values["cloudtaser_beacon_parked_seconds_bucket", "1"] == 3
    assert values["cloudtaser_beacon_parked_seconds_bucket", "+Inf"] == 4
    assert values["cloudtaser_beacon_parked_seconds_count", None] == 4
    assert families["cloudtaser_beacon_parked_seconds"].type == "histogram"
