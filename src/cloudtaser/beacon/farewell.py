"""Farewell: in which order a beacon that is going ends the pairs that do not finish by themselves.

Used by `server` while it drains. A cluster with several tunnels through this beacon loses them one at a time,
so that it can make one anew elsewhere, and go on by the others, before the next is ended. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from typing import TypeVar

P = TypeVar("P", bound=Hashable)


def partings(pairs: Iterable[tuple[P, bytes]], grace: float) -> list[tuple[float, P]]:
    """Which pair to end how many seconds after the start, earliest first. Each comes with its room; of a
    room's pairs one is left for the end of the grace period, and so is a room's only one."""
    rooms: dict[bytes, list[P]] = defaultdict(list)
    for pair, room in pairs:
        rooms[room].append(pair)
    schedule = [
        (grace * number / len(together), pair)
        for together in rooms.values()
        for number, pair in enumerate(together[:-1], 1)
    ]
    return sorted(schedule, key=lambda parting: parting[0])
