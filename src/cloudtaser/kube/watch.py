"""Reflector: the objects of one kind, kept in memory as the API server has them.

Used by every controller, and by the webhook for what it may not wait for (CloudTaserConfigs, namespaces).
It lists once, then watches, and goes on from where it was when the watch ends or breaks, with full-jitter
backoff; when the API server has forgotten that point (410 Gone: etcd was compacted, the server started anew)
it lists again and tells the difference. What is in memory stays usable meanwhile: `problem` says why it may
be old. Until `synced` it is not all there is. Time is the loop's, so a clock that is set changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final, Generic, Protocol, TypeVar

from cloudtaser.errors import CloudtaserError
from cloudtaser.kube.errors import GoneError, KubeUnavailableError
from cloudtaser.kube.kinds import Kind
from cloudtaser.kube.verbs import WATCH_SECONDS, Page, WatchEvent
from cloudtaser.net.dial import Backoff
from cloudtaser.net.log import get_logger

Json = dict[str, Any]
Key = tuple[str, str]
"""Namespace (empty for kinds without) and name."""

MAX_OBJECTS: Final = 20_000
LISTED_TIMES: Final = 5
"""How many times more objects may be listed than are kept: most may be of no interest."""
RESYNC_SECONDS: Final = 600.0
BACKOFF_LIMIT: Final = 30.0
SETTLED_SECONDS: Final = 5.0
"""A watch that lasted this long, or told something, worked: the next wait is short again."""
MAX_RESUMES: Final = 5
"""Attempts in a row to go on from one point; then the point itself may be what is wrong (a restored etcd
knows only older ones), and everything is listed anew."""

_log = get_logger("kube.watch")

T = TypeVar("T")


class WatchApi(Protocol):
    """What a reflector asks of the API server; `client.KubeApi` is one."""

    def list_pages(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        max_objects: int = ...,
        metadata_only: bool = False,
    ) -> AsyncGenerator[Page, None]:
        """See `verbs.Verbs`."""

    def watch_objects(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        resource_version: str,
        label_selector: str = "",
        field_selector: str = "",
        seconds: int = ...,
        metadata_only: bool = False,
        on_open: Callable[[], None] = ...,
    ) -> AsyncGenerator[WatchEvent, None]:
        """See `verbs.Verbs`."""


class Changes:
    """The keys that changed since one consumer last asked, each once however often it changed."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._keys: dict[Key, None] = {}
        self._wake = asyncio.Event()
        self.dropped = 0
        """Keys that were lost because the consumer was too slow; the next resync brings those that exist."""

    def add(self, key: Key) -> None:
        """`key` changed, appeared or is gone."""
        if key not in self._keys and len(self._keys) >= self._limit:
            self.dropped += 1
            return
        self._keys[key] = None
        self._wake.set()

    def drain(self) -> list[Key]:
        """All of them now, without waiting."""
        keys = list(self._keys)
        self._keys.clear()
        return keys

    async def next(self) -> Key:
        """The key that has waited longest; waits for one."""
        while not self._keys:
            self._wake.clear()
            await self._wake.wait()
        key = next(iter(self._keys))
        del self._keys[key]
        return key


