"""Custody: one container's token on its way from an announcement into the container, a step at a time.

Used by `minting`, which does what a step says and reports what came of it. Knows no socket, clock or cluster.
What the order of the steps is for: from the moment that an accessor is known, it is either written down or
taken back, whatever fails and wherever the operator is killed. Written down in the ledger before the token
leaves (`keeping` revokes what is there and has no pod), in the pod's annotation once it has arrived. The one
gap, between OpenBao's answer and the ledger, leaves a token that nobody ever held, and that ends by itself.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

TRIES: Final = 4
"""How often a step that can be tried again is tried in all."""
WRAPPER_TRIES: Final = 2
"""How often a wrapper is asked that does not answer: each time may take a worker for seconds, and a wrapper
that is there announces itself again."""
_FIRST_DELAY: Final = 0.25
_MOST_DELAY: Final = 4.0


class Outcome(enum.Enum):
    """What came of a step. Everything else about it goes to the log."""

    DONE = enum.auto()
    SUPERSEDED = enum.auto()
    """(look, deliver) The wrapper waits for no token, or for one under another key."""
    REFUSED = enum.auto()
    """It will not be otherwise next time: not our container, no grant."""
    GONE = enum.auto()
    """(annotate) There is no such pod any more."""
    UNANSWERED = enum.auto()
    """(look) The wrapper could not be asked."""
    FAILED = enum.auto()
    """Somebody could not be reached; it may have happened all the same."""


class End(enum.Enum):
    """How a custody ended, for the metric."""

    UNSEALED = "unsealed"
    SUPERSEDED = "superseded"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Look:
    """Read the pod, and ask the wrapper whether it waits for this key; after `delay` seconds."""

    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Mint:
    """Have a token made; `minted` follows instead of `report` when there is one."""

    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Record:
    """Write the accessor into the ledger."""

    accessor: str
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Deliver:
    """Seal the token and post it to the wrapper: once, since a second time cannot be told from a first."""


@dataclass(frozen=True, slots=True)
class Annotate:
    """Put the accessor into the pod's annotation, in place of `replaced` reported by `annotated`."""

    accessor: str
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Revoke:
    """Take the token of that accessor back."""

    accessor: str
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Forget:
    """Take that accessor out of the ledger."""

    accessor: str


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing more to do here."""

    how: End


Step = Look | Mint | Record | Deliver | Annotate | Revoke | Forget | Ended


class Custody:
    """One token. `step` is what to do now."""

    def __init__(self) -> None:
        self.step: Step = Look()
        self.accessor = ""
        self._failures = 0
        self._unanswered = 0
        self._how = End.UNSEALED
        self._discard: list[str] = []

    @property
    def needs_token(self) -> bool:
        """Whether the token itself is still wanted; where not, it is to be dropped."""
        return isinstance(self.step, Look | Mint | Record | Deliver)

    def minted(self, accessor: str) -> Step:
        """Mint succeeded."""
        if not isinstance(self.step, Mint):
            raise ValueError(f"a token does not follow {type(self.step).__name__}")
        self.accessor = accessor
        return self._go(Record(accessor))

    def annotated(self, replaced: str) -> Step:
        """Annotate succeeded; `replaced` is the accessor that stood there for this container, or empty."""
        if not isinstance(self.step, Annotate):
            raise ValueError(f"an annotation does not follow {type(self.step).__name__}")
        self._discard = [replaced] if replaced and replaced != self.accessor else []
        return self._discard_next()

    def report(self, outcome: Outcome) -> Step:
        """The next step. ValueError when the outcome cannot come from the present one: a bug."""
        match self.step, outcome:
            case Look(), Outcome.DONE:
                return self._go(Mint())
            case Look() | Mint(), Outcome.SUPERSEDED:
                return self._go(Ended(End.SUPERSEDED))
            case Look() | Mint(), Outcome.REFUSED:
                return self._go(Ended(End.REFUSED))
            case Look(), Outcome.FAILED:
                return self._again(Look) or self._go(Ended(End.FAILED))
            case Look(), Outcome.UNANSWERED:
                self._unanswered += 1
                again = self._again(Look) if self._unanswered < WRAPPER_TRIES else None
                return again or self._go(Ended(End.FAILED))
            case Mint(), Outcome.FAILED:
                return self._again(Mint) or self._go(Ended(End.FAILED))
            case Record(), Outcome.DONE:
                return self._go(Deliver())
            case Record(accessor), Outcome.FAILED:
                return self._again(Record, accessor) or self._take_back(End.FAILED)
            case Deliver(), Outcome.DONE:
                return self._go(Annotate(self.accessor))
            case Deliver(), Outcome.SUPERSEDED:
                return self._take_back(End.SUPERSEDED)
            case Deliver(), Outcome.REFUSED | Outcome.FAILED:
                return self._take_back(End.FAILED)
            case Annotate(), Outcome.GONE:
                return self._take_back(End.SUPERSEDED)
            case Annotate(accessor), Outcome.FAILED:  # the ledger has it: the keeper will annotate
                return self._again(Annotate, accessor) or self._go(Ended(End.UNSEALED))
            case Revoke(accessor), Outcome.DONE:
                return self._go(Forget(accessor))
            case Revoke(accessor), Outcome.FAILED:  # the ledger has it: the keeper will revoke
                return self._again(Revoke, accessor) or self._discard_next()
            case Forget(), Outcome.DONE | Outcome.FAILED:  # what is forgotten too late is revoked twice
                return self._discard_next()
        raise ValueError(f"{outcome.name} does not follow {type(self.step).__name__}")

    def _take_back(self, how: End) -> Step:
        self._how = how
        self._discard = [self.accessor]
        return self._discard_next()

    def _discard_next(self) -> Step:
        if not self._discard:
            return self._go(Ended(self._how))
        return self._go(Revoke(self._discard.pop(0)))

    def _again(
        self, step: type[Look | Mint | Record | Annotate | Revoke], accessor: str | None = None
    ) -> Step | None:
        """The same step once more, later; None when that was often enough."""
        self._failures += 1
        if self._failures >= TRIES:
            return None
        delay = min(_MOST_DELAY, _FIRST_DELAY * 4.0 ** (self._failures - 1))
        self.step = step(delay=delay) if accessor is None else step(accessor, delay)  # type: ignore[call-arg, arg-type]
        return self.step

    def _go(self, step: Step) -> Step:
        self._failures = 0
        self.step = step
        return step
