"""Leadership: runs what one replica alone may run, for as long as this one holds the Lease.

Used by `manager_container`. What is decided is decided in `election`; here are the API server, the clock and
the controllers. A controller is `run(stop)`: it is begun anew each time we come to lead, told to stop when we
no longer do, and cut off before another replica can take over.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from cloudtaser.errors import CloudtaserError
from cloudtaser.kube.errors import ConflictError, NotFoundError
from cloudtaser.kube.kinds import LEASES, Kind
from cloudtaser.net.log import get_logger
from cloudtaser.operator.election import Election, LeaseRecord, Wait
from cloudtaser.operator.enrolment import Reporter
from cloudtaser.wire.names import LEADER_LEASE

RESTART_SECONDS: Final = 5.0
"""Between two starts of a controller that failed."""
LABELS: Final = {
    "app.kubernetes.io/name": "cloudtaser",
    "app.kubernetes.io/managed-by": "cloudtaser-operator",
}

_log = get_logger("operator.leadership")


class Leases(Protocol):
    """What is needed of the API server; `kube.client.KubeApi` has it."""

    async def get_object(self, kind: Kind, namespace: str | None, name: str) -> dict[str, Any]:
        """The object; NotFoundError when there is none."""

    async def create_object(self, kind: Kind, body: dict[str, Any]) -> dict[str, Any]:
        """Create it; ConflictError when it is there already."""

    async def replace_object(self, kind: Kind, body: dict[str, Any]) -> dict[str, Any]:
        """Replace it; ConflictError when it changed since."""


class Controller(Protocol):
    """What runs on the leader only."""

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; soon after it is set, or cancelled."""


