"""Sweep: what the ledger, the pods that are there, and the time together ask for.

Used by `keeping`, on the leader. Pure. A token belongs to a pod that is there, and to the last start of its
container; any other is revoked. A token is only ever made when the container's wrapper says that it has none,
so of two for one container the older is of no use to anybody.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from cloudtaser.operator.tokens.ledger import Entry
from cloudtaser.operator.tokens.ports import LivePod, PodRef
from cloudtaser.operator.tokens.target import decode, encode

GRACE: Final = 120.0
"""Seconds after it was made in which a token may be on its way; nobody but its maker touches it then."""
RENEW_AT: Final = 2 / 3
CATCH_UP: Final = 1 / 8
"""Part of a token's life over which renewals are spread by a keeper that does not know when the last was."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What to do, each list in the order of the ledger."""

    gone: tuple[Entry, ...]
    """Their pod has ended, or another token took their place: revoke, then forget."""
    kept: tuple[Entry, ...]
    """In use."""
    annotate: Mapping[PodRef, str]
    """Pods whose annotation does not say what is in use, and what it should say."""


def judge(entries: Iterable[Entry], pods: Mapping[str, LivePod], now: float) -> Findings:
    """`entries` must have been read before `pods`: a pod that is not among them is then really gone."""
    gone: list[Entry] = []
    kept: list[Entry] = []
    by_container: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        pod = pods.get(entry.pod.uid)
        if pod is None:
            gone.append(entry)
        else:
            by_container[entry.pod.uid, entry.container].append(entry)
    settled: dict[str, dict[str, str]] = defaultdict(dict)
    for (uid, container), own in by_container.items():
        current = _current(own, decode(pods[uid].annotation).get(container, ""))
        for entry in own:
            if entry is current or now - entry.at < GRACE:
                kept.append(entry)
            else:
                gone.append(entry)
        if now - current.at >= GRACE:
            settled[uid][container] = current.accessor
    return Findings(tuple(gone), tuple(kept), dict(_annotations(settled, by_container, pods)))


def _current(own: Collection[Entry], annotated: str) -> Entry:
    """Of one container's tokens the one that its wrapper has: the annotated one among the latest."""
    newest = max(own, key=lambda entry: (entry.at, entry.accessor))
    for entry in own:
        if entry.accessor == annotated and newest.at - entry.at < GRACE:
            return entry
    return newest


def _annotations(
    settled: Mapping[str, Mapping[str, str]], known: Collection[tuple[str, str]], pods: Mapping[str, LivePod]
) -> Iterable[tuple[PodRef, str]]:
    """What is in use, and of what stands there nothing that the ledger does not know."""
    for uid, accessors in settled.items():
        pod = pods[uid]
        there = {name: value for name, value in decode(pod.annotation).items() if (uid, name) in known}
        wanted = encode({**there, **accessors})
        if wanted != pod.annotation:
            yield pod.ref, wanted


class Renewals:
    """When each token is to be renewed. The caller passes `now` (any steady clock) and a random number."""

    def __init__(self) -> None:
        self._due: dict[str, tuple[float, Entry]] = {}

    def __len__(self) -> int:
        return len(self._due)

    def follow(self, entries: Iterable[Entry], now: float, wall: float, uniform: float) -> None:
        """Renew these and no others. One that is new here and not new in the world was last renewed nobody
        knows when, so it is due soon; `uniform` (0 to 1) and its place spread them."""
        known: dict[str, tuple[float, Entry]] = {}
        for place, entry in enumerate(entries):
            due = self._due.get(entry.accessor)
            if due is None:
                part = (uniform + place * 0.6180339887) % 1.0  # evenly, however many there are
                age = wall - entry.at
                left = entry.ttl * RENEW_AT * (1 - 0.1 * part) - age if age >= 0 else 0.0
                soon = entry.ttl * CATCH_UP * part
                due = now + max(left, soon), entry
            known[entry.accessor] = due
        self._due = known

    def renewed(self, accessor: str, ttl: float, now: float, uniform: float) -> None:
        """It was renewed at `now`, for `ttl` seconds."""
        if accessor in self._due:
            self._due[accessor] = now + ttl * RENEW_AT * (1 - 0.1 * uniform), self._due[accessor][1]

    def failed(self, accessor: str, now: float, uniform: float) -> None:
        """It could not be asked for: again soon."""
        if accessor in self._due:
            entry = self._due[accessor][1]
            self._due[accessor] = now + entry.ttl * CATCH_UP * (0.05 + 0.05 * uniform), entry

    def forget(self, accessor: str) -> None:
        """It is no more."""
        self._due.pop(accessor, None)

    def due(self, now: float) -> list[Entry]:
        """What is due, the longest overdue first."""
        return [entry for when, entry in sorted(self._due.values(), key=lambda one: one[0]) if when <= now]

    def next(self) -> float | None:
        """When something is due."""
        return min((when for when, _ in self._due.values()), default=None)
