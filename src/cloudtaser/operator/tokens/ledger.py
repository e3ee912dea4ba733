"""Ledger: which accessors are out, for which pods, kept where it outlives operator and pod.

Used by `minting` (adds before a token leaves) and `keeping` (renews and revokes by it). A pod's annotation
goes with the pod, and an operator that was away would not know what to revoke: so each accessor also lies in
one of sixteen ConfigMaps of our namespace. An accessor opens nothing; with it a token can be looked at,
renewed or revoked, by whoever may. Every replica writes single keys, which no other replica's write undoes;
what several pods need written at the same time goes in one request.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from cloudtaser.errors import CloudtaserError
from cloudtaser.operator.tokens.ports import Cluster, PodRef

SHARDS: Final = 16
PREFIX: Final = "cloudtaser-tokens-"
NAMES: Final = tuple(f"{PREFIX}{number:x}" for number in range(SHARDS))
"""The ConfigMaps, for RBAC."""
_BATCH: Final = 256
_KEY: Final = re.compile(r"([A-Za-z0-9-]{1,64})\.([a-z0-9-]{1,63})\.([0-9a-f]{12})", re.ASCII)
_VALUE: Final = re.compile(
    r"([A-Za-z0-9._-]{1,128}) ([a-z0-9-]{1,63}) ([a-z0-9.-]{1,253}) ([0-9]{1,12}) ([0-9]{1,9})", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One token that is out. `at` is when it was made, in seconds since the epoch; `ttl` how many seconds it
    lives each time it is renewed."""

    pod: PodRef
    container: str
    accessor: str
    at: int
    ttl: int

    @property
    def shard(self) -> str:
        """The ConfigMap that holds it."""
        return shard_of(self.pod.uid)

    @property
    def key(self) -> str:
        """Its key there: one for each token, so that two replicas never write the same."""
        tag = hashlib.sha256(self.accessor.encode()).hexdigest()[:12]
        return f"{self.pod.uid}.{self.container}.{tag}"

    @property
    def value(self) -> str:
        """What stands there."""
        return f"{self.accessor} {self.pod.namespace} {self.pod.name} {self.at} {self.ttl}"


def shard_of(uid: str) -> str:
    """The ConfigMap that holds a pod's tokens."""
    return NAMES[hashlib.sha256(uid.encode()).digest()[0] % SHARDS]


def parse(data: Mapping[str, str]) -> list[Entry]:
    """The entries of one ConfigMap; what is none (somebody else's hand) is left alone."""
    found = []
    for key, value in data.items():
        names, fields = _KEY.fullmatch(key), _VALUE.fullmatch(value)
        if names is not None and fields is not None:
            pod = PodRef(fields.group(2), fields.group(3), names.group(1))
            at, ttl = int(fields.group(4)), int(fields.group(5))
            entry = Entry(pod, names.group(2), fields.group(1), at, ttl)
            if entry.key == key:
                found.append(entry)
    return found


class Ledger:
    """The sixteen ConfigMaps. Its methods raise the errors of `kube.errors`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._shards = {name: _Shard(cluster, name) for name in NAMES}

    async def add(self, entry: Entry) -> None:
        """Returns once it is stored."""
        await self._shards[entry.shard].write(entry.key, entry.value)

    async def remove(self, entry: Entry) -> None:
        """Returns once it is no longer there."""
        await self._shards[entry.shard].write(entry.key, None)

    async def entries(self) -> list[Entry]:
        """All that is out."""
        maps = await asyncio.gather(*(self._cluster.read_ledger(name) for name in NAMES))
        return [entry for data in maps for entry in parse(data)]

    async def shard(self, name: str) -> list[Entry]:
        """What one ConfigMap holds."""
        return parse(await self._cluster.read_ledger(name))

    async def of_pod(self, uid: str) -> list[Entry]:
        """What is out for one pod."""
        return [entry for entry in await self.shard(shard_of(uid)) if entry.pod.uid == uid]

    async def close(self) -> None:
        """Give up what was not written yet."""
        await asyncio.gather(*(shard.close() for shard in self._shards.values()))


class _Shard:
    """One ConfigMap: whatever comes while a write is under way goes with the next one."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster = cluster
        self._name = name
        self._waiting: dict[str, tuple[str | None, list[asyncio.Future[None]]]] = {}
        self._task: asyncio.Task[None] | None = None

    async def write(self, key: str, value: str | None) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        _, others = self._waiting.get(key, (None, []))
        self._waiting[key] = (value, [*others, done])
        if self._task is None:
            self._task = asyncio.ensure_future(self._flush())
        await done

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _flush(self) -> None:
        batch: dict[str, tuple[str | None, list[asyncio.Future[None]]]] = {}
        try:
            while self._waiting:
                batch = {key: self._waiting.pop(key) for key in list(self._waiting)[:_BATCH]}
                try:
                    changes = {key: value for key, (value, _) in batch.items()}
                    await self._cluster.write_ledger(self._name, changes)
                except CloudtaserError as error:
                    _settle(batch.values(), error)
                else:
                    _settle(batch.values(), None)
        finally:
            self._task = None
            for _, futures in (*batch.values(), *self._waiting.values()):
                for future in futures:
                    future.cancel()  # no effect where it was answered


def _settle(
    written: Iterable[tuple[str | None, list[asyncio.Future[None]]]], error: CloudtaserError | None
) -> None:
    for _, futures in written:
        for future in futures:
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(type(error)(error.what, on=error.on, fix=error.fix))
