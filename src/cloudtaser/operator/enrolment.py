"""Enrolment: how an operator gets its certificate, decided one step at a time.

Used by `enrol`, which does what a step says and reports back what happened. Knows no socket, clock or
cluster. Two ways in (spec/wire.md, "Bootstrap"): the init room, once in the life of a cluster, for who knows
the fingerprint; the return room, for who holds the pinned tunnel CA and proves its ServiceAccount. Once a
tunnel CA is known, this machine never goes back to the first way: who can make returning fail must gain
nothing by it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from cloudtaser.wire.bootstrap import Mode

REPORT_EVERY: Final = 60.0
"""Seconds between two log lines that say the same."""
LOOKS_BEFORE_ASKING: Final = 15
"""Looks for another replica's trust before the bridge that said `already_initialized` is asked again."""


@dataclass(frozen=True, slots=True)
class ReadTrust:
    """Look whether a tunnel CA is known by now, after `delay` seconds (the shell adds jitter)."""

    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Introduce:
    """Enter the init room and ask for a first certificate; wait `patience` seconds for a bridge."""

    mode: Mode
    patience: float


@dataclass(frozen=True, slots=True)
class ComeBack:
    """Enter the return room of the pinned tunnel CA, after `delay` seconds. Patience as above."""

    delay: float
    patience: float


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A certificate is there; the machine is done."""


Step = ReadTrust | Introduce | ComeBack | Enrolled


class Outcome(enum.Enum):
    """What came of a step, seen by the machine. Everything else about it goes to the log."""

    TRUST_KNOWN = enum.auto()
    TRUST_UNKNOWN = enum.auto()
    TRUST_UNREADABLE = enum.auto()
    CERTIFIED = enum.auto()
    NOBODY_CAME = enum.auto()
    ALREADY_INITIALISED = enum.auto()
    REFUSED = enum.auto()
    BROKEN = enum.auto()
    """The connection or the exchange failed: a bad proof, a wrong pin, a lost peer."""
    TRUST_DIFFERS = enum.auto()
    """Another replica stored another tunnel CA while we were asking."""


_INTRODUCING: Final = (
    Outcome.NOBODY_CAME,
    Outcome.ALREADY_INITIALISED,
    Outcome.REFUSED,
    Outcome.BROKEN,
    Outcome.TRUST_DIFFERS,
)


class Enrolment:
    """One enrolment. `step` is what to do now; `report` takes what came of it and gives the next step."""

    def __init__(
        self, *, join_code: bool, poll: float = 2.0, patience: float = 10.0, limit: float = 30.0
    ) -> None:
        """`poll`: seconds between looks for another replica's trust; `limit`: longest delay when failing."""
        self._mode = Mode.INIT_WITH_CODE if join_code else Mode.INIT
        self._poll = poll
        self._patience = patience
        self._limit = limit
        self._failures = 0
        self._looks = 0
        self.trust_known = False
        self.step: Step = ReadTrust()

    def report(self, outcome: Outcome) -> Step:
        """The next step. ValueError when the outcome cannot come from the present one: a bug."""
        self.step = self._next(outcome)
        return self.step

    def _next(self, outcome: Outcome) -> Step:
        match self.step:
            case ReadTrust():
                return self._after_reading(outcome)
            case Introduce() if outcome is Outcome.CERTIFIED:
                self.trust_known = True
                return Enrolled()
            case Introduce() if outcome in _INTRODUCING:
                return ReadTrust(self._delay(outcome))
            case ComeBack() if outcome is Outcome.CERTIFIED:
                return Enrolled()
            case ComeBack() if outcome in _INTRODUCING:
                return ComeBack(self._delay(outcome), self._patience)
        raise ValueError(f"{outcome.name} does not follow {type(self.step).__name__}")

    def _after_reading(self, outcome: Outcome) -> Step:
        if outcome is Outcome.TRUST_UNREADABLE:
            self._failures += 1
            return ReadTrust(self._backoff())
        if outcome is Outcome.TRUST_KNOWN:
            self.trust_known = True
            return ComeBack(0.0, self._patience)
        if outcome is Outcome.TRUST_UNKNOWN:
            if self._looks:
                self._looks -= 1
                return ReadTrust(self._poll)
            return Introduce(self._mode, self._patience)
        raise ValueError(f"{outcome.name} does not follow ReadTrust")

    def _delay(self, outcome: Outcome) -> float:
        """Nobody there costs no delay (the wait was long enough); another replica's trust is polled for."""
        if outcome in (Outcome.NOBODY_CAME, Outcome.TRUST_DIFFERS):
            self._failures = 0
            return 0.0
        if outcome is Outcome.ALREADY_INITIALISED:
            self._looks = LOOKS_BEFORE_ASKING
            return self._poll
        self._failures += 1
        return self._backoff()

    def _backoff(self) -> float:
        return min(self._limit, 0.25 * 2.0 ** min(self._failures, 20))


class Reporter:
    """Says a thing once, then at most once a minute while it stays the same. The caller passes the time."""

    def __init__(self, every: float = REPORT_EVERY) -> None:
        self._every = every
        self._said: dict[str, float] = {}

    def due(self, what: str, now: float) -> bool:
        """Whether `what` is to be logged now."""
        if now - self._said.get(what, -self._every) < self._every:
            return False
        if len(self._said) >= 64:
            self._said.clear()
        self._said[what] = now
        return True
