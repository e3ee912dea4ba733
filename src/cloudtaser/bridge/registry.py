"""The registrations: read from OpenBao every few seconds, and one station each kept in step with them.

Used by `service`. What a set of records means (`rooms_of`, `replaces`) is pure and decided here; what a
station does about it is its own business. A record that cannot be read stops nothing but itself, and is
reported once.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from cloudtaser.bridge.authorities import continues
from cloudtaser.bridge.bootstrap import initialisable_again
from cloudtaser.errors import CloudtaserError
from cloudtaser.net.log import get_logger
from cloudtaser.openbao.records import Grants, Initialized, Keys, Records, Registered, Revoked
from cloudtaser.wire.hashes import is_fingerprint, short_fingerprint

READERS: Final = 8
"""Clusters whose records are read at a time."""
JITTER: Final = 0.2
"""Part of the poll interval by which a poll comes earlier or later."""

_log = get_logger("bridge.registry")


class Room(enum.StrEnum):
    """Where a bridge waits for a cluster's operator."""

    INIT = "init"
    OPERATIONAL = "operational"
    RETURN = "return"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One cluster's records as they were at one poll."""

    registered: Registered
    initialized: Initialized | None
    keys: Keys | None
    keys_version: int
    revoked: Revoked
    grants: Grants


def rooms_of(snapshot: Snapshot, now: float) -> frozenset[Room]:
    """The rooms to wait in (`now`: seconds since the epoch). None of them means: no tunnels either."""
    registered, initialized = snapshot.registered, snapshot.initialized
    if registered.suspended:
        return frozenset()
    if initialized is None:
        return frozenset() if registered.lapsed(now) else frozenset({Room.INIT})
    rooms = frozenset({Room.OPERATIONAL, Room.RETURN})
    return rooms | {Room.INIT} if initialisable_again(initialized, now) else rooms


def replaces(old: Snapshot, new: Snapshot) -> bool:
    """Whether `new` is another cluster under the same fingerprint, to which no open tunnel belongs: its
    registration was made anew, it was reset, or a CA changed that is not among the former ones now."""
    return _made_anew(old.registered, new.registered) or _came_in_anew(old, new)


def ends(old: Registered, new: Registered) -> bool:
    """Whether the registration by itself says that no open tunnel may stay, so that no other record can keep
    one open: it is suspended, or made anew."""
    return new.suspended or _made_anew(old, new)


def _made_anew(one: Registered, other: Registered) -> bool:
    if (one.created_at, one.space, one.namespace) != (other.created_at, other.space, other.namespace):
        return True
    return one.join_psk != other.join_psk or not continues(one, other)


def _came_in_anew(old: Snapshot, new: Snapshot) -> bool:
    return old.initialized is not None and old.initialized != new.initialized


class Station(Protocol):
    """What the registry needs of `station.Station`."""

    async def attend(self, snapshot: Snapshot, rooms: frozenset[Room]) -> None:
        """Called with every poll: bring everything in step with the records."""

    async def close(self) -> None:
        """Leave all rooms and close all tunnels at once."""


class Registry:
    """All clusters that this bridge serves."""

    def __init__(
        self,
        records: Records,
        open_station: Callable[[Snapshot], Station],
        *,
        now: Callable[[], float],
        interval: float,
    ) -> None:
        self._records = records
        self._open_station = open_station
        self._now = now
        self._interval = interval
        self._stations: dict[str, tuple[Station, Snapshot]] = {}
        self._complaints: dict[str, str] = {}
        self._readers = asyncio.Semaphore(READERS)
        self.polled_at = 0.0
        """Wall clock of the last poll that OpenBao answered."""
        self.polled = asyncio.Event()
        """Set when the first poll is over: every registration that can be read has been."""

    async def run(self, stop: asyncio.Event) -> None:
        """Poll until `stop`. Errors of OpenBao are reported and outlasted."""
        while not stop.is_set():
            await self.poll()
            pause = self._interval * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  # jitter, not a secret
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await stop.wait()

    async def poll(self) -> None:
        """One look at every registration."""
        try:
            listed = await self._records.clusters()
        except CloudtaserError as error:
            self._complain("", error)
            return
        self._content("")
        self.polled_at = self._now()
        known = {fingerprint for fingerprint in listed if is_fingerprint(fingerprint)}
        gone = [fingerprint for fingerprint in self._stations if fingerprint not in known]
        await asyncio.gather(
            *(self._isolated(fingerprint, self._look(fingerprint)) for fingerprint in sorted(known)),
            *(self._isolated(fingerprint, self._drop(fingerprint)) for fingerprint in gone),
        )
        self.polled.set()

    async def close(self) -> None:
        """Close every station."""
        await asyncio.gather(*(self._isolated(f, self._drop(f)) for f in list(self._stations)))

    async def _isolated(self, fingerprint: str, work: Awaitable[None]) -> None:
        try:
            await work
        except CloudtaserError as error:
            self._complain(fingerprint, error)
        except Exception as error:  # noqa: BLE001  # one registration must never stop the others
            _log.error("registration failed", cluster=short_fingerprint(fingerprint), exc_info=error)
        else:
            self._content(fingerprint)

    async def _look(self, fingerprint: str) -> None:
        async with self._readers:
            found = self._stations.get(fingerprint)
            registered = await self._records.registered(fingerprint)
            if registered is None:
                await self._drop(fingerprint)
                return
            try:
                snapshot = await self._read(registered)
            except CloudtaserError:
                if found is not None and ends(found[1].registered, registered):
                    await self._drop(fingerprint)  # whatever is wrong with the other records
                raise
            if found is not None and replaces(found[1], snapshot):
                await self._drop(fingerprint)
                found = None
            if found is None:
                station = self._open_station(snapshot)
                _log.info("cluster registered", cluster=short_fingerprint(fingerprint))
            else:
                station = found[0]
            self._stations[fingerprint] = (station, snapshot)
            await station.attend(snapshot, rooms_of(snapshot, self._now()))

    async def _read(self, registered: Registered) -> Snapshot:
        fingerprint = registered.fingerprint
        initialized = await self._records.initialized(fingerprint)
        keys, version = await self._records.keys(fingerprint) if initialized else (None, 0)
        revoked = await self._records.revoked(fingerprint)
        grants = await self._records.grants(fingerprint)
        return Snapshot(registered, initialized, keys, version, revoked, grants)

    async def _drop(self, fingerprint: str) -> None:
        found = self._stations.pop(fingerprint, None)
        if found is not None:
            _log.info("cluster dropped", cluster=short_fingerprint(fingerprint))
            await found[0].close()

    def _complain(self, fingerprint: str, error: CloudtaserError) -> None:
        """Say it once, and again when it changes."""
        line = error.diagnostic()
        if self._complaints.get(fingerprint) != line:
            self._complaints[fingerprint] = line
            if fingerprint:
                _log.warning("registration unusable", cluster=short_fingerprint(fingerprint), reason=line)
            else:
                _log.warning("registrations cannot be read", reason=line)

    def _content(self, fingerprint: str) -> None:
        if self._complaints.pop(fingerprint, None) is not None:
            _log.info("registrations read again", cluster=short_fingerprint(fingerprint))
