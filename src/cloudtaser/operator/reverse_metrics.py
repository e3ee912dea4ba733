"""Metrics of the reverse port: who came, who was sent away and why, who waits.

Made by `standalone` in reverse mode only; names start with `cloudtaser_broker_reverse_`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

_NAME: Final = "cloudtaser_broker_reverse_"


class ReverseMetrics:
    """On the operator's registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.connections = Counter(
            _NAME + "connections",
            "Connections to the reverse port that were let in, by what they carry: grpc, tls or nothing.",
            ["carries"],
            registry=registry,
        )
        self.refused = Counter(
            _NAME + "refused",
            "Connections and streams that the reverse port sent away, by reason.",
            ["reason"],
            registry=registry,
        )
        self.matched = Counter(_NAME + "matched", "Bridges that met one of our seats.", registry=registry)
        self.reloads = Counter(
            _NAME + "certificate_reloads",
            "Times that the certificate was read again, by outcome: ok or failed.",
            ["outcome"],
            registry=registry,
        )
        self._gauges = {
            "parked": Gauge(_NAME + "parked", "Bridges that wait in a room.", registry=registry),
            "open": Gauge(_NAME + "open_connections", "Connections to the port now.", registry=registry),
        }

    def observe(self, **sources: Callable[[], float]) -> None:
        """Read these at scrape time: parked, open."""
        for name, source in sources.items():
            self._gauges[name].set_function(source)
