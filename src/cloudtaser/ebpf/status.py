"""Status: what the agent says of itself at /status and /metrics; pure, `agent` brings the figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cloudtaser.ebpf import vectors
from cloudtaser.ebpf.probe import Outcome
from cloudtaser.ebpf.vectors import Kind
from cloudtaser.version import VERSION


@dataclass(frozen=True, slots=True)
class Figures:
    """What is counted."""

    registrations: int = 0
    scores: int = 0
    sockets: int = 0
    protected_tasks: int = 0
    events: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    lost: int = 0
    suppressed: int = 0
    unwritten: int = 0
    fork_refused: int = 0
    succession: bool = False


def status(
    outcome: Outcome, *, node: str, mode: str, everyone: bool, machine: Mapping[str, Any], figures: Figures
) -> str:
    """JSON for people and for `target check`."""
    return json.dumps(
        {
            "version": VERSION,
            "node": node,
            "mode": mode,
            "tier": outcome.tier.value,
            "global_policy": "node" if everyone else "off",
            "vectors": {
                "known": outcome.known,
                "hold": outcome.hold,
                "list": [
                    {
                        "number": vector.number,
                        "name": vector.name,
                        "kind": vector.kind.value,
                        "standing": outcome.standings[vector.number].value,
                        "error": vector.error,
                        "binds": "pods" if vector.kind is Kind.SUBJECT and not everyone else "everybody",
                        "self_tested": vector.number in outcome.tested,
                    }
                    for vector in vectors.VECTORS
                ],
            },
            "refused": outcome.refused,
            "machine": dict(machine),
            "registrations": figures.registrations,
            "protected_tasks": figures.protected_tasks,
            "events": dict(figures.events),
            "lost_events": figures.lost,
        },
        indent=1,
    )


def metrics(outcome: Outcome, *, mode: str, figures: Figures) -> str:
    """Prometheus' text format."""
    lines: list[str] = []

    def add(name: str, kind: str, help_: str, samples: Mapping[str, float]) -> None:
        lines.append(f"# HELP cloudtaser_ebpf_{name} {help_}")
        lines.append(f"# TYPE cloudtaser_ebpf_{name} {kind}")
        lines.extend(f"cloudtaser_ebpf_{name}{labels} {value}" for labels, value in samples.items())

    def by(label: str, counts: Mapping[str, int]) -> dict[str, float]:
        return {f'{{{label}="{key}"}}': value for key, value in sorted(counts.items())}

    add(
        "info",
        "gauge",
        "Tier and mode.",
        {f'{{tier="{outcome.tier}",mode="{mode}",version="{VERSION}"}}': 1},
    )
    add("vectors_known", "gauge", "Vectors there are.", {"": outcome.known})
    add("vectors_hold", "gauge", "Vectors that hold on this kernel.", {"": outcome.hold})
    add("registrations", "gauge", "Registered processes.", {"": figures.registrations})
    add("protected_tasks", "gauge", "Protected tasks, at the last look.", {"": figures.protected_tasks})
    add("sockets", "gauge", "Sockets that wrappers can reach.", {"": figures.sockets})
    add("events_total", "counter", "Accesses by verdict.", by("verdict", figures.events))
    add("events_lost_total", "counter", "Events for which the ring had no room.", {"": figures.lost})
    add("events_suppressed_total", "counter", "Events beyond an offender's rate.", {"": figures.suppressed})
    add("events_unwritten_total", "counter", "Lines that nobody read in time.", {"": figures.unwritten})
    add("forks_refused_total", "counter", "Children that could not be protected.", {"": figures.fork_refused})
    add("refused_total", "counter", "Registrations refused.", by("reason", figures.refused))
    add("scores_total", "counter", "Protection scores received.", {"": figures.scores})
    return "\n".join(lines) + "\n"
