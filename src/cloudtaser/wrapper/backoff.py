"""Backoff with full jitter: how long to wait before the next attempt (spec/wire.md: 0.2 s to 4 s).

Used by `session`. Randomness comes from the kernel: the `random` module is not ours to import.
"""

import posix

FIRST = 0.2
LIMIT = 4.0


class Backoff:
    """Each `next` draws from a range that doubles up to the limit; `reset` after a success."""

    __slots__ = ("_ceiling", "_first", "_limit")

    def __init__(self, first: float = FIRST, limit: float = LIMIT) -> None:
        self._first = first
        self._limit = limit
        self._ceiling = first

    def next(self) -> float:
        """Seconds to wait."""
        ceiling = self._ceiling
        self._ceiling = min(self._limit, 2 * ceiling)
        return ceiling * fraction()

    def reset(self) -> None:
        """Begin again at the first range."""
        self._ceiling = self._first


def fraction() -> float:
    """A random number in [0, 1)."""
    return int.from_bytes(posix.urandom(6), "big") / (1 << 48)


def about(seconds: float, spread: float = 0.1) -> float:
    """`seconds`, give or take `spread` of it, so that a fleet does not move in step."""
    return seconds * (1 - spread + 2 * spread * fraction())
