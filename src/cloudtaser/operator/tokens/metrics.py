"""Metrics of the token method. Names start with `cloudtaser_operator_`; made by `method`."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_PREFIX = "cloudtaser_operator_"


class TokenMetrics:
    """Counted by the parts, scraped with the rest of `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.announcements = Counter(
            _PREFIX + "announcements",
            "Announcements of sealed wrappers, by outcome: accepted, or why not.",
            ["outcome"],
            registry=registry,
        )
        self.unsealings = Counter(
            _PREFIX + "unsealings",
            "Sealed wrappers that were served, by outcome: unsealed, superseded, refused or failed.",
            ["outcome"],
            registry=registry,
        )
        self.seconds = Histogram(
            _PREFIX + "unsealing_seconds",
            "Seconds from an announcement to the token's arrival.",
            registry=registry,
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
        )
        self.tokens = Counter(
            _PREFIX + "pod_tokens",
            "Tokens of pods, by what was done: minted, renewed, revoked, and what of it failed.",
            ["what"],
            registry=registry,
        )
        self.certificates = Counter(
            _PREFIX + "seal_certificates",
            "Certificates of the pod CA that the operator had signed for itself, by outcome: ok or failed.",
            ["outcome"],
            registry=registry,
        )
        self._gauges = {
            "announcement_connections": Gauge(
                _PREFIX + "announcement_connections", "Connections of sealed wrappers now.", registry=registry
            ),
            "unsealings_waiting": Gauge(
                _PREFIX + "unsealings_waiting", "Announcements that wait to be served.", registry=registry
            ),
            "pod_tokens_out": Gauge(
                _PREFIX + "pod_tokens_out",
                "Tokens that pods hold, as the leader knows; 0 elsewhere.",
                registry=registry,
            ),
            "seal_certificate_expiry_seconds": Gauge(
                _PREFIX + "seal_certificate_expiry_seconds",
                "Unix time at which the sealing certificate ends; 0 without one.",
                registry=registry,
            ),
        }

    def observe(self, **sources: Callable[[], float]) -> None:
        """Read these at scrape time."""
        for name, source in sources.items():
            self._gauges[name].set_function(source)