class Leadership:
    """One candidate. `run` it once; `held` and `wait` are for everybody."""

    def __init__(
        self,
        kube: Leases,
        namespace: str,
        identity: str,
        *,
        seconds: int = 15,
        name: str = LEADER_LEASE,
    ) -> None:
        """`identity`: unique among replicas and their restarts; `seconds`: the lease's duration."""
        self._kube = kube
        self._namespace = namespace
        self._name = name
        self._election = Election(identity, seconds)
        self._controllers: list[tuple[str, Controller]] = []
        self._published: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._leads = asyncio.Event()
        self._reporter = Reporter()
        self._term: _Term | None = None
        self._last: LeaseRecord | None = None
        self.annotations: Mapping[str, str] = {}
        """What the leader says in the Lease's annotations, as it was read last."""
        self.on_change: Callable[[bool], None] = lambda held: None
        """Called when we come to lead and when we no longer do."""

    @property
    def held(self) -> bool:
        """Whether we lead now."""
        return self._term is not None and self._election.held(asyncio.get_running_loop().time())

    @property
    def leader(self) -> str:
        """Who leads as far as we know; empty for nobody."""
        return self._election.leader

    def add(self, name: str, controller: Controller) -> None:
        """Run this whenever we lead. Before `run`."""
        self._controllers.append((name, controller))

    def publish(self, key: str, value: str) -> None:
        """As leader, say something to all replicas: an annotation of the Lease, written at once."""
        if self._published.get(key) != value:
            self._published[key] = value
            self._changed.set()

    async def wait(self) -> None:
        """Until we lead."""
        await self._leads.wait()

    async def run(self, stop: asyncio.Event) -> None:
        """A candidate until `stop`; then the Lease is released, so that another one leads within seconds."""
        stopping = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set():
                await self._look()
                await self._keep_term()
                await self._pause(stopping)
        finally:
            stopping.cancel()
            await self._end_term()
        await self._release()

    async def _look(self) -> None:
        """Read the Lease, and write it if it is ours to write."""
        loop, wall = asyncio.get_running_loop(), datetime.now(UTC)
        began = loop.time()
        patience = self._election.deadline / 2
        self._changed.clear()
        try:
            async with asyncio.timeout(patience):
                found = await self._read()
                step = self._election.look(found, loop.time(), wall)
                if isinstance(step, Wait):
                    self._election.lost()
                    self._last = found
                    self.annotations = found.annotations if found else {}
                else:
                    await self._write(found, step.spec)
                    self._election.wrote(began)
        except ConflictError:
            self._election.lost()  # somebody else was first; who, the next look tells
        except CloudtaserError as error:
            self._say(error.what, error.diagnostic())
        except TimeoutError:
            self._say("timeout", f"no answer within {patience:g} s")

    async def _pause(self, stopping: asyncio.Future[Any]) -> None:
        changed = asyncio.ensure_future(self._changed.wait())
        wait = self._election.retry * random.uniform(0.8, 1.2)  # noqa: S311  # spreads replicas
        try:
            watched = {stopping, changed} if self._term is not None else {stopping}
            await asyncio.wait(watched, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()

    async def _read(self) -> LeaseRecord | None:
        try:
            return LeaseRecord.of(await self._kube.get_object(LEASES, self._namespace, self._name))
        except NotFoundError:
            return None

    async def _write(self, found: LeaseRecord | None, spec: Mapping[str, Any]) -> None:
        metadata: dict[str, Any] = {
            "namespace": self._namespace,
            "name": self._name,
            "labels": LABELS,
            "annotations": self._published,
        }
        if found is None:
            written = await self._kube.create_object(LEASES, {"metadata": metadata, "spec": dict(spec)})
        else:
            metadata["annotations"] = {**found.annotations, **self._published}
            metadata["resourceVersion"] = found.metadata.get("resourceVersion", "")
            written = await self._kube.replace_object(LEASES, {"metadata": metadata, "spec": dict(spec)})
        self._last = LeaseRecord.of(written)
        self.annotations = self._last.annotations

    async def _keep_term(self) -> None:
        held = self._election.held(asyncio.get_running_loop().time())
        if held and self._term is None:
            _log.info("leading", identity=self._election.identity)
            self._term = _Term(self._controllers)
            self._leads.set()
            self.on_change(True)
        elif not held and self._term is not None:
            await self._end_term()

    async def _end_term(self) -> None:
        term, self._term = self._term, None
        if term is None:
            return
        _log.info("no longer leading", identity=self._election.identity)
        self._published.clear()
        self._leads.clear()
        self.on_change(False)
        # others wait for the whole of the lease, we gave up at two thirds: what is left is for stopping
        await term.end((self._election.seconds - self._election.deadline) / 2)

    async def _release(self) -> None:
        """Nothing is lost when it fails: the Lease runs out."""
        last = self._last
        if last is None or last.holder != self._election.identity:
            return
        try:
            async with asyncio.timeout(self._election.retry):
                await self._write(last, self._election.released(last, datetime.now(UTC)))
        except (CloudtaserError, TimeoutError):
            return
        _log.info("leadership released", identity=self._election.identity)

    def _say(self, what: str, error: str) -> None:
        if self._reporter.due(what, asyncio.get_running_loop().time()):
            _log.warning("the leader's Lease cannot be had", error=error)


class _Term:
    """The controllers, from when we came to lead until we no longer do."""

    def __init__(self, controllers: list[tuple[str, Controller]]) -> None:
        self._stop = asyncio.Event()
        self._tasks = [asyncio.ensure_future(self._keep(name, one)) for name, one in controllers]

    async def end(self, seconds: float) -> None:
        """Tell them, wait for so long, then cut them off."""
        self._stop.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep(self, name: str, controller: Controller) -> None:
        """A controller that fails is begun anew: one alone must not take the others down."""
        while not self._stop.is_set():
            try:
                await controller.run(self._stop)
            except Exception as error:  # noqa: BLE001  # whatever it is, it is said and tried again
                detail = error.diagnostic() if isinstance(error, CloudtaserError) else repr(error)
                _log.error("a controller failed", controller=name, error=detail)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RESTART_SECONDS):
                    await self._stop.wait()
