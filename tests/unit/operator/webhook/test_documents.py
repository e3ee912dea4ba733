"""The documents name every annotation, every path, every metric and every reason."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client import CollectorRegistry

from cloudtaser.kube.annotations import GRAMMAR, PREFIX, WRITTEN_BY_US
from cloudtaser.operator.webhook import configuration
from cloudtaser.operator.webhook.metrics import WebhookMetrics

ROOT = Path(__file__).parents[4]
ANNOTATIONS = (ROOT / "docs" / "annotations.md").read_text()
WEBHOOK = (ROOT / "docs" / "webhook.md").read_text()


def test_every_annotation_is_documented() -> None:
    every = [*GRAMMAR, *(name.removeprefix(PREFIX) for name in WRITTEN_BY_US), "template-<NAME>"]
    assert [name for name in every if f"`{name}`" not in ANNOTATIONS] == []


def test_no_annotation_is_documented_that_is_not_there() -> None:
    cells = re.findall(r"^\| ((?:`[a-z0-9-]+`(?:, )?)+) \|", ANNOTATIONS, re.MULTILINE)
    told = {name for cell in cells for name in re.findall(r"`([a-z0-9-]+)`", cell)}
    assert told <= set(GRAMMAR)
    assert len(told) > 25


def test_every_entry_and_path_is_documented() -> None:
    registration = configuration.Registration()
    for made in (configuration.mutating(registration), configuration.validating(registration)):
        for webhook in made["webhooks"]:
            path = webhook["clientConfig"]["service"]["path"]
            assert f"| `{webhook['name']}` | `{path}` |" in WEBHOOK


def test_every_metric_is_documented() -> None:
    registry = CollectorRegistry()
    WebhookMetrics(registry)
    for metric in registry.collect():
        name = metric.name + ("_total" if metric.type == "counter" else "")
        assert f"| `{name}` |" in WEBHOOK


def test_every_reason_is_documented() -> None:
    folder = ROOT / "src" / "cloudtaser" / "operator" / "webhook"
    text = "".join(path.read_text() for path in folder.glob("*.py"))
    reasons = set(re.findall(r'NotInjectedError\(\s*"([a-z_]+)"', text)) | {"annotations"}
    assert len(reasons) > 6
    assert [reason for reason in sorted(reasons) if f"`{reason}`" not in WEBHOOK] == []
