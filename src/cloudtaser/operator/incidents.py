"""Incidents: the last errors of tunnels, beacons and pipes, for a person who asks why nothing gets through.

`beacons`, `tunnels`, `enrol` and `broker` record here what they log, whether or not it is logged each time;
`controllers.report` shows it in a DebugReport. The broker's are fetched by the manager through its socket.
Bounded; holds what errors say, which never is a secret.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cloudtaser.errors import CloudtaserError
from cloudtaser.net.rendezvous import BeaconRefusedError

KEPT: Final = 100
LAST_TIME: Final = 253_402_300_799
"""Unix seconds of the end of the year 9999, the last that a date can be; NaN is not before it."""
_MAX_TEXT: Final = 400
_WORD: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class Incident:
    """One error."""

    time: float
    """Unix seconds."""
    part: str
    """beacon, tunnel, enrolment, relay."""
    code: str
    """One word for programs."""
    message: str
    beacon: str = ""
    """At which beacon, or from where; empty where there is none."""
    delay: float | None = None
    """Seconds until the next attempt, where one is due."""

    def to_json(self) -> dict[str, Any]:
        """As it goes from the broker to the manager."""
        return {
            "time": self.time,
            "part": self.part,
            "code": self.code,
            "message": self.message,
            "beacon": self.beacon,
            "delay": self.delay,
        }

    @classmethod
    def from_json(cls, fields: object) -> Incident | None:
        """The other way; None for what is none. The broker is not believed more than it must be."""
        match fields:
            case {
                "time": float() | int() as at,
                "part": str(part),
                "code": str(code),
                "message": str(message),
                "beacon": str(beacon),
                "delay": float() | int() | None as delay,
            } if 0 <= at <= LAST_TIME and (delay is None or 0 <= delay <= LAST_TIME):
                return cls(
                    float(at),
                    _clean(part, 32),
                    _clean(code, 64),
                    _clean(message, _MAX_TEXT),
                    _clean(beacon, 300),
                    None if delay is None else float(delay),
                )
        return None


class Incidents:
    """The last KEPT of one process."""

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._kept: deque[Incident] = deque(maxlen=KEPT)
        self.count = 0
        """All that ever were."""

    def record(
        self, part: str, error: CloudtaserError, *, beacon: str = "", delay: float | None = None
    ) -> None:
        """`delay`: seconds until the next attempt."""
        self.note(part, code_of(error), error.diagnostic(), beacon=beacon, delay=delay)

    def note(
        self, part: str, code: str, message: str, *, beacon: str = "", delay: float | None = None
    ) -> None:
        """The same for what is no exception."""
        self.count += 1
        self._kept.append(
            Incident(
                self._now(),
                part,
                code,
                _clean(message, _MAX_TEXT),
                beacon,
                None if delay is None else round(delay, 3),
            )
        )

    def all(self) -> Sequence[Incident]:
        """The oldest first."""
        return tuple(self._kept)


def code_of(error: CloudtaserError) -> str:
    """One word: what a beacon answered, or the kind of error."""
    if isinstance(error, BeaconRefusedError):
        return error.refusal.name.lower().replace("_", "-")
    name = type(error).__name__.removesuffix("Error") or "Error"
    return _WORD.sub("-", name).lower()


def _clean(text: str, limit: int) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text[:limit])
