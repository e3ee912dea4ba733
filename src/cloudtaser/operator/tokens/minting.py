"""Minting: does what each custody says, for many containers at a time and one at a time for each of them.

Used by `method`, on every replica. An announcement becomes a job; a bounded number of workers take them, by
turns of the namespaces, so that one tenant's pods do not keep another's waiting. A job that has to be tried
again later gives its worker back until then. A container has one job at most: who announces again meanwhile
adds nothing, who announces another key (a new start) takes the earlier one's place.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cloudtaser.errors import CloudtaserError, UnavailableError
from cloudtaser.kube.errors import NotFoundError
from cloudtaser.kube.events import EventSink, Occurrence
from cloudtaser.net.log import get_logger
from cloudtaser.net.rates import Buckets, Rate
from cloudtaser.operator.tokens import delivery
from cloudtaser.operator.tokens.announcement import Announcement, Announcer, Refusal
from cloudtaser.operator.tokens.credentials import Credentials
from cloudtaser.operator.tokens.custody import (
    Annotate,
    Custody,
    Deliver,
    End,
    Ended,
    Forget,
    Look,
    Mint,
    Outcome,
    Record,
    Revoke,
    Step,
)
from cloudtaser.operator.tokens.delivery import Taken
from cloudtaser.operator.tokens.ledger import Entry, Ledger
from cloudtaser.operator.tokens.metrics import TokenMetrics
from cloudtaser.operator.tokens.ports import Cluster
from cloudtaser.operator.tokens.target import ACCESSOR_ANNOTATION, Target, encode, find
from cloudtaser.operator.tokens.turns import Turns
from cloudtaser.operator.tokens.vault import NoGrantError, Vault
from cloudtaser.wire.envelope import Recipient, Token

POD_RATE: Final = Rate(1 / 15, 8)
"""Jobs of one pod, whose containers may start and crash together, but not make tokens without end."""

Key = tuple[str, str]
"""Which container of which pod."""

_log = get_logger("operator.tokens")


@dataclass(frozen=True, slots=True)
class MintingLimits:
    """How much is worked on at a time, of that for one namespace, and how much waits (half of it of one)."""

    workers: int = 16
    of_namespace: int = 4
    waiting: int = 8192


@dataclass(frozen=True, slots=True)
class Job:
    """One announcement that was believed."""

    announcer: Announcer
    container: str
    public_key: bytes
    since: float

    @property
    def key(self) -> Key:
        """Which container of which pod."""
        return self.announcer.pod.uid, self.container

    @property
    def namespace(self) -> str:
        """Whose job it is."""
        return self.announcer.pod.namespace


class Minting:
    """`submit` takes announcements, `run` serves them."""

    def __init__(
        self,
        cluster: Cluster,
        vault: Vault,
        credentials: Credentials,
        ledger: Ledger,
        events: EventSink,
        metrics: TokenMetrics,
        *,
        limits: MintingLimits,
        on_minted: Callable[[], None],
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        """`on_minted` is called for each token that was made. `clock` is steady, `wall` the time of day; both
        in seconds."""
        self.cluster = cluster
        self.vault = vault
        self.credentials = credentials
        self.ledger = ledger
        self.metrics = metrics
        self.on_minted = on_minted
        self.wall = wall
        self._events = events
        self._limits = limits
        self._clock = clock
        self._waiting: dict[Key, Job] = {}
        self._running: dict[Key, _Service] = {}
        self._parked: dict[Key, asyncio.TimerHandle] = {}
        """Those of the running ones that are tried again later, and have no worker until then."""
        self._next: dict[Key, Job] = {}
        self._turns: Turns[Key] = Turns(limits.of_namespace)
        self._changed = asyncio.Event()
        self._jobs: Counter[str] = Counter()
        """Waiting and running ones of each namespace."""
        self._pods = Buckets(POD_RATE)

    @property
    def waiting(self) -> int:
        """Jobs that nobody works on yet."""
        return len(self._waiting)

    def submit(self, announcer: Announcer, announcement: Announcement) -> float:
        """Take the job. 0.0, or the seconds after which to come back: there is too much to do, for this pod
        or in all."""
        now = self._clock()
        job = Job(announcer, announcement.container, announcement.public_key, now)
        service, waiting = self._running.get(job.key), self._waiting.get(job.key)
        running = service.job if service is not None else None
        latest = self._next.get(job.key) or running or waiting
        if latest is not None and latest.public_key == job.public_key:
            return 0.0
        if latest is None and self._is_full(job.namespace):
            return random.uniform(5.0, 30.0)  # noqa: S311
        wait = self._pods.take(job.announcer.pod.uid, now)
        if wait:
            return wait
        if running is not None:
            self._next[job.key] = job
        elif waiting is not None:
            self._waiting[job.key] = job
        else:
            self._enqueue(job)
        return 0.0

    async def run(self) -> None:
        """Serve until cancelled; what is under way then is as if the operator had been killed."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._limits.workers):
                    group.create_task(self._worker())
        finally:
            while self._parked:
                self._parked.popitem()[1].cancel()

    def _is_full(self, namespace: str) -> bool:
        most = self._limits.waiting
        return len(self._waiting) + len(self._parked) >= most or self._jobs[namespace] >= max(1, most // 2)

    def _enqueue(self, job: Job) -> None:
        self._jobs[job.namespace] += 1
        self._waiting[job.key] = job
        self._turns.put(job.namespace, job.key)
        self._changed.set()

    def _resume(self, job: Job) -> None:
        del self._parked[job.key]
        self._turns.put(job.namespace, job.key, first=True)  # it may hold a token
        self._changed.set()

    async def _turn(self) -> _Service:
        while (key := self._turns.take()) is None:
            self._changed.clear()
            await self._changed.wait()
        if key not in self._running:
            self._running[key] = _Service(self, self._waiting.pop(key))
        return self._running[key]

    async def _worker(self) -> None:
        while True:
            service = await self._turn()
            job, delay = service.job, None
            try:
                delay = await service.advance()
                if delay is None:
                    self._tell(service)
            except Exception as error:  # noqa: BLE001  # one pod's trouble must not be everybody's
                _log.error("a pod was not unsealed", pod=str(job.announcer.pod), error=type(error).__name__)
            finally:
                self._turns.done(job.namespace)
                if delay is None:
                    self._end(job)
                else:
                    loop = asyncio.get_running_loop()
                    self._parked[job.key] = loop.call_later(delay, self._resume, job)
                self._changed.set()

    def _end(self, job: Job) -> None:
        del self._running[job.key]
        self._jobs[job.namespace] -= 1
        if not self._jobs[job.namespace]:
            del self._jobs[job.namespace]
        following = self._next.pop(job.key, None)
        if following is not None:
            self._enqueue(following)

    def _tell(self, service: _Service) -> None:
        job, how = service.job, service.how
        self.metrics.unsealings.labels(how.value).inc()
        pod, seconds = job.announcer.pod, self._clock() - job.since
        if how is End.UNSEALED:
            self.metrics.seconds.observe(seconds)
            _log.info("unsealed", pod=str(pod), container=job.container, seconds=round(seconds, 3))
        elif how is End.SUPERSEDED:
            _log.debug("nothing to unseal", pod=str(pod), container=job.container, reason=service.trouble)
        else:
            _log.warning("not unsealed", pod=str(pod), container=job.container, error=service.trouble)
            message = f"container {job.container} waits for its token: {service.trouble}"
            self._events.record(
                Occurrence(pod.namespace, "Pod", pod.name, pod.uid, "v1", "NotUnsealed", message)
            )


class _Service:
    """One job: the steps of its custody, done."""

    def __init__(self, minting: Minting, job: Job) -> None:
        self._of = minting
        self.job = job
        self._pod = job.announcer.pod
        self._custody = Custody()
        self._token: Token | None = None
        self._target: Target | None = None
        self._entries: dict[str, Entry] = {}
        self.trouble = ""
        """What failed last, in one line."""
        self.how = End.FAILED
        """How it ended, once it has."""

    async def advance(self) -> float | None:
        """Step by step to the end (then None), or to a step that is to be tried again: the seconds until
        then, after which to call this once more."""
        while not isinstance(step := self._custody.step, Ended):
            try:
                await self._do(step)
            except CloudtaserError as error:
                self.trouble = error.diagnostic()
                self._custody.report(_judged(step, error))
            if not self._custody.needs_token:
                self._token = None
            delay = getattr(self._custody.step, "delay", 0.0)
            if delay:
                return _scattered(delay)
        self.how = step.how
        return None

    async def _do(self, step: Step) -> None:
        match step:
            case Look():
                self._custody.report(await self._look())
            case Mint():
                await self._mint()
            case Record(accessor):
                await self._of.ledger.add(self._entries[accessor])
                self._custody.report(Outcome.DONE)
            case Deliver():
                self._custody.report(await self._deliver())
            case Annotate(accessor):
                await self._annotate(accessor)
            case Revoke(accessor):
                await self._of.vault.revoke(accessor)
                self._of.metrics.tokens.labels("revoked").inc()
                self._custody.report(Outcome.DONE)
            case Forget(accessor):
                await self._of.ledger.remove(self._entries[accessor])
                self._custody.report(Outcome.DONE)

    async def _look(self) -> Outcome:
        self._target = await self._find()
        try:
            waits = await delivery.waits_for(self._target, self.job.public_key)
        except UnavailableError as error:
            self.trouble = error.diagnostic()
            return Outcome.UNANSWERED
        if waits:
            return Outcome.DONE
        self.trouble = "the wrapper waits for no token, or under another key"
        return Outcome.SUPERSEDED

    async def _mint(self) -> None:
        job, of = self.job, self._of
        minted = await of.vault.mint(self._pod, job.announcer.service_account, job.container)
        of.metrics.tokens.labels("minted").inc()
        of.on_minted()
        self._token = Token(minted.token, minted.ttl)
        entry = Entry(self._pod, job.container, minted.accessor, int(of.wall()), minted.ttl)
        self._entries[minted.accessor] = entry
        self._custody.minted(minted.accessor)

    async def _deliver(self) -> Outcome:
        assert self._token is not None
        assert self._target is not None
        job = self.job
        recipient = Recipient(job.public_key, self._pod.uid, job.container)
        envelope = self._of.credentials.seal(self._token, recipient)
        match await delivery.unseal(self._target, envelope):
            case Taken.YES:
                return Outcome.DONE
            case Taken.NOT_SEALED:
                self.trouble = "the wrapper has a token by now"
                return Outcome.SUPERSEDED
            case Taken.NO:
                self.trouble = "the wrapper refused the envelope; its log says why"
                return Outcome.REFUSED

    async def _annotate(self, accessor: str) -> None:
        target = self._target or await self._find()
        self._target = None  # a second attempt reads the pod anew
        container = self.job.container
        value = encode({**target.accessors, container: accessor})
        await self._of.cluster.annotate(self._pod, target.version, {ACCESSOR_ANNOTATION: value})
        replaced = target.accessors.get(container, "")
        if replaced and replaced != accessor:
            # anybody who may edit the pod can write there: only what the ledger has for it is its own
            known = {entry.accessor: entry for entry in await self._of.ledger.of_pod(self._pod.uid)}
            entry = known.get(replaced)
            replaced = replaced if entry is not None and entry.container == container else ""
            self._entries |= {replaced: entry} if entry is not None else {}
        self._custody.annotated(replaced)

    async def _find(self) -> Target:
        pod = await self._of.cluster.pod(self._pod.namespace, self._pod.name)
        return find(pod, self._pod.uid, self.job.container)


def _scattered(delay: float) -> float:
    return random.uniform(0.5, 1.0) * delay  # noqa: S311


def _judged(step: Step, error: CloudtaserError) -> Outcome:
    """What an error means to the custody."""
    gone = isinstance(error, NotFoundError) or (isinstance(error, Refusal) and error.reason == "gone")
    match step:
        case Annotate() if gone:
            return Outcome.GONE
        case Look() if gone:
            return Outcome.SUPERSEDED
        case Look() if isinstance(error, Refusal) and error.reason != "no_address":
            return Outcome.REFUSED
        case Mint() if isinstance(error, NoGrantError):
            return Outcome.REFUSED
    return Outcome.FAILED
