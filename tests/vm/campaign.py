"""All attacks of the table against one agent, inside the VM: before it runs, while it detects, while it
enforces.

`python -m tests.vm.campaign` writes what came of each to a report, which the tests on the host read. What a
row must be is not decided here but in `test_vectors`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from tests.vm.attacks.table import ATTACKS, Attack, Subject
from tests.vm.stage import Stage, note_mapping, succeeded
from tests.vm.subjects import Victim

SENTINEL = "coredump_filter"  # an attack on a victim of its own, whose event comes behind all earlier ones


class Watch(Protocol):
    """What a campaign needs of an agent."""

    def protect(self, victim: Victim) -> None:
        """Have the victim registered."""

    def events(self, until: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """The events so far and those up to the one for which `until` is true, without it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One attack by one subject in one phase."""

    phase: str
    vector: int
    name: str
    subject: str
    expected: bool  # this subject can carry it out on this kernel without protection
    succeeded: bool
    text: str
    error: str
    status: int
    events: list[dict[str, Any]] = field(default_factory=list)


class Campaign:
    """Carries out attacks and keeps what came of them."""

    def __init__(self, stage: Stage, version: tuple[int, int]) -> None:
        self._stage, self._version = stage, version
        self.rows: list[Row] = []
        self._watch: Watch | None = None
        self._victim = self._new()
        self._sentinel = self._new()
        stage.bind_namespace(self._victim)

    def _new(self) -> Victim:
        victim = self._stage.victim()
        note_mapping(victim)
        if self._watch is not None:
            self._watch.protect(victim)
        return victim

    def guard(self, watch: Watch | None) -> None:
        """From here on with this agent; the lasting victims are registered."""
        self._watch = watch
        if watch is not None:
            watch.protect(self._victim)
            watch.protect(self._sentinel)

    def run(self, phase: str, attacks: tuple[Attack, ...] = ATTACKS) -> None:
        """Each attack by each subject that can."""
        for attack in attacks:
            for subject in Subject:
                if subject in attack.by:
                    self.rows.append(self._one(phase, attack, subject))

    def _one(self, phase: str, attack: Attack, subject: Subject) -> Row:
        first, without = attack.kernels
        victim = self._new() if attack.fatal else self._victim
        outcome = self._stage.attack(attack, subject, victim)
        events = self.since() if self._watch is not None else []
        if attack.fatal:
            victim.close()
        return Row(
            phase=phase,
            vector=attack.vector,
            name=attack.name,
            subject=subject.name,
            expected=first <= self._version < without,
            succeeded=succeeded(attack, outcome),
            text=outcome.text,
            error=outcome.error,
            status=outcome.status,
            events=[event for event in events if event["source"]["pid"] == outcome.attacker],
        )

    def since(self) -> list[dict[str, Any]]:
        """All events since the last call: an attack of our own is the last one."""
        assert self._watch is not None
        by = self._stage.host.attack(SENTINEL, Subject.HOST, self._sentinel).attacker
        return self._watch.events(lambda event: bool(event["source"]["pid"] == by))

    def report(self) -> list[dict[str, Any]]:
        """All rows, as plain data."""
        return [asdict(row) for row in self.rows]
