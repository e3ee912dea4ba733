"""The rooms in which a bridge waits for one cluster: those of every tunnel CA that it serves.

Used by `station`, which says who receives whom; `parker` does the waiting in each. A room that stays wanted
stays entered, whatever else changes: at a rotation the rooms of the former CA are the same as before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeAlias

from cloudtaser.bridge.authorities import Authority
from cloudtaser.bridge.parker import Guest, Parker
from cloudtaser.bridge.registry import Room
from cloudtaser.wire.hashes import init_room, operational_room, return_room

Place: TypeAlias = tuple[Room, bytes]
"""What a room is for, and its hash."""
Invite: TypeAlias = Callable[[], Guest]


def places(
    fingerprint: str, authorities: Iterable[Authority], rooms: Collection[Room]
) -> dict[Place, Authority | None]:
    """Every room of these kinds, and the tunnel CA that it belongs to (None: the init room)."""
    found: dict[Place, Authority | None] = {}
    if Room.INIT in rooms:
        found[Room.INIT, init_room(fingerprint)] = None
    for authority in authorities:
        if Room.OPERATIONAL in rooms:
            found[Room.OPERATIONAL, operational_room(authority.der)] = authority
        if Room.RETURN in rooms:
            found[Room.RETURN, return_room(authority.der)] = authority
    return found


class Rooms:
    """Where a bridge is parked for one cluster."""

    def __init__(self, parker: Callable[[Place, Invite], Parker]) -> None:
        """`parker` makes the one who waits in a room."""
        self._parker = parker
        self._entered: dict[Place, Parker] = {}
        self._left: list[Parker] = []

    def __getitem__(self, place: Place) -> Parker | None:
        """Whoever waits there."""
        return self._entered.get(place)

    def enter(self, wanted: Mapping[Place, Invite]) -> None:
        """Be in these rooms and no others."""
        self.keep(wanted.keys())
        for place in wanted.keys() - self._entered.keys():
            self._entered[place] = self._parker(place, wanted[place])
            self._entered[place].start()

    def keep(self, wanted: Collection[Place]) -> None:
        """Leave all others; whoever was met in one of them is seen through."""
        self._left = [parker for parker in self._left if parker.busy]
        for place in [place for place in self._entered if place not in wanted]:
            parker = self._entered.pop(place)
            parker.leave()
            self._left.append(parker)

    def parked(self, current: Collection[Place]) -> dict[str, int]:
        """Spares in each room, by what it is for; `former` before those that are not among the `current`."""
        return {
            place[0].value if place in current else f"former {place[0].value}": parker.parked
            for place, parker in sorted(self._entered.items())
        }

    async def close(self) -> None:
        """Leave all rooms, and show out whoever was met."""
        self.keep(())
        await asyncio.gather(*(parker.close() for parker in self._left))
