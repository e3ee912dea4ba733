"""What the bridge counts, in Prometheus' terms, with the prefix `cloudtaser_bridge_`.

Read by `net.probes` when `--metrics-addr` is given. Gauges are taken from the status at each scrape, so there
is one home for every number; only what happens and passes is counted here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

PREFIX: Final = "cloudtaser_bridge"


class Metrics:
    """The bridge's own registry."""

    def __init__(
        self, describe: Callable[[], dict[str, Any]], requests: Mapping[tuple[str, str], int], pool: Pool
    ) -> None:
        """`describe` gives the status document; `requests` counts by verdict and reason."""
        self.registry = CollectorRegistry()
        self.failures = Counter(
            f"{PREFIX}_failures",
            "Handshakes, readings and dials that came to nothing",
            ["what", "where"],
            registry=self.registry,
        )
        self.registry.register(_Gauges(describe, requests, pool))


class Pool(Protocol):
    """What `upstream` tells of itself."""

    @property
    def connections(self) -> int:
        """Open connections to OpenBao."""

    @property
    def waiting(self) -> int:
        """Requests that wait for one."""


class _Gauges(Collector):
    def __init__(
        self, describe: Callable[[], dict[str, Any]], requests: Mapping[tuple[str, str], int], pool: Pool
    ) -> None:
        self._describe = describe
        self._requests = requests
        self._pool = pool

    def collect(self) -> Iterable[Metric]:
        status = self._describe()
        yield _single("ready", "Whether registrations could be read of late", float(status["ready"]))
        yield _single("clusters", "Registered clusters", len(status["clusters"]))
        parked = GaugeMetricFamily(
            f"{PREFIX}_parked", "Spares waiting at beacons", labels=["cluster", "room"]
        )
        gauges = {
            "tunnels": ("tunnels", "Open tunnels"),
            "streams": ("streams", "Open streams"),
            "certificate_ends": ("certificate_end_seconds", "When the first certificate ends, epoch seconds"),
            "keys_pending": ("keys_pending", "Whether a set of signing keys waits for a person"),
        }
        families = {
            field: GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=["cluster"])
            for field, (name, text) in gauges.items()
        }
        for cluster in status["clusters"]:
            label = cluster["fingerprint"][:8]
            for room, number in cluster["parked"].items():
                parked.add_metric([label, room], number)
            for field, family in families.items():
                family.add_metric([label], float(cluster[field]))
        counted = CounterMetricFamily(
            f"{PREFIX}_requests",
            "Requests of pods and operators; a limit that was hit is a reason",
            labels=["verdict", "reason"],
        )
        for labels, number in self._requests.items():
            counted.add_metric(labels, number)
        yield counted
        migrations = CounterMetricFamily(
            f"{PREFIX}_migrations", "Secrets stored for administrators, by outcome", labels=["outcome"]
        )
        for outcome, number in status["migrations"].items():
            migrations.add_metric([outcome], number)
        yield migrations
        dropped = CounterMetricFamily(f"{PREFIX}_audit_dropped", "Audit lines that nobody read in time")
        dropped.add_metric([], status["audit_dropped"])
        yield dropped
        yield _single("openbao_connections", "Open connections to OpenBao", self._pool.connections)
        yield _single("openbao_waiting", "Requests that wait for a connection", self._pool.waiting)
        yield parked
        yield from families.values()


def _single(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, value=value)
