"""EventRecorder: what a user should find by `kubectl describe`, as Events (events.k8s.io/v1).

Used by the webhook, the controllers and the token part, which only say what happened: `record` never waits
and never fails. One task posts. The same thing again makes a series of the first event; many alike about one
object become one; and what comes too fast is dropped and counted, so that no pod in a crash loop floods etcd
(the rules and figures are those of client-go's spam filter and aggregator).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from cloudtaser.errors import CloudtaserError
from cloudtaser.kube.errors import ConflictError, KubeUnavailableError, NotFoundError
from cloudtaser.kube.kinds import EVENTS, Kind
from cloudtaser.net.dial import Backoff
from cloudtaser.net.log import get_logger

Json = dict[str, Any]

CONTROLLER: Final = "cloudtaser.io/operator"
MAX_QUEUE: Final = 1000
"""Occurrences that wait to be posted."""
MAX_SERIES: Final = 4096
"""Series that are remembered, the ones that were seen last."""
SERIES_SECONDS: Final = 600.0
"""After this long without it, the same thing begins a new event."""
UPDATE_SECONDS: Final = 10.0
"""Between two updates of one series; what happens in between is counted in the next."""
BURST: Final = 25
"""Events about one object at once (client-go's figure) …"""
REFILL_SECONDS: Final = 300.0
"""… and one more each so many seconds."""
ALIKE: Final = 10
"""Different messages of one reason about one object, after which they share one event."""
MAX_ATTEMPTS: Final = 5
_MAX_NOTE: Final = 1024  # bytes; validated by the API server
_MAX_WORD: Final = 128
_MAX_INSTANCE: Final = 128
_COMBINED: Final = "(combined from similar events): "

_log = get_logger("kube.events")


class Occurred(Protocol):
    """Something that happened to an object. `reason` is CamelCase, `message` one line without a secret."""

    @property
    def namespace(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def uid(self) -> str: ...
    @property
    def api_version(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def message(self) -> str: ...
    @property
    def type(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Occurrence:
    """The plain form of it."""

    namespace: str
    """Empty for an object without."""
    kind: str
    name: str
    uid: str
    api_version: str
    reason: str
    message: str
    type: str = "Warning"
    """Or `Normal`."""


class EventSink(Protocol):
    """Where occurrences go. Never waits: what cannot be kept is dropped and counted there."""

    def record(self, occurrence: Occurred) -> None:
        """Make it an event, soon."""


class EventApi(Protocol):
    """What is asked of the API server; `client.KubeApi` does it."""

    async def create_event(self, body: Json) -> Json:
        """Post an Event as it is."""

    async def patch_object(self, kind: Kind, namespace: str | None, name: str, patch: Any) -> Json:
        """Merge-patch an object."""


@dataclass(slots=True)
class _Series:
    """One event as the API server has it, and what happened since."""

    namespace: str
    name: str
    seen: float
    """Loop time at which it happened last."""
    count: int = 1
    posted: bool = False
    updated: float = 0.0
    last: datetime = field(default_factory=lambda: datetime.now(UTC))
    queued: bool = False


@dataclass(slots=True)
class _Source:
    """One object that events are about: how many more it may have, and how many notes of each reason."""

    tokens: float
    at: float
    notes: OrderedDict[tuple[str, str], float] = field(default_factory=OrderedDict)
    """(reason, note) → loop time."""


class EventRecorder:
    """One for a process. `record` from anywhere in the loop; `run` posts."""

    def __init__(
        self,
        api: EventApi,
        *,
        instance: str,
        now: Callable[[], float] | None = None,
        update_seconds: float = UPDATE_SECONDS,
    ) -> None:
        """`instance`: name of our pod."""
        self._api = api
        self._instance = instance[:_MAX_INSTANCE] or "unknown"
        self._now = now or (lambda: asyncio.get_running_loop().time())
        self._update_seconds = update_seconds
        self._series: OrderedDict[tuple[str, ...], _Series] = OrderedDict()
        self._sources: OrderedDict[tuple[str, ...], _Source] = OrderedDict()
        self._queue: deque[tuple[_Series, Json]] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.dropped = 0
        """Occurrences that became no event."""
        self.posted = 0
        """Events made, series' updates not counted."""

    # --- saying

    def record(self, occurrence: Occurred) -> None:
        """Make it an event, soon. Never waits."""
        now = self._now()
        about = (
            occurrence.api_version,
            occurrence.kind,
            occurrence.namespace,
            occurrence.name,
            occurrence.uid,
        )
        note = _clipped(" ".join(occurrence.message.split()), _MAX_NOTE)
        source = self._source(about, now)
        note_key, note = self._alike(source, occurrence.reason, note, now)
        key = (*about, occurrence.type, occurrence.reason, note_key)
        series = self._series.get(key)
        if series is not None and now - series.seen <= SERIES_SECONDS:
            self._series.move_to_end(key)
            series.seen = now
            series.count += 1
            series.last = datetime.now(UTC)
            if not series.queued:
                self._enqueue(series, {})
            return
        if not self._afford(source, now) or len(self._queue) >= MAX_QUEUE:
            self.dropped += 1
            return
        series = self._begin(key, occurrence, now)
        self._enqueue(series, self._body(series, occurrence, note))

    def _begin(self, key: tuple[str, ...], occurrence: Occurred, now: float) -> _Series:
        stamp = datetime.now(UTC)
        digest = hashlib.sha256(repr((key, stamp, self._instance)).encode()).hexdigest()[:16]
        series = _Series(
            namespace=occurrence.namespace or "default",
            name=f"{occurrence.name[:200].rstrip('.-')}.{digest}",
            seen=now,
            last=stamp,
        )
        self._series[key] = series
        self._series.move_to_end(key)
        if len(self._series) > MAX_SERIES:
            self._series.popitem(last=False)
        return series

    def _source(self, about: tuple[str, ...], now: float) -> _Source:
        source = self._sources.get(about)
        if source is None:
            source = self._sources[about] = _Source(float(BURST), now)
            if len(self._sources) > MAX_SERIES:
                self._sources.popitem(last=False)
        self._sources.move_to_end(about)
        return source

    @staticmethod
    def _alike(source: _Source, reason: str, note: str, now: float) -> tuple[str, str]:
        """By what a note is told from others of its reason, and how it reads."""
        for key, at in list(source.notes.items()):
            if now - at > SERIES_SECONDS:
                del source.notes[key]
        if (reason, note) in source.notes:
            source.notes[reason, note] = now
            return note, note
        if sum(known == reason for known, _ in source.notes) >= ALIKE:
            return "", _clipped(_COMBINED + note, _MAX_NOTE)
        source.notes[reason, note] = now
        if len(source.notes) > ALIKE * 8:
            source.notes.popitem(last=False)
        return note, note

    @staticmethod
    def _afford(source: _Source, now: float) -> bool:
        source.tokens = min(float(BURST), source.tokens + (now - source.at) / REFILL_SECONDS)
        source.at = now
        if source.tokens < 1:
            return False
        source.tokens -= 1
        return True

    def _body(self, series: _Series, occurrence: Occurred, note: str) -> Json:
        regarding = {
            "apiVersion": occurrence.api_version,
            "kind": occurrence.kind,
            "name": occurrence.name,
            "uid": occurrence.uid,
        }
        if occurrence.namespace:
            regarding["namespace"] = occurrence.namespace
        return {
            "metadata": {"namespace": series.namespace, "name": series.name},
            "eventTime": _micro_time(series.last),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance,
            "action": occurrence.reason[:_MAX_WORD] or "Unknown",
            "reason": occurrence.reason[:_MAX_WORD] or "Unknown",
            "type": occurrence.type if occurrence.type in ("Normal", "Warning") else "Warning",
            "note": note,
            "regarding": {name: value for name, value in regarding.items() if value},
        }

    def _enqueue(self, series: _Series, body: Json) -> None:
        series.queued = True
        self._queue.append((series, body))
        self._idle.clear()
        self._wake.set()

    # --- posting

    async def flush(self) -> None:
        """Until everything recorded so far is posted, series' updates that wait for their time included."""
        await self._idle.wait()

    async def run(self, stop: asyncio.Event) -> None:
        """Post until `stop` is set; what waits then is lost: events are hints."""
        working = asyncio.ensure_future(self._work())
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (working, stopping):
                task.cancel()
            await asyncio.gather(working, stopping, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            if not self._queue:
                self._idle.set()
                self._wake.clear()
                await self._wake.wait()
            ready = self._next_ready()
            if ready is None:
                await self._until_due()
                continue
            series, body = ready
            series.queued = False
            if body:
                await self._post(series, body)
            elif series.posted:
                await self._update(series)

    def _next_ready(self) -> tuple[_Series, Json] | None:
        now = self._now()
        for at, (series, body) in enumerate(self._queue):
            if body or now - series.updated >= self._update_seconds:
                del self._queue[at]
                return series, body
        return None

    async def _until_due(self) -> None:
        due = min(series.updated + self._update_seconds for series, _ in self._queue)
        self._wake.clear()
        with_timeout = asyncio.timeout(max(0.01, due - self._now()))
        try:
            async with with_timeout:
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _post(self, series: _Series, body: Json) -> None:
        if series.count > 1:  # it happened again before we got here
            body["series"] = _counted(series)
        if await self._tried(lambda: self._api.create_event(body)):
            series.posted = True
            self.posted += 1
        else:
            self.dropped += 1

    async def _update(self, series: _Series) -> None:
        series.updated = self._now()
        patch = {"series": _counted(series)}
        await self._tried(lambda: self._api.patch_object(EVENTS, series.namespace, series.name, patch))

    async def _tried(self, attempt: Callable[[], Any]) -> bool:
        """Whether it was done, after at most MAX_ATTEMPTS while the API server is away."""
        backoff = Backoff(limit=10.0)
        for number in range(MAX_ATTEMPTS):
            try:
                await attempt()
            except KubeUnavailableError as error:
                if number + 1 == MAX_ATTEMPTS:
                    _log.warning("an event is lost", error=error.diagnostic())
                    return False
                await asyncio.sleep(max(backoff.next(), error.retry_after))
            except ConflictError:
                return True  # a try before got there, and its answer was lost
            except NotFoundError:
                return False  # the namespace, or the event, is gone
            except CloudtaserError as error:
                _log.warning("an event is refused", error=error.diagnostic())
                return False
            else:
                return True
        return False


def _counted(series: _Series) -> Json:
    return {"count": series.count, "lastObservedTime": _micro_time(series.last)}


def _micro_time(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _clipped(text: str, limit: int) -> str:
    """At most `limit` bytes of UTF-8, nothing cut in the middle of a letter."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= limit:
        return encoded.decode()
    return encoded[: limit - 3].decode(errors="ignore") + "…"
