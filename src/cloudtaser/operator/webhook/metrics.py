"""What the webhook counts, with the help texts an operator of the thing reads.

Made once by `service.Webhook` on the registry it is given. A namespace is a label only where it is one of the
cluster's: whoever reaches the port could make up others.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class WebhookMetrics:
    """All series of the webhook; each part counts on them directly."""

    def __init__(self, registry: CollectorRegistry) -> None:
        prefix = "cloudtaser_operator_"
        self.queue = Gauge(
            prefix + "admission_queue", "Admission reviews that are not answered yet.", registry=registry
        )
        self.bytes = Gauge(
            prefix + "admission_bytes",
            "Bytes that reviews under way take, as they came and once they are read.",
            registry=registry,
        )
        self.seconds = Histogram(
            prefix + "admission_duration_seconds",
            "From an admission review's first byte read to its answer, by webhook.",
            ["webhook"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self.injections = Counter(
            prefix + "injections", "Pods that got the wrapper.", ["namespace"], registry=registry
        )
        self.failures = Counter(
            prefix + "injection_failures",
            "Pods that asked for secrets and got no wrapper, or were refused, by reason.",
            ["namespace", "reason"],
            registry=registry,
        )
        self.unanswered = Counter(
            prefix + "admission_unanswered",
            "Requests without an answer: overload, memory, too_large, unreadable, too_slow or cut_off.",
            ["reason"],
            registry=registry,
        )
