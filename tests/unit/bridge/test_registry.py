"""Registrations: what records mean, and that one bad one never stops the others."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import Callable

import pytest

from cloudtaser.bridge.registry import Registry, Room, Snapshot, replaces, rooms_of
from cloudtaser.errors import CloudtaserError, ProtocolError, UnavailableError
from cloudtaser.openbao.records import Former, Grants, Initialized, Keys, Registered, Revoked, instant

NOW = 1_800_000_000.0


def registered(fingerprint: str = "", **changes: object) -> Registered:
    record = Registered(
        fingerprint=fingerprint or str(uuid.uuid4()),
        created_at=instant(NOW),
        created_by="admin",
        expires_at=instant(NOW + 86400),
        init_room="",
        info_hash="",
        tunnel_ca="tunnel CA",
        pod_ca="pod CA",
        space="0ad50c05",
        namespace="cloudtaser/0ad50c05",
        operator_subject="system:serviceaccount:cloudtaser-system:cloudtaser-operator",
    )
    return dataclasses.replace(record, **changes)  # type: ignore[arg-type]  # the test names real fields


def initialized(at: float = NOW) -> Initialized:
    return Initialized(instant(at), "b1", {"keys": []}, "issuer", "ca", "subject", "00")


def snapshot(record: Registered | None = None, first: Initialized | None = None) -> Snapshot:
    return Snapshot(record or registered(), first, None, 0, Revoked(), Grants())


# What records mean


def test_before_initialisation_there_is_one_room() -> None:
    assert rooms_of(snapshot(), NOW) == {Room.INIT}


def test_an_unused_registration_lapses_after_a_day() -> None:
    assert rooms_of(snapshot(), NOW + 86399) == {Room.INIT}
    assert rooms_of(snapshot(), NOW + 86400) == frozenset()


def test_the_init_room_stays_open_for_ten_minutes_after_initialisation() -> None:
    used = snapshot(first=initialized())
    assert rooms_of(used, NOW + 599) == {Room.INIT, Room.OPERATIONAL, Room.RETURN}
    assert rooms_of(used, NOW + 600) == {Room.OPERATIONAL, Room.RETURN}
    assert rooms_of(used, NOW + 10 * 86400) == {Room.OPERATIONAL, Room.RETURN}


def test_a_suspended_cluster_is_met_nowhere() -> None:
    assert rooms_of(snapshot(registered(suspended=True), initialized()), NOW) == frozenset()


@pytest.mark.parametrize(
    "changes",
    [{"tunnel_ca": "x"}, {"pod_ca": "x"}, {"created_at": "x"}, {"namespace": "x"}, {"join_psk": "00"}],
)
def test_another_ca_or_registration_is_another_cluster(changes: dict[str, object]) -> None:
    old = snapshot(first=initialized())
    new = dataclasses.replace(old, registered=dataclasses.replace(old.registered, **changes))  # type: ignore[arg-type]
    assert replaces(old, new)


def test_a_rotation_replaces_no_cluster_from_its_beginning_to_its_end() -> None:
    old = snapshot(first=initialized())
    former = Former("tunnel CA", "1", instant(NOW)), Former("pod CA", "2", instant(NOW))
    rotating = dataclasses.replace(
        old,
        registered=dataclasses.replace(
            old.registered,
            tunnel_ca="next tunnel CA",
            pod_ca="next pod CA",
            former_tunnel_ca=former[0],
            former_pod_cas=(former[1],),
            endorsement="PEM",
        ),
    )
    finished = dataclasses.replace(
        rotating,
        registered=dataclasses.replace(rotating.registered, former_tunnel_ca=None, former_pod_cas=()),
    )
    assert not replaces(old, rotating)
    assert not replaces(rotating, finished)
    assert replaces(old, finished), "of that rotation nothing was seen here"
    renewed = dataclasses.replace(old.registered, rotated_at=instant(NOW))
    assert not replaces(old, dataclasses.replace(old, registered=renewed))


def test_a_reset_replaces_and_an_initialisation_does_not() -> None:
    fresh, used = snapshot(), None
    used = dataclasses.replace(fresh, initialized=initialized())
    assert not replaces(fresh, used)
    assert not replaces(used, used)
    assert replaces(used, fresh)
    assert replaces(used, dataclasses.replace(used, initialized=initialized(NOW + 1)))


def test_suspension_revocation_and_grants_change_a_cluster_but_replace_none() -> None:
    old = snapshot(first=initialized())
    new = dataclasses.replace(
        old,
        registered=dataclasses.replace(old.registered, suspended=True),
        revoked=Revoked(("0a:0b",)),
        keys=Keys({"keys": []}, instant(NOW), "b2"),
        keys_version=4,
    )
    assert not replaces(old, new)


# The poll


class MemoryRecords:
    """Records in memory; whatever is an error is raised."""

    def __init__(self) -> None:
        self.found: dict[str, Snapshot | CloudtaserError] = {}
        self.down: CloudtaserError | None = None
        self.damaged = False
        """Whether the keys of every cluster are."""

    async def clusters(self) -> list[str]:
        if self.down:
            raise self.down
        return [*self.found, "not-a-fingerprint"]

    def _of(self, fingerprint: str) -> Snapshot | None:
        found = self.found.get(fingerprint)
        if isinstance(found, CloudtaserError):
            raise found
        return found

    async def registered(self, fingerprint: str) -> Registered | None:
        found = self._of(fingerprint)
        return found.registered if found else None

    async def initialized(self, fingerprint: str) -> Initialized | None:
        found = self._of(fingerprint)
        return found.initialized if found else None

    async def keys(self, _: str) -> tuple[Keys | None, int]:
        if self.damaged:
            raise ProtocolError("a record in OpenBao is damaged")
        return None, 0

    async def revoked(self, _: str) -> Revoked:
        return Revoked()

    async def grants(self, _: str) -> Grants:
        return Grants()


class RecordingStation:
    def __init__(self, snapshot: Snapshot, fails: Exception | None = None) -> None:
        self.first = snapshot
        self.rooms: list[frozenset[Room]] = []
        self.closed = False
        self.fails = fails

    async def attend(self, snapshot: Snapshot, rooms: frozenset[Room]) -> None:
        if self.fails:
            raise self.fails
        self.rooms.append(rooms)

    async def close(self) -> None:
        self.closed = True


class House:
    def __init__(self, fails: Callable[[Snapshot], Exception | None] = lambda _: None) -> None:
        self.records = MemoryRecords()
        self.stations: list[RecordingStation] = []
        self.fails = fails
        self.registry = Registry(
            self.records,  # type: ignore[arg-type]  # the part of Records that a poll uses
            self._open,
            now=lambda: NOW,
            interval=0.01,
        )

    def _open(self, snapshot: Snapshot) -> RecordingStation:
        station = RecordingStation(snapshot, self.fails(snapshot))
        self.stations.append(station)
        return station

    def add(self, first: Initialized | None = None) -> str:
        found = snapshot(first=first)
        self.records.found[found.registered.fingerprint] = found
        return found.registered.fingerprint


async def test_a_station_follows_its_registration() -> None:
    house = House()
    fingerprint = house.add()
    await house.registry.poll()
    await house.registry.poll()
    (station,) = house.stations
    assert station.rooms == [frozenset({Room.INIT})] * 2
    del house.records.found[fingerprint]
    await house.registry.poll()
    assert station.closed


async def test_a_cluster_made_anew_gets_a_new_station() -> None:
    house = House()
    fingerprint = house.add(initialized())
    await house.registry.poll()
    house.records.found[fingerprint] = snapshot(registered(fingerprint, tunnel_ca="another"))
    await house.registry.poll()
    old, new = house.stations
    assert old.closed
    assert not new.closed
    assert new.first.registered.tunnel_ca == "another"


async def test_one_unreadable_registration_does_not_stop_the_others_nor_close_its_own() -> None:
    house = House()
    fingerprints = [house.add() for _ in range(5)]
    await house.registry.poll()
    house.records.found[fingerprints[2]] = ProtocolError("a record in OpenBao is damaged")
    await house.registry.poll()
    assert sorted(len(station.rooms) for station in house.stations) == [1, 2, 2, 2, 2]
    assert not any(station.closed for station in house.stations)


@pytest.mark.parametrize("changes", [{"suspended": True}, {"tunnel_ca": "x"}, {"created_at": "x"}])
async def test_no_damaged_record_keeps_the_tunnels_of_a_suspended_or_reset_cluster_open(
    changes: dict[str, object],
) -> None:
    house = House()
    fingerprint = house.add(initialized())
    await house.registry.poll()
    house.records.damaged = True
    await house.registry.poll()
    assert [station.closed for station in house.stations] == [False]
    found = house.records.found[fingerprint]
    assert isinstance(found, Snapshot)
    house.records.found[fingerprint] = dataclasses.replace(
        found,
        registered=dataclasses.replace(found.registered, **changes),  # type: ignore[arg-type]  # real fields
    )
    await house.registry.poll()
    assert [station.closed for station in house.stations] == [True]
    house.records.damaged = False
    await house.registry.poll()
    assert [station.closed for station in house.stations] == [True, False]


@pytest.mark.parametrize("failure", [UnavailableError("sealed"), ZeroDivisionError("a bug")])
async def test_one_station_that_fails_does_not_stop_the_others(failure: Exception) -> None:
    house = House(fails=lambda found: failure if found.initialized else None)
    house.add(initialized())
    house.add()
    await house.registry.poll()
    assert sorted(len(station.rooms) for station in house.stations) == [0, 1]


async def test_while_openbao_is_down_everything_stays() -> None:
    house = House()
    house.add(initialized())
    await house.registry.poll()
    polled = house.registry.polled_at
    house.records.down = UnavailableError("OpenBao cannot be reached")
    await house.registry.poll()
    assert not house.stations[0].closed
    assert house.registry.polled_at == polled


async def test_it_says_when_everything_was_looked_at_once() -> None:
    house = House()
    house.records.down = UnavailableError("OpenBao cannot be reached")
    await house.registry.poll()
    assert not house.registry.polled.is_set()
    house.records.down = None
    await house.registry.poll()
    assert house.registry.polled.is_set()


async def test_it_stops_when_told() -> None:
    house = House()
    stop = asyncio.Event()
    running = asyncio.create_task(house.registry.run(stop))
    stop.set()
    async with asyncio.timeout(30):
        await running


async def test_closing_closes_every_station() -> None:
    house = House()
    house.add()
    house.add()
    await house.registry.poll()
    await house.registry.close()
    assert all(station.closed for station in house.stations)
