"""Reads: which paths an impostor would have seen, bounded, and written down before they can be lost."""

from __future__ import annotations

import msgspec
import pytest

from cloudtaser.bridge.reads import COUNTS_EVERY, PATHS_LIMIT, SIZE_LIMIT, ReadKeeper, ReadLog, hands_out
from cloudtaser.bridge.verdict import Allowed, Kind
from cloudtaser.errors import UnavailableError
from cloudtaser.openbao.client import CasConflict
from cloudtaser.openbao.records import PathRead, Reads, instant

NOW = 1_800_000_000.0
DB = "secret/data/shop/db"


def asked(method: str, path: str, kind: Kind = Kind.FORWARD) -> Allowed:
    return Allowed(kind, method.encode(), b"", (), path)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", DB, 200),
        ("GET", "database/creds/shop", 200),
        ("GET", "database/metadata/x", 200),
        ("POST", "transit/decrypt/k", 200),
        ("PUT", "certificates/issue/web", 200),
    ],
)
def test_what_hands_something_out_counts(method: str, path: str, status: int) -> None:
    assert hands_out(asked(method, path), status)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "secret/metadata/shop/db", 200),
        ("LIST", "secret/metadata/shop", 200),
        ("SCAN", "database/roles", 200),
        ("POST", DB, 200),
        ("PUT", "kv1/x", 204),
        ("DELETE", DB, 204),
        ("GET", "auth/token/lookup-self", 200),
        ("GET", "sys/internal/ui/mounts", 200),
    ],
)
def test_what_names_things_or_stores_them_does_not(method: str, path: str, status: int) -> None:
    assert not hands_out(asked(method, path), status)


def test_a_login_is_no_read() -> None:
    assert not hands_out(asked("POST", "auth/jwt/login", Kind.LOGIN), 200)


def test_each_path_says_when_first_when_last_and_how_often() -> None:
    log = ReadLog()
    for after in (0, 5, 60):
        log.note(DB, NOW + after)
    assert log.record("b1") == Reads("b1", {DB: PathRead(instant(NOW), instant(NOW + 60), 3)})


def test_the_record_is_bounded_in_paths_and_counts_what_found_no_place() -> None:
    log = ReadLog()
    for number in range(PATHS_LIMIT + 7):
        log.note(f"{number:x}", NOW)
    log.note("0", NOW)
    record = log.record("b1")
    assert (len(record.paths), record.dropped, record.paths["0"].count) == (PATHS_LIMIT, 7, 2)


def test_the_record_is_bounded_in_bytes() -> None:
    log = ReadLog()
    for number in range(3000):
        log.note(f"secret/data/{number}/" + "x" * 1000, NOW)
    log.merge(Reads("b1", {f"y/{number}": PathRead(instant(NOW), instant(NOW), 9) for number in range(9000)}))
    written = msgspec.json.encode(log.record("b1"))
    assert SIZE_LIMIT * 0.9 < len(written) < SIZE_LIMIT < 1024 * 1024, "OpenBao's storage takes no more"
    assert log.record("b1").dropped > 0


def test_two_runs_of_a_bridge_are_one_record() -> None:
    log = ReadLog()
    log.note(DB, NOW)
    log.note("secret/data/shop/new", NOW)
    log.merge(Reads("b1", {DB: PathRead(instant(NOW - 90), instant(NOW - 30), 4)}, dropped=2))
    record = log.record("b1")
    assert record.paths[DB] == PathRead(instant(NOW - 90), instant(NOW), 5)
    assert (len(record.paths), record.dropped) == (2, 2)


