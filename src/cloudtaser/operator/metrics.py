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

    def __init__(self, prefix: str, client: str, source: Callable[[], tuple[int, int]]) -> None:
        self._prefix = prefix
        self._client = client
        self._source = source

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(
            self._prefix + "bytes",
            f"Bytes passed on, by where they came from: {self._client} or bridge.",
            labels=["source"],
        )
        for name, value in zip((self._client, "bridge"), self._source(), strict=True):
            family.add_metric([name], value)
        yield family


class Counts:
    """What one listener of the broker counts, for the `client`s (a pod, an admin) that connect to it."""

    def __init__(self, registry: CollectorRegistry, prefix: str, client: str) -> None:
        self.registry = registry
        self._prefix = prefix
        self._client = client
        self.connections = Counter(
            prefix + "connections", f"Connections from {client}s that were accepted.", registry=registry
        )
        self.refused = Counter(
            prefix + "refused",
            f"Connections from {client}s that were refused, by reason.",
            ["reason"],
            registry=registry,
        )
        self.cut = Counter(
            prefix + "cut",
            f"Connections from {client}s that ended by a fault, not in order.",
            registry=registry,
        )

    def observe_bytes(self, source: Callable[[], tuple[int, int]]) -> None:
        """Read what came from clients and from bridges at scrape time."""
        self.registry.register(_Bytes(self._prefix, self._client, source))


class _Events(Collector):
    """What became of things worth an event: read when scraped."""

    def __init__(self, posted: Callable[[], int], dropped: Callable[[], int]) -> None:
        self._sources = {"posted": posted, "dropped": dropped}

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(
            "cloudtaser_operator_events",
            "Kubernetes Events, by outcome: posted, or dropped because there were too many.",
            labels=["outcome"],
        )
        for name, source in self._sources.items():
            family.add_metric([name], source())
        yield family


class ManagerMetrics:
    """What the manager counts, in its own process's registry or in that which it shares with the broker."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.reviewer_tokens = Counter(
            "cloudtaser_operator_reviewer_tokens",
            "Reviewer tokens handed to bridges, by outcome: ok or failed.",
            ["outcome"],
            registry=registry,
        )
        self.webhook_expiry = Gauge(
            "cloudtaser_operator_webhook_certificate_expiry_seconds",
            "Unix time at which the certificate ends under which the webhook is served.",
            registry=registry,
        )
        self.webhook_connections = Gauge(
            "cloudtaser_operator_webhook_connections",
            "Connections to the webhook's listener now.",
            registry=registry,
        )
        self.webhook_refused = Counter(
            "cloudtaser_operator_webhook_connections_refused",
            "Connections to the webhook's listener that were cut off: there were too many, too many of one"
            " source, or no request came.",
            ["reason"],
            registry=registry,
        )
        self.ca_bundle_writes = Counter(
            "cloudtaser_operator_ca_bundle_writes",
            "Times that the leader put right a webhook configuration's caBundle.",
            registry=registry,
        )
        self.leader = Gauge(
            "cloudtaser_operator_leader", "1 on the replica that leads, 0 on the others.", registry=registry
        )

    def observe_events(self, posted: Callable[[], int], dropped: Callable[[], int]) -> None:
        """Read these at scrape time."""
        self.registry.register(_Events(posted, dropped))


class Metrics(Counts):
    """One registry for one process; `observe` sets what is read at scrape time."""

    def __init__(self) -> None:
        broker = "cloudtaser_broker_"
        super().__init__(CollectorRegistry(), broker, "pod")
        self.admin = Counts(self.registry, broker + "admin_", "admin")
        self.manager = ManagerMetrics(self.registry)
        self._gauges = {
            "tunnels": Gauge(broker + "tunnels", "Tunnels that take new streams.", registry=self.registry),
            "streams": Gauge(
                broker + "streams", "Streams on all tunnels, of any kind.", registry=self.registry
            ),
            "open": Gauge(broker + "open_connections", "Connections from pods now.", registry=self.registry),
            "admin_open": Gauge(
                broker + "admin_open_connections", "Connections from admins now.", registry=self.registry
            ),
            "beacon_failures": Gauge(
                broker + "beacon_failures", "Failed attempts at beacons since start.", registry=self.registry
            ),
            "controls": Gauge(
                broker + "control_streams", "Tunnels with a control stream.", registry=self.registry
            ),
            "logins_open": Gauge(
                broker + "logins_open",
                "Tunnels whose bridge said last that pods can log in.",
                registry=self.registry,
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
        self.hints = Counter(
            "cloudtaser_operator_hints",
            "Hints on control streams: renew from a bridge, keys to the bridges.",
            ["what"],
            registry=self.registry,
        )
        self.apiserver_streams = Counter(
            "cloudtaser_operator_apiserver_streams",
            "Streams to the API server that bridges opened, by outcome: ok, failed or refused.",
            ["outcome"],
            registry=self.registry,
        )

    def observe(self, **sources: Callable[[], float]) -> None:
        """Read these at scrape time: tunnels, streams, open, admin_open, beacon_failures, controls,
        logins_open."""
        for name, source in sources.items():
            self._gauges[name].set_function(source)
