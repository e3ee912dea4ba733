"""Rooms: which there are for a registration, and that a room which stays wanted is never left."""

from __future__ import annotations

from cloudtaser.bridge.authorities import Authority
from cloudtaser.bridge.registry import Room
from cloudtaser.bridge.rooms import Invite, Place, Rooms, places
from cloudtaser.wire.hashes import init_room, operational_room, return_room
from tests.unit.operator.parties import FINGERPRINT

OLD, NEW = Authority("", b"old"), Authority("", b"new")
INIT = Room.INIT, init_room(FINGERPRINT)
AS_BEFORE = {
    (Room.OPERATIONAL, operational_room(b"old")),
    (Room.RETURN, return_room(b"old")),
}


class FakeParker:
    def __init__(self, place: Place, invite: Invite) -> None:
        self.place = place
        self.parked, self.busy = 0, True
        self.events: list[str] = []

    def start(self) -> None:
        self.parked = 2
        self.events.append("started")

    def leave(self) -> None:
        self.events.append("left")

    async def close(self) -> None:
        self.events.append("closed")


class House:
    def __init__(self) -> None:
        self.parkers: list[FakeParker] = []
        self.rooms = Rooms(self._parker)  # type: ignore[arg-type]  # as far as rooms use one

    def _parker(self, place: Place, invite: Invite) -> FakeParker:
        self.parkers.append(FakeParker(place, invite))
        return self.parkers[-1]

    def enter(self, *authorities: Authority) -> None:
        found = places(FINGERPRINT, authorities, frozenset({Room.OPERATIONAL, Room.RETURN}))
        self.rooms.enter({place: lambda: None for place in found})  # type: ignore[misc,return-value]


def test_each_tunnel_ca_has_its_rooms_and_the_init_room_belongs_to_none() -> None:
    found = places(FINGERPRINT, (NEW, OLD), frozenset(Room))
    assert len(found) == 5
    assert found[INIT] is None
    assert {place for place, authority in found.items() if authority == OLD} == AS_BEFORE
    assert places(FINGERPRINT, (NEW, OLD), frozenset()) == {}


def test_a_rotation_enters_rooms_and_leaves_none_and_its_end_leaves_the_former() -> None:
    house = House()
    house.enter(OLD)
    before = list(house.parkers)
    house.enter(NEW, OLD)
    assert len(house.parkers) == 4
    assert all(parker.events == ["started"] for parker in house.parkers)
    current = places(FINGERPRINT, (NEW,), frozenset(Room))
    assert house.rooms.parked(current) == {
        "operational": 2, "return": 2, "former operational": 2, "former return": 2,
    }  # fmt: skip
    house.enter(NEW)
    assert {parker.place for parker in before} == AS_BEFORE
    assert all(parker.events == ["started", "left"] for parker in before)
    assert house.rooms.parked(current) == {"operational": 2, "return": 2}


async def test_whoever_was_met_in_a_room_that_was_left_is_shown_out_at_the_end() -> None:
    house = House()
    house.enter(OLD)
    house.rooms.keep(())
    await house.rooms.close()
    assert all(parker.events == ["started", "left", "closed"] for parker in house.parkers)
    assert house.rooms[Room.OPERATIONAL, operational_room(b"old")] is None
