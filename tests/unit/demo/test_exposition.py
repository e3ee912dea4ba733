"""Probes and metrics as one reads them who looks."""

from __future__ import annotations

from cloudtaser.demo.exposition import fetch, probe, sum_metric
from cloudtaser.demo.ports import free_port


def test_the_samples_of_one_metric_are_summed_and_no_others() -> None:
    text = '# HELP a_total x\na_total{x="1"} 2\na_total{x="2"} 3.5\na_totals 7\nb 1\n'
    assert sum_metric(text, "a_total") == 5.5
    assert sum_metric("", "a_total") == 0


async def test_what_does_not_answer_says_nothing() -> None:
    port = free_port()
    assert await fetch(port, "/metrics") == ""
    assert not await probe(port, "/readyz")
