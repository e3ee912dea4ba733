"""Metrics of operator and broker, with the help texts an operator of the thing reads.

Made once by `standalone`; each part counts on the object that it is given. Names start with
`cloudtaser_operator_` or `cloudtaser_broker_`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector


class _Bytes(Collector):
    """Bytes passed on so far, those of running connections included: read when scraped."""

    def __init__(self, source: Callable[[], tuple[int, int]]) -> None:
        self._source = source

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(
            "cloudtaser_broker_bytes",
            "Bytes passed on, by where they came from: pod or bridge.",
            labels=["source"],
        )
        for name, value in zip(("pod", "bridge"), self._source(), strict=True):
            family.add_metric([name], value)
        yield family


class Metrics:
    """One registry for one process; `observe` sets what is read at scrape time."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        broker = "cloudtaser_broker_"
        self.connections = Counter(
            broker + "connections", "Connections from pods that were accepted.", registry=self.registry
        )
        self.refused = Counter(
            broker + "refused",
            "Connections from pods that were refused, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self.cut = Counter(
            broker + "cut", "Pods' connections that ended by a fault, not in order.", registry=self.registry
        )
        self._gauges = {
            "tunnels": Gauge(broker + "tunnels", "Tunnels that take new streams.", registry=self.registry),
            "streams": Gauge(
                broker + "streams", "Streams on all tunnels, of any kind.", registry=self.registry
            ),
            "open": Gauge(broker + "open_connections", "Connections from pods now.", registry=self.registry),
            "beacon_failures": Gauge(
                broker + "beacon_failures", "Failed attempts at beacons since start.", registry=self.registry
            ),
        }
        self.expiry = Gauge(
            "cloudtaser_operator_certificate_expiry_seconds",
            "Unix time at which the tunnel certificate ends; 0 without one.",
            registry=self.registry,
        )
        self.enrolments = Counter(
            "cloudtaser_operator_enrolments",
            "Certificates obtained, by way: rooms or tunnel.",
            ["way"],
            registry=self.registry,
        )
        self.reviewer_tokens = Counter(
            "cloudtaser_operator_reviewer_tokens",
            "Reviewer tokens handed to bridges, by outcome: ok or failed.",
            ["outcome"],
            registry=self.registry,
        )
        self.apiserver_streams = Counter(
            "cloudtaser_operator_apiserver_streams",
            "Streams to the API server that bridges opened, by outcome: ok, failed or refused.",
            ["outcome"],
            registry=self.registry,
        )

    def observe_bytes(self, source: Callable[[], tuple[int, int]]) -> None:
        """Read what came from pods and from bridges at scrape time."""
        self.registry.register(_Bytes(source))

    def observe(self, **sources: Callable[[], float]) -> None:
        """Read these at scrape time: tunnels, streams, open, beacon_failures."""
        for name, source in sources.items():
            self._gauges[name].set_function(source)
