"""Rotation: which of a replica's certificates is served, and which CAs API servers have to know meanwhile.

Used by `serving`. Pure: the caller passes the time and says which CAs the leader has put into the webhook
configurations. The order is what keeps every admission: a CA is published, then known, then for a while still
only known (an API server may be late), and only then is its certificate served; the former CA stays published
for as long afterwards. Only keys that are out of their time are replaced at once: nobody takes them anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Final

from cloudtaser.operator.serving_keys import BACKDATED, ServingKeys

RENEW_AT: Final = 2 / 3
SETTLE: Final = 15.0
"""Seconds between that a CA is known and that its certificate is served, and again until the former is let
go: by then every API server has seen the change."""
FIRST_SETTLE: Final = 2.0
"""The same at a replica's start, where nothing is served yet."""
FIRST_PATIENCE: Final = 90.0
"""Seconds after which a replica is taken for ready though nobody confirmed its CA: pods that are running need
its broker."""


class Rotation:
    """One replica's keys. `tick` it once in a while."""

    def __init__(
        self,
        make: Callable[[float], ServingKeys],
        now: float,
        *,
        settle: float = SETTLE,
        first_settle: float = FIRST_SETTLE,
        patience: float = FIRST_PATIENCE,
    ) -> None:
        """`make(now)` makes new keys."""
        self._make = make
        self._settle = settle
        self._first_settle = first_settle
        self._patience = patience
        self._began = now
        self.current = make(now)
        self._next: ServingKeys | None = None
        self._former: ServingKeys | None = None
        self._known_since: float | None = None
        self._first_known_since: float | None = None
        self._drop_at = 0.0
        self._due_at = _due(self.current)
        self.confirmed = False
        """Whether API servers know the certificate that is served, or have had long enough to."""

    @property
    def published(self) -> str:
        """The CAs that API servers shall know, PEM."""
        return "".join(one.ca_pem for one in (self.current, self._next, self._former) if one is not None)

    def renew(self) -> None:
        """Rotate at the next tick, whatever the time."""
        self._due_at = float("-inf")

    def tick(self, now: float, known: Set[str]) -> bool:
        """What time it is, and which CAs the configurations hold. True when `current` is another one now."""
        if _early(self.current, now):
            self._restart(now)
            return True
        self._set_back(now)
        if not self.confirmed:
            self._confirm(now, known)
        if self._former is not None and now >= self._drop_at:
            self._former = None
        if self._next is None:
            if now >= self._due_at:
                self._next = self._make(now)
                self._known_since = None
                self._due_at = float("inf")
            return False
        if self._next.ca_id not in known:
            self._known_since = None
        elif self._known_since is None:
            self._known_since = now
        settled = self._known_since is not None and now >= self._known_since + self._settle
        if not settled and now < self.current.not_after:
            return False
        self._former, self.current, self._next = self.current, self._next, None
        self._drop_at = now + self._settle
        self._due_at = _due(self.current)
        return True

    def _restart(self, now: float) -> None:
        """As at a start: the clock was ahead when our keys were made, so that API servers refuse them now."""
        self.current, self._next, self._former = self._make(now), None, None
        self._due_at = _due(self.current)
        self._began, self._first_known_since, self.confirmed = now, None, False

    def _set_back(self, now: float) -> None:
        """Nothing that we wait for began later than now; a next one from the future is made anew when due."""
        if self._next is not None and _early(self._next, now):
            self._next, self._due_at = None, _due(self.current)
        self._began = min(self._began, now)
        self._drop_at = min(self._drop_at, now + self._settle)
        if self._known_since is not None:
            self._known_since = min(self._known_since, now)
        if self._first_known_since is not None:
            self._first_known_since = min(self._first_known_since, now)

    def _confirm(self, now: float, known: Set[str]) -> None:
        if now >= self._began + self._patience:
            self.confirmed = True
        elif self.current.ca_id not in known:
            self._first_known_since = None
        elif self._first_known_since is None:
            self._first_known_since = now
        elif now >= self._first_known_since + self._first_settle:
            self.confirmed = True


def _early(keys: ServingKeys, now: float) -> bool:
    """Whether they are not good yet."""
    return now < keys.not_before - BACKDATED.total_seconds()


def _due(keys: ServingKeys) -> float:
    return keys.not_before + (keys.not_after - keys.not_before) * RENEW_AT