class Store:
    """The record of one bridge in OpenBao."""

    def __init__(self) -> None:
        self.record: Reads | None = None
        self.version = 0
        self.writes = 0
        self.down = False
        self.registered = True

    async def is_registered(self, _: str) -> bool:
        return self.registered

    async def reads_of(self, *_: str) -> tuple[Reads | None, int]:
        if self.down:
            raise UnavailableError("sealed")
        return self.record, self.version

    async def write_reads(self, _: str, record: Reads, cas: int) -> int:
        if self.down:
            raise UnavailableError("sealed")
        if cas != self.version:
            raise CasConflict("changed")
        self.writes += 1
        self.record, self.version = record, self.version + 1
        return self.version


class Bridge:
    def __init__(self, store: Store) -> None:
        self.log = ReadLog()
        self.keeper = ReadKeeper(store, "f", "b1", self.log)  # type: ignore[arg-type]  # as far as it is used

    async def read(self, path: str, at: float, *, whole: bool = False) -> None:
        self.log.note(path, at)
        await self.keeper.flush(at, whole=whole)


async def test_a_new_path_is_written_with_the_next_beat_and_mere_counts_seldom() -> None:
    store = Store()
    bridge = Bridge(store)
    await bridge.read(DB, NOW)
    assert store.writes == 1
    await bridge.read(DB, NOW + 60)
    await bridge.read(DB, NOW + 120)
    assert store.writes == 1
    await bridge.read(DB, NOW + COUNTS_EVERY)
    assert store.writes == 2
    assert store.record is not None
    assert store.record.paths[DB].count == 4
    await bridge.keeper.flush(NOW + 9 * COUNTS_EVERY)
    assert store.writes == 2, "nothing happened since"


async def test_at_the_end_everything_is_written() -> None:
    store = Store()
    bridge = Bridge(store)
    await bridge.read(DB, NOW)
    await bridge.read(DB, NOW + 1, whole=True)
    assert store.record is not None
    assert store.record.paths[DB].count == 2


async def test_a_bridge_that_starts_again_goes_on_with_its_record() -> None:
    store = Store()
    await Bridge(store).read(DB, NOW)
    await Bridge(store).read(DB, NOW + 700)
    assert store.record is not None
    assert store.record.paths[DB] == PathRead(instant(NOW), instant(NOW + 700), 2)


async def test_while_openbao_is_down_nothing_is_lost() -> None:
    store = Store()
    bridge = Bridge(store)
    await bridge.read(DB, NOW)
    store.down = True
    with pytest.raises(UnavailableError):
        await bridge.read("secret/data/shop/new", NOW + 60)
    store.down = False
    await bridge.keeper.flush(NOW + 120)
    assert store.record is not None
    assert "secret/data/shop/new" in store.record.paths


async def test_what_was_listed_and_forgotten_at_a_reset_does_not_come_back() -> None:
    store = Store()
    bridge = Bridge(store)
    await bridge.read(DB, NOW)
    store.record, store.version = None, 0
    await bridge.read("secret/data/shop/late", NOW + 60)
    assert store.writes == 1
    await bridge.read("secret/data/shop/after", NOW + 120)
    found, _ = await store.reads_of()
    assert found is not None
    assert found.paths.keys() == {"secret/data/shop/after"}


async def test_nothing_is_begun_for_a_cluster_that_was_deregistered() -> None:
    store = Store()
    bridge = Bridge(store)
    store.registered = False
    await bridge.read(DB, NOW)
    assert (store.record, store.writes) == (None, 0)
    store.registered = True
    await bridge.read("secret/data/shop/anew", NOW + 60)
    assert store.record is not None
    assert store.record.paths.keys() == {"secret/data/shop/anew"}, "another registration's are its own"


async def test_two_processes_of_one_name_lose_no_path() -> None:
    store = Store()
    one, other = Bridge(store), Bridge(store)
    await one.read("secret/data/a", NOW)
    await other.read("secret/data/b", NOW)
    await one.read("secret/data/c", NOW + 60)
    await one.keeper.flush(NOW + 120)
    assert store.record is not None
    assert store.record.paths.keys() == {"secret/data/a", "secret/data/b", "secret/data/c"}