class Reflector(Generic[T]):
    """`run` keeps it; everybody else reads, at any time, without waiting."""

    def __init__(
        self,
        api: WatchApi,
        kind: Kind,
        parse: Callable[[Json], T | None],
        *,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
        metadata_only: bool = False,
        max_objects: int = MAX_OBJECTS,
        resync_seconds: float = RESYNC_SECONDS,
        watch_seconds: int = WATCH_SECONDS,
    ) -> None:
        """`parse` makes of an object what is kept of it, None for nothing; it raises CloudtaserError for one
        that cannot be read, which is logged and left out. Every `resync_seconds` all keys count as changed.
        """
        self._api = api
        self.kind = kind
        self._parse = parse
        self._namespace = namespace
        self._selectors = {"label_selector": label_selector, "field_selector": field_selector}
        self._metadata_only = metadata_only
        self._max_objects = max_objects
        self._resync_seconds = resync_seconds
        self._watch_seconds = watch_seconds
        self._objects: dict[Key, tuple[str, T]] = {}
        self._consumers: list[Changes] = []
        self._version = ""
        self._synced = asyncio.Event()
        self._backoff = Backoff(limit=BACKOFF_LIMIT)
        self._full = False
        self.problem = ""
        """Why what is known may be old; empty as long as all is well."""
        self.lists = 0
        """How often everything was listed."""

    # --- what is known

    @property
    def synced(self) -> bool:
        """Whether everything has been listed once."""
        return self._synced.is_set()

    async def wait_synced(self) -> None:
        """Until everything has been listed once."""
        await self._synced.wait()

    def get(self, namespace: str, name: str) -> T | None:
        """The object, or None. `namespace` is empty for a kind without."""
        found = self._objects.get((namespace, name))
        return None if found is None else found[1]

    def values(self) -> list[T]:
        """All of them, in no order."""
        return [value for _, value in self._objects.values()]

    def __len__(self) -> int:
        return len(self._objects)

    def subscribe(self) -> Changes:
        """The changes from now on, beginning with everything that is known."""
        changes = Changes(2 * self._max_objects)
        for key in self._objects:
            changes.add(key)
        self._consumers.append(changes)
        return changes

    def unsubscribe(self, changes: Changes) -> None:
        """Nobody reads these any more."""
        self._consumers.remove(changes)

    # --- keeping it

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set. Raises nothing that the API server could cause."""
        tasks = [asyncio.ensure_future(work) for work in (self._keep(), self._resync(), stop.wait())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _keep(self) -> None:
        failures = 0
        while True:
            try:
                if not self._version:
                    await self._list()
                    failures = 0
                await self._follow()
                failures = 0
                continue
            except GoneError:
                _log.info("what was watched is too old, listing anew", kind=self.kind.name)
                self._version = ""
                delay = self._backoff.next()
            except CloudtaserError as error:
                failures += 1
                if failures > MAX_RESUMES:
                    self._version = ""
                delay = self._failed(error)
            await asyncio.sleep(delay)

    def _failed(self, error: CloudtaserError) -> float:
        """Remember why; seconds to wait."""
        if self.problem != error.diagnostic():
            self.problem = error.diagnostic()
            _log.warning("cannot follow the API server", kind=self.kind.name, error=self.problem)
        own = self._backoff.next()
        asked = error.retry_after if isinstance(error, KubeUnavailableError) else 0.0
        return max(own, asked * random.uniform(1.0, 1.25))  # noqa: S311  # spreads load

    def _well(self) -> None:
        if self.problem:
            _log.info("following the API server again", kind=self.kind.name)
        self.problem = ""

    async def _list(self) -> None:
        """Each page is parsed before the next is asked for: all objects, whole, would not fit into memory."""
        pages = self._api.list_pages(
            self.kind,
            self._namespace,
            max_objects=LISTED_TIMES * self._max_objects,
            metadata_only=self._metadata_only,
            **self._selectors,
        )
        self._full = False
        gone, version = dict.fromkeys(self._objects), ""
        async with contextlib.aclosing(pages):
            async for page in pages:
                for item in page.items:
                    gone.pop(_key(item), None)
                    self._put(item)
                version = page.resource_version
        for key in gone:
            self._remove(key)
        self.lists += 1
        self._version = version
        self._synced.set()
        self._well()

    async def _follow(self) -> None:
        """One watch, to its end in order; what it told is kept however it ends."""
        loop = asyncio.get_running_loop()
        started, version = loop.time(), self._version
        watch = self._api.watch_objects(
            self.kind,
            self._namespace,
            resource_version=self._version,
            seconds=round(self._watch_seconds * random.uniform(0.8, 1.2)),  # noqa: S311  # spreads load
            metadata_only=self._metadata_only,
            on_open=self._well,
            **self._selectors,
        )
        try:
            async with contextlib.aclosing(watch) as events:
                async for event in events:
                    self._take(event)
        finally:
            worked = self._version != version or loop.time() - started >= SETTLED_SECONDS
            if worked:
                self._backoff.reset()
        if not worked:  # it ended at once and told nothing: not in a tight loop
            await asyncio.sleep(self._backoff.next())

    def _take(self, event: WatchEvent) -> None:
        if event.type == "DELETED":
            self._remove(_key(event.object))
        elif event.type != "BOOKMARK":
            self._put(event.object)
        if event.resource_version:
            self._version = event.resource_version
        self._well()

    def _put(self, item: Json) -> None:
        key, version = _key(item), str((item.get("metadata") or {}).get("resourceVersion") or "")
        known = self._objects.get(key)
        if known is not None and known[0] == version:
            return
        value: T | None = None
        try:
            value = self._parse(item)
        except CloudtaserError as error:
            _log.warning(
                "an object is left out",
                kind=self.kind.name,
                namespace=key[0],
                name=key[1],
                error=error.diagnostic(),
            )
        if value is None:
            self._remove(key)
            return
        if known is None and len(self._objects) >= self._max_objects:
            self._refuse()
            return
        self._objects[key] = version, value
        self._tell(key)

    def _refuse(self) -> None:
        """There is no room for one more; said once after each list."""
        if not self._full:
            _log.error("too many, the rest is not known", kind=self.kind.name, limit=self._max_objects)
        self._full = True

    def _remove(self, key: Key) -> None:
        if self._objects.pop(key, None) is not None:
            self._tell(key)

    def _tell(self, key: Key) -> None:
        for changes in self._consumers:
            changes.add(key)

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(self._resync_seconds * random.uniform(0.9, 1.1))  # noqa: S311  # spreads load
            for key in self._objects:
                self._tell(key)


def _key(item: Json) -> Key:
    metadata = item.get("metadata") or {}
    return str(metadata.get("namespace") or ""), str(metadata.get("name") or "")
