"""Limits: what is overdue, how many descriptors there are.

Used by `server`. Pure but for `raise_descriptor_limit`: the caller passes `now`.
"""

from __future__ import annotations

import resource
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

DESCRIPTORS_RESERVED: Final = 100


class Deadlines(Generic[K]):
    """Things that all have the same time to finish, so that who came first is due first."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._at: dict[K, float] = {}

    def __len__(self) -> int:
        return len(self._at)

    def start(self, thing: K, now: float) -> None:
        """`thing` has from now on its time."""
        self._at.pop(thing, None)
        self._at[thing] = now + self.seconds

    def stop(self, thing: K) -> bool:
        """`thing` is done, or gone; whether it still had time."""
        return self._at.pop(thing, None) is not None

    def overdue(self, now: float) -> list[K]:
        """The things whose time is over; they are no longer kept."""
        late = []
        for thing, at in self._at.items():
            if at > now:
                break
            late.append(thing)
        for thing in late:
            del self._at[thing]
        return late


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one; the limit that holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError):
            pass  # an unlimited hard limit above the kernel's own; what we have is what we use
    return soft if soft > 0 else 1 << 20


def default_max_pairs(descriptors: int) -> int:
    """Half the descriptors, less some for listeners, files and those who are still parked."""
    return max(descriptors // 2 - DESCRIPTORS_RESERVED, 1)
