"""Metrics in Prometheus' text format: own few lines, because the beacon depends on nothing but uvloop.

Used by `server`, which counts, and by `probes`, which shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

PREFIX: Final = "cloudtaser_beacon_"
WAIT_BUCKETS: Final = (0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 86400.0)
HANDSHAKE_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Histogram:
    """Observations in seconds, counted by bucket."""

    def __init__(self, buckets: tuple[float, ...]) -> None:
        self._buckets = buckets
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self._sum += seconds
        for index, bound in enumerate(self._buckets):
            if seconds <= bound:
                self._counts[index] += 1
                return
        self._counts[-1] += 1

    def lines(self, name: str, text: str) -> list[str]:
        """The histogram in text form."""
        full = PREFIX + name
        lines = [f"# HELP {full} {text}", f"# TYPE {full} histogram"]
        total = 0
        for bound, count in zip((*self._buckets, float("inf")), self._counts, strict=True):
            total += count
            label = "+Inf" if bound == float("inf") else f"{bound:g}"
            lines.append(f'{full}_bucket{{le="{label}"}} {total}')
        return [*lines, f"{full}_sum {self._sum:.6f}", f"{full}_count {total}"]


class Counts:
    """What has happened since the start."""

    def __init__(self) -> None:
        self.accepted = 0
        self.handshakes: Counter[str] = Counter(dict.fromkeys(("ok", "failed", "left"), 0))
        self.proxy_headers: Counter[str] = Counter(dict.fromkeys(("ok", "local", "bad", "late", "left"), 0))
        self.pairs = 0
        self.pairs_ended: Counter[str] = Counter(
            dict.fromkeys(("finished", "reset", "broken", "idle", "drained"), 0)
        )
        self.refused: Counter[str] = Counter(dict.fromkeys("HRFTS", 0))
        self.limit_hits: Counter[str] = Counter()
        self.relayed: Counter[str] = Counter(dict.fromkeys(("bridge", "broker"), 0))
        self.left_parked = 0
        self.faults = 0
        self.reloads: Counter[str] = Counter(dict.fromkeys(("ok", "failed"), 0))
        self.waited = Histogram(WAIT_BUCKETS)
        self.handshake_took = Histogram(HANDSHAKE_BUCKETS)


def sample(
    name: str, kind: str, text: str, values: Mapping[str, float] | float, label: str = ""
) -> list[str]:
    """One metric with its help: a number, or one number a value of `label`."""
    full = PREFIX + name
    lines = [f"# HELP {full} {text}", f"# TYPE {full} {kind}"]
    if isinstance(values, Mapping):
        lines += [f'{full}{{{label}="{key}"}} {_number(value)}' for key, value in values.items()]
    else:
        lines.append(f"{full} {_number(values)}")
    return lines


def render(groups: Iterable[list[str]]) -> str:
    """The page."""
    return "".join(line + "\n" for group in groups for line in group)


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.6f}"
