"""Rates: how often something may happen for each of many keys, at the price of one number a key.

Used by bridge and operator. Each key has a bucket that refills at a steady rate (the generic cell rate
algorithm). Tables are bounded; forgotten first is what was not seen for longest, which by then has a full
bucket anyway. Pure: the caller passes `now` (seconds, any steady clock).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

from cloudtaser.errors import ConfigError

TABLE_SIZE: Final = 65536
_MOST: Final = 1e6


@dataclass(frozen=True, slots=True)
class Rate:
    """`burst` requests at once, then `per_second`."""

    per_second: float
    burst: float

    def __post_init__(self) -> None:
        if not (0 < self.per_second <= _MOST and 1 <= self.burst <= _MOST):
            raise ValueError("a rate needs a positive speed and a burst of at least one")

    @classmethod
    def parse(cls, text: str) -> Rate:
        """`20/200`: twenty a second, two hundred at once. ConfigError for anything else."""
        speed, slash, burst = text.partition("/")
        try:
            if slash:
                return cls(float(speed), float(burst))
        except ValueError:
            pass
        raise ConfigError(f"{text!r} is no rate", fix="requests a second and at once, as 20/200")

    def __str__(self) -> str:
        return f"{self.per_second:g}/{self.burst:g}"


class Buckets:
    """One bucket per key, at most `size` of them."""

    __slots__ = ("_interval", "_size", "_slack", "_spent")

    def __init__(self, rate: Rate, size: int = TABLE_SIZE) -> None:
        self._interval = 1 / rate.per_second
        self._slack = (rate.burst - 1) * self._interval
        self._size = size
        self._spent: OrderedDict[Hashable, float] = OrderedDict()

    def take(self, key: Hashable, now: float) -> float:
        """0.0 and one request less for `key`, or the seconds after which to come back."""
        spent = self._spent
        full_at = spent.get(key, now)
        if full_at < now:
            full_at = now
        wait = full_at - now - self._slack
        if wait > 1e-9:
            return wait
        spent[key] = full_at + self._interval
        spent.move_to_end(key)
        if len(spent) > self._size:
            spent.popitem(last=False)
        return 0.0

    def __len__(self) -> int:
        return len(self._spent)
