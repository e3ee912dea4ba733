"""Leases that pods left behind do not keep the webhooks' CA from being kept right."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from cloudtaser.errors import UnavailableError
from cloudtaser.kube.errors import NotFoundError
from cloudtaser.kube.kinds import Kind
from cloudtaser.operator import ca_bundle
from cloudtaser.operator.ca_bundle import KNOWN_ANNOTATION, MAX_REPLICAS, CaBundle
from cloudtaser.operator.metrics import ManagerMetrics
from cloudtaser.operator.replica import CA_ANNOTATION
from cloudtaser.operator.serving_keys import make_keys, service_names

KEYS = [make_keys(service_names("webhook", "ns"), time.time(), 3600) for _ in range(2)]


@dataclass(frozen=True, slots=True)
class Listed:
    items: Sequence[dict[str, Any]]


class ApiServer:
    """Leases, and configurations that keep what was patched into them."""

    def __init__(self) -> None:
        self.leases: dict[str, dict[str, Any]] = {}
        self.bundles: dict[str, str] = {}

    def say(self, name: str, ca: str, renewed: str, version: str = "1") -> None:
        self.leases[name] = {
            "metadata": {"name": name, "resourceVersion": version, "annotations": {CA_ANNOTATION: ca}},
            "spec": {"renewTime": renewed},
        }

    async def list_objects(
        self, kind: Kind, namespace: str | None = None, *, label_selector: str = "", max_objects: int = 0
    ) -> Listed:
        if len(self.leases) > max_objects:
            raise UnavailableError("more objects than may be")
        return Listed(list(self.leases.values()))

    async def patch_object(
        self, kind: Kind, namespace: str | None, name: str, patch: Any, *, content_type: str = ""
    ) -> dict[str, Any]:
        for webhook in patch.get("webhooks", ()):
            self.bundles[kind.plural] = base64.b64decode(webhook["clientConfig"]["caBundle"]).decode()
        held = base64.b64encode(self.bundles.get(kind.plural, "").encode()).decode()
        return {
            "metadata": {"resourceVersion": "1"},
            "webhooks": [{"name": "one", "clientConfig": {"caBundle": held}}],
        }

    async def delete_object(self, kind: Kind, namespace: str | None, name: str) -> None:
        if self.leases.pop(name, None) is None:
            raise NotFoundError("gone")


def controller(api: ApiServer, told: dict[str, str]) -> CaBundle:
    metrics = ManagerMetrics(CollectorRegistry())
    return CaBundle(api, "ns", "webhook", told.__setitem__, metrics)


def test_more_leases_than_replicas_are_looked_at_and_the_stale_ones_deleted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    api, told = ApiServer(), dict[str, str]()
    left, alive = KEYS
    for number in range(3 * MAX_REPLICAS):
        api.say(f"left-{number:03}", left.ca_pem, "2026-01-01T00:00:00.000000Z")
    api.say("zz-alive", alive.ca_pem, "2026-01-02T00:00:00.000000Z")

    async def scenario() -> None:
        bundle = controller(api, told)
        await bundle.look()
        assert alive.ca_id in told[KNOWN_ANNOTATION]  # the last renewed counts, however many there are
        api.say("zz-alive", alive.ca_pem, "2026-01-02T00:00:10.000000Z", "2")
        monkeypatch.setattr(ca_bundle, "LEASE_SECONDS", -1)  # as if a minute had passed for all
        await bundle.look()
        assert api.leases == {}

    asyncio.run(scenario())


def test_what_goes_into_the_bundle_is_bounded_and_whoever_is_seen_to_live_comes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ca_bundle, "MAX_REPLICAS", 2)
    api, told = ApiServer(), dict[str, str]()
    left, alive = KEYS
    for number in range(5):
        api.say(f"left-{number}", left.ca_pem, "2027-01-01T00:00:00.000000Z")  # by clocks that were ahead
    api.say("alive-1", alive.ca_pem, "2026-01-01T00:00:00.000000Z")
    api.say("alive-2", alive.ca_pem, "2026-01-01T00:00:00.000000Z")

    async def scenario() -> None:
        bundle = controller(api, told)
        await bundle.look()
        assert told[KNOWN_ANNOTATION] == left.ca_id
        api.say("alive-1", alive.ca_pem, "2026-01-01T00:00:10.000000Z", "2")
        api.say("alive-2", alive.ca_pem, "2026-01-01T00:00:10.000000Z", "2")
        await bundle.look()
        assert told[KNOWN_ANNOTATION] == alive.ca_id
        assert set(api.bundles.values()) == {alive.ca_pem}

    asyncio.run(scenario())
