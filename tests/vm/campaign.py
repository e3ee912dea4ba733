"""All attacks of the table against one agent, inside the VM: before it runs, while it detects, while it
enforces.

`python -m tests.vm.campaign` writes what came of each to a report, which the tests on the host read. What a
row must be is not decided here but in `test_vectors`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from tests.vm import scenarios
from tests.vm.attacks.table import ATTACKS, SCENARIOS, Attack, Evidence, Scenario, Subject
from tests.vm.stage import CANARY, Stage, note_mapping
from tests.vm.subjects import Outcome, Victim

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
        self._made: set[int] = set()  # victims of the scenario at hand
        self._watch: Watch | None = None
        self._agent = 0
        self._objects = scenarios.decoys()
        self._bpf = bool(self._objects)  # the kernel takes programs
        self.victim = self.new()
        self._sentinel = self.new()
        stage.bind_namespace(self.victim)

    def new(self, named: str = "") -> Victim:
        """A victim that is registered if there is an agent."""
        victim = self._stage.victim(named=named)
        note_mapping(victim)
        return self._protected(victim)

    def _protected(self, victim: Victim) -> Victim:
        self._made.add(victim.pid)
        if self._watch is not None:
            self._watch.protect(victim)
        return victim

    def guard(self, watch: Watch, agent: int, objects: dict[str, int]) -> None:
        """From here on with this agent, of this pid and with these BPF objects; the lasting victims are
        registered."""
        first = self._watch is None
        self._watch, self._agent, self._objects = watch, agent, objects
        if first:
            watch.protect(self.victim)
            watch.protect(self._sentinel)

    def run(self, phase: str, attacks: tuple[Attack, ...] = ATTACKS) -> None:
        """Each attack by each subject that can."""
        for attack in attacks:
            for subject in Subject:
                if subject in attack.by:
                    self.rows.append(self._attack(phase, attack, subject))

    def _attack(self, phase: str, attack: Attack, subject: Subject) -> Row:
        first, without = attack.kernels
        victim = self.new(attack.named) if attack.fatal else self.victim
        outcome = self._stage.attack(attack, subject, victim)
        events = self.since()
        if attack.fatal:
            victim.close()
        possible = first <= self._version < without and (self._bpf or not attack.bpf)
        mine = [event for event in events if event["source"]["pid"] == outcome.attacker]
        return _row(phase, attack, subject, possible, outcome, mine)

    def play(self, phase: str, *, harmless: bool = False) -> None:
        """Each scenario; `harmless`: not those that end what they are about when they succeed."""
        for scenario in SCENARIOS:
            if not (harmless and scenario.destroys):
                self.rows.append(self._scenario(phase, scenario))

    def _scenario(self, phase: str, scenario: Scenario) -> Row:
        stand_in = None if self._agent else scenarios.sleeper()
        agent = stand_in.pid if stand_in else self._agent
        scene = scenarios.Scene(self._stage, self.victim, self.new, agent, self._objects)
        self._made = {self.victim.pid}
        if scenario.many:
            self.since()  # what is told of the victim from here on is about this
        outcome = scenarios.RUN[scenario.name](scene)
        with suppress(ProcessLookupError):
            os.kill(agent, signal.SIGCONT)  # one that was stopped goes on
        events = self.since()
        if stand_in:
            stand_in.kill()
            stand_in.wait()
        scenarios.restore()
        if scenario.many:
            mine = [event for event in events if event["target"].get("pid") in self._made]
        else:
            mine = [event for event in events if event["source"]["pid"] == outcome.attacker]
        return _row(phase, scenario, Subject.HOST, True, outcome, mine)

    def since(self) -> list[dict[str, Any]]:
        """All events since the last call: an attack of our own is the last one. None without an agent."""
        if self._watch is None:
            return []
        by = self._stage.host.attack(SENTINEL, Subject.HOST, self._sentinel).attacker
        found = self._watch.events(lambda event: bool(event["source"]["pid"] == by))
        return [event for event in found if event["vector"]]  # 0: a registration

    def report(self) -> list[dict[str, Any]]:
        """All rows, as plain data."""
        return [asdict(row) for row in self.rows]


def _row(
    phase: str,
    attack: Attack | Scenario,
    subject: Subject,
    possible: bool,
    outcome: Outcome,
    events: list[dict[str, Any]],
) -> Row:
    return Row(
        phase=phase,
        vector=attack.vector,
        name=attack.name,
        subject=subject.name,
        expected=possible,
        succeeded=outcome.done and (attack.evidence is not Evidence.CANARY or outcome.text == CANARY),
        text=outcome.text,
        error=outcome.error,
        status=outcome.status,
        events=events,
    )
