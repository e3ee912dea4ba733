"""Reads: which paths of a cluster's secrets were read through this bridge since the cluster was initialised.

Noted by `turn`, part of `cluster.Cluster`; `ReadKeeper` keeps the record in OpenBao, written by `station`
beside the sign of life. `source reset` lists it: it is what an impostor, had there been one, may have seen.
Holds paths, never values; bounded in number and size, and counts what found no place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cloudtaser.bridge.gate import RESERVED
from cloudtaser.bridge.verdict import Allowed, Kind
from cloudtaser.errors import CloudtaserError
from cloudtaser.openbao.errors import CasConflict
from cloudtaser.openbao.layout import Space
from cloudtaser.openbao.records import PathRead, Reads, Records, instant, seconds

PATHS_LIMIT: Final = 10_000
SIZE_LIMIT: Final = 900 * 1024
"""Bytes of the record: OpenBao's own storage takes no value of 1 MiB."""
COUNTS_EVERY: Final = 600.0
"""Seconds between two writes that change nothing but counts; a new path goes out with the next beat."""

_KV: Final = Space("", "").secret
_ENTRY: Final = 85  # bytes of an entry beside its path


def hands_out(allowed: Allowed, status: int) -> bool:
    """Whether an answer to this request carries something secret: what is read, made (a lease, a certificate)
    or decrypted. Lists hold names alone, and so do a KV store's metadata."""
    if allowed.kind is not Kind.FORWARD:
        return False
    mount, _, rest = allowed.path.partition("/")
    if mount in RESERVED:
        return False
    if allowed.method == b"GET":
        return not (mount == _KV and rest.startswith("metadata/"))
    return allowed.method in (b"PUT", b"POST") and status == 200 and not rest.startswith("data/")


@dataclass(slots=True)
class _Read:
    first: float
    last: float
    count: int


class ReadLog:
    """The paths of one cluster."""

    def __init__(self) -> None:
        self._paths: dict[str, _Read] = {}
        self._size = 0
        self._dropped = 0
        self.grown = False
        """A path is new since the last `taken`."""
        self.changed = False
        """Anything is."""

    def note(self, path: str, now: float) -> None:
        """A path was read (`now`: seconds since the epoch)."""
        self.changed = True
        read = self._paths.get(path)
        if read is not None:
            read.last = now
            read.count += 1
        elif self._add(path, _Read(now, now, 1)):
            self.grown = True
        else:
            self.grown = self.grown or not self._dropped
            self._dropped += 1

    def merge(self, record: Reads) -> None:
        """Add what an earlier run of this bridge had noted."""
        for path, past in record.paths.items():
            first, last = seconds(past.first), seconds(past.last)
            read = self._paths.get(path)
            if read is None:
                self._dropped += 0 if self._add(path, _Read(first, last, past.count)) else past.count
            else:
                read.first, read.last = min(read.first, first), max(read.last, last)
                read.count += past.count
        self._dropped += record.dropped

    def record(self, bridge_id: str) -> Reads:
        """As it is written."""
        paths = {
            path: PathRead(instant(read.first), instant(read.last), read.count)
            for path, read in self._paths.items()
        }
        return Reads(bridge_id, paths, self._dropped)

    def forget(self) -> None:
        """Begin anew."""
        self._paths.clear()
        self._size = self._dropped = 0
        self.taken()

    def taken(self) -> None:
        """What there is has been written."""
        self.grown = self.changed = False

    def _add(self, path: str, read: _Read) -> bool:
        size = len(path.encode()) + _ENTRY
        if len(self._paths) >= PATHS_LIMIT or self._size + size > SIZE_LIMIT:
            return False
        self._paths[path] = read
        self._size += size
        return True


class ReadKeeper:
    """Keeps one cluster's record of reads by this bridge. CloudtaserError when OpenBao would not have it."""

    def __init__(self, records: Records, fingerprint: str, bridge_id: str, log: ReadLog) -> None:
        self._records = records
        self._fingerprint = fingerprint
        self._bridge_id = bridge_id
        self._log = log
        self._version: int | None = None  # of the record; None before it was looked at
        self._written_at = float("-inf")

    async def flush(self, now: float, *, whole: bool = False) -> None:
        """Write what has changed, if it is time for it (`now`: seconds since the epoch); `whole`: all of it,
        for nothing may be left when this bridge stops."""
        log = self._log
        if not log.changed or not (whole or log.grown or now >= self._written_at + COUNTS_EVERY):
            return
        if self._version is None:
            found, self._version = await self._records.reads_of(self._fingerprint, self._bridge_id)
            if found is not None:
                log.merge(found)
        if not self._version and not await self._records.is_registered(self._fingerprint):
            log.forget()  # deregistered a moment ago: whoever took its records away will not come again
            return
        record = log.record(self._bridge_id)
        log.taken()
        try:
            self._version = await self._records.write_reads(self._fingerprint, record, self._version)
        except CasConflict:
            await self._changed_by_another()
        except CloudtaserError:
            log.changed = log.grown = True
            raise
        self._written_at = now

    async def _changed_by_another(self) -> None:
        """A person had the paths listed and forgotten, with everything that was read until then; or another
        process bears this bridge's name, and then both lists count."""
        found, self._version = await self._records.reads_of(self._fingerprint, self._bridge_id)
        if found is None:
            self._log.forget()
        else:
            self._log.merge(found)
            self._log.changed = self._log.grown = True
