"""The page under /metrics: every count, every gauge, every limit and how often it was hit.

Used by `server`.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from cloudtaser.beacon.metrics import render, sample
from cloudtaser.version import VERSION
from cloudtaser.wire.rendezvous import Role

if TYPE_CHECKING:
    from cloudtaser.beacon.server import Beacon

_REFUSED = {
    "H": "bad_hello",
    "R": "rate_limited",
    "F": "room_full",
    "T": "parked_too_long",
    "S": "shutting_down",
}


def metrics_page(beacon: Beacon) -> str:
    """The whole page."""
    counts, rooms = beacon.counts, beacon.rooms
    states = Counter(link.state.name.lower() for link in beacon.links)
    gauges = {name: float(states[name]) for name in ("handshaking", "talking", "relaying", "leaving")}
    gauges["proxy_header"] = float(beacon.entrance.waiting)
    buffered = sum(len(link.pending) for link in beacon.links if link.pending is not None)
    parked = {role.name.lower(): float(rooms.parked_as(role)) for role in Role}
    refused = {_REFUSED[letter]: float(count) for letter, count in counts.refused.items()}
    configured = _limits(beacon)
    hits = {name: float(counts.limit_hits[name]) for name in configured}
    ends = beacon.certificate.not_after if beacon.certificate is not None else 0.0
    return render(
        [
            sample("info", "gauge", "The running version.", {VERSION: 1.0}, "version"),
            sample("accepted_total", "counter", "Connections accepted.", counts.accepted),
            sample("connections", "gauge", "Open connections.", gauges, "state"),
            sample("proxy_headers_total", "counter", "PROXY headers.", dict(counts.proxy_headers), "result"),
            sample("handshakes_total", "counter", "TLS handshakes.", dict(counts.handshakes), "result"),
            counts.handshake_took.lines("handshake_seconds", "From accept to the end of the TLS handshake."),
            sample("parked", "gauge", "Parties that wait for a match.", parked, "role"),
            sample("rooms", "gauge", "Rooms with somebody parked.", rooms.rooms),
            sample("left_parked_total", "counter", "Parties that left before a match.", counts.left_parked),
            sample("pairs", "gauge", "Matched pairs that are relayed.", rooms.pairs),
            sample("pairs_total", "counter", "Matches made.", counts.pairs),
            sample("pairs_ended_total", "counter", "Pairs ended.", dict(counts.pairs_ended), "reason"),
            counts.waited.lines("parked_seconds", "How long the matched had been parked."),
            sample("relayed_bytes_total", "counter", "Bytes relayed, by sender.", beacon.relayed(), "sender"),
            sample("buffered_bytes", "gauge", "Bytes held for slow readers.", buffered),
            sample("refused_total", "counter", "Parties turned away.", refused, "reason"),
            sample("limit_hits_total", "counter", "How often a limit said no.", hits, "limit"),
            sample("limit", "gauge", "The limits: numbers, seconds, bytes.", configured, "limit"),
            sample(
                "certificate_reloads_total", "counter", "Certificate reads.", dict(counts.reloads), "result"
            ),
            sample("certificate_not_after_seconds", "gauge", "When the certificate ends (Unix time).", ends),
            sample("faults_total", "counter", "Connections ended by a fault of the beacon.", counts.faults),
            sample("resident_bytes", "gauge", "Resident memory.", _resident()),
        ]
    )


def _limits(beacon: Beacon) -> dict[str, float]:
    """Every limit by the name of its flag. `buffer` is hit whenever a direction waits for a slow reader."""
    config = beacon.config
    beacon.counts.limit_hits["buffer"] = beacon.pump.pauses
    return {
        "handshake-timeout": config.handshake_timeout,
        "hello-timeout": config.hello_timeout,
        "max-parked-per-room": config.max_parked_per_room,
        "max-parked": config.max_parked,
        "max-parked-age": config.max_parked_age,
        "max-pairs": beacon.max_pairs,
        "source-rate": config.source_rate,
        "source-burst": config.source_burst,
        "max-per-source": config.max_per_source,
        "early-bytes": config.early_bytes,
        "buffer": config.buffer,
        "pair-idle": config.pair_idle,
        "half-closed-idle": config.half_closed_idle,
        "descriptors": beacon.max_links,
    }


def _resident() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
