"""Metrics of the look-ups in registries.

Made by the operator's wiring; `resolver` counts on it.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_PREFIX = "cloudtaser_operator_registry_"


class RegistryMetrics:
    """What is counted of registries, in one Prometheus registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.lookups = Counter(
            _PREFIX + "lookups",
            "Images asked for, by outcome: hit, miss (the registry was asked), stale (it was away, and what"
            " was known is used) or error.",
            ["outcome"],
            registry=registry,
        )
        self.errors = Counter(
            _PREFIX + "errors",
            "Images whose configuration could not be had, by reason.",
            ["reason"],
            registry=registry,
        )
        self.requests = Counter(
            _PREFIX + "requests",
            "Requests to registries, by status; failed without one.",
            ["status"],
            registry=registry,
        )
        self.busy = Counter(
            _PREFIX + "busy",
            "Look-ups refused because too many were under way, of all or of one namespace.",
            registry=registry,
        )
        self.seconds = Histogram(
            _PREFIX + "seconds",
            "Seconds that one image's registry took, at one endpoint under one credential.",
            buckets=(0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20),
            registry=registry,
        )
        self._cached = Gauge(_PREFIX + "cached", "Answers that are kept.", registry=registry)
        self._flying = Gauge(_PREFIX + "in_flight", "Look-ups that are under way.", registry=registry)

    def observe(self, *, cached: Callable[[], float], in_flight: Callable[[], float]) -> None:
        """Read these at scrape time."""
        self._cached.set_function(cached)
        self._flying.set_function(in_flight)
