"""Agent: the node's programs, registry, sockets and events, wired and run until a signal; started by
`app`.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from cloudtaser.ebpf import hardening, installation, layout, netns, processes
from cloudtaser.ebpf.admission import Admission, Allowed, Peer
from cloudtaser.ebpf.config import Config
from cloudtaser.ebpf.events import Line, Reporter, encode, time_of_day
from cloudtaser.ebpf.guard import Guard
from cloudtaser.ebpf.health import Health, Page
from cloudtaser.ebpf.layout import Mode, RawEvent
from cloudtaser.ebpf.lifetimes import Lifetimes
from cloudtaser.ebpf.machine import machine
from cloudtaser.ebpf.output import Output, log
from cloudtaser.ebpf.probe import SELF_TEST, Outcome
from cloudtaser.ebpf.processes import Measurer
from cloudtaser.ebpf.protocol import Refusal
from cloudtaser.ebpf.registry import Registration, Registry
from cloudtaser.ebpf.ring import Ring
from cloudtaser.ebpf.socket import ABSTRACT, Server, bind
from cloudtaser.ebpf.status import Figures, metrics, status
from cloudtaser.ebpf.vectors import Standing, Tier
from cloudtaser.errors import CloudtaserError, ConfigError

NETWORK: Final = "network"  # bpf/life.h: a program starts in a network namespace that is new
RING_SIZE: Final = 1 << 22  # bpf/guard.h
_TICK: Final = 0.5  # seconds
_TURN: Final = 512  # events
_SWEEP: Final = 30.0
_POD_SCAN: Final = 1.0


class Agent:
    """One node's agent. `load` before anything else: it forks, and so needs to be alone in its process."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._registry = Registry()
        self._measurer = Measurer()
        self._refused: Counter[str] = Counter()
        self._scores = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready = False
        self._network = asyncio.Event()
        self._guard: Guard | None = None
        self._lifetimes: Lifetimes | None = None
        self._outcome = Outcome(Tier.NONE, {})
        self._output = Output(sys.stdout)
        self._reporter = Reporter(
            config.node, self._describe_source, self._describe_target, time.time_ns() - time.monotonic_ns()
        )

    # --- set-up

    def load(self) -> None:
        """Put the programs into the kernel and pin them. Raises `ConfigError` for a path that cannot be
        measured.
        """
        config = self._config
        try:
            self._allowed = Allowed.measured(config.executables, self._measurer)
        except OSError as error:
            raise ConfigError(
                f"cannot be measured: {error.strerror}", on=f"ALLOWED_EXECUTABLES: {error.filename}"
            ) from None
        self._guard, self._outcome = installation.install(config)
        if self._guard is None:
            return
        self._lifetimes = Lifetimes(self._guard, self._registry)
        self._lifetimes.adopt()
        if (
            self._outcome.tier is not Tier.KILL
        ):  # there, who looks at the agent's own files need not die for it
            installation.protect_this_process(self._guard)
        log(
            "protecting",
            tier=self._outcome.tier,
            mode=self.mode,
            known=self._outcome.known,
            hold=self._outcome.hold,
        )
        if self._outcome.tier is Tier.KILL and config.mode == Mode.ENFORCE and not config.reactive_kill:
            log("this kernel cannot deny: accesses are told, none is refused (REACTIVE_KILL, docs/ebpf.md)")

    # --- running

    @property
    def mode(self) -> str:
        """As the contract has it."""
        enforces = self._guard is not None and self._guard.config.mode == Mode.ENFORCE
        return "enforce" if enforces else "detect"

    async def run(self) -> None:
        """Until SIGTERM or SIGINT. Raises `CloudtaserError` when a socket cannot be had."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        admission = Admission(
            self._guard, self._registry, self._allowed, self._measurer, self._answer, self._registered
        )
        self._door = admission
        server = Server(self)
        self._server, self._sockets = server, 0
        self._health = Health(
            {
                "/healthz": self._healthz,
                "/readyz": self._readyz,
                "/status": self._status_page,
                "/metrics": self._metrics_page,
            }
        )
        port = await self._health.listen(*self._config.health)
        if self._config.socket:
            listener = bind(self._config.socket)
            if self._guard is not None and self._config.socket.startswith("/"):
                self._guard.fix(Path(self._config.socket), layout.FIXED_ITSELF)
            server.serve(self._config.socket, listener)
            self._sockets += 1
        ring = None
        if self._guard is not None:
            ring = Ring(self._guard.map("events").fd, RING_SIZE)
            loop.add_reader(ring.fd, self._drain, ring)
            self._start(self._every(_SWEEP, self._sweep))
            if self._config.pods:
                self._start(self._serve_pods())
        self._start(self._every(_TICK, self._tick))
        self._harden()
        self._ready = True
        log("ready", health=f"{self._config.health[0]}:{port}", socket=self._config.socket)
        await stop.wait()
        await self._stop(ring)

    async def _stop(self, ring: Ring | None) -> None:
        self._ready = False
        await self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if ring is not None and self._guard is not None:
            asyncio.get_running_loop().remove_reader(ring.fd)
            self._drain(ring)
            if self._config.handover:
                until = time.monotonic_ns() + self._config.handover * 1_000_000_000
                self._guard.configure(replace(self._guard.config, open_until=until))
        await self._health.close()
        for line in self._reporter.tick(time.monotonic_ns() + 2_000_000_000):
            self._output.put(encode(line))
        self._output.close()

    def _harden(self) -> None:
        try:
            hardening.forbid_dumps()
            hardening.drop_capabilities()
            hardening.forbid_calls()
        except OSError as error:
            log("hardening is incomplete", reason=str(error))

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @staticmethod
    async def _every(seconds: float, action: Any) -> None:
        while True:
            await asyncio.sleep(seconds)
            action()

    # --- events

    def _drain(self, ring: Ring) -> None:
        """What is there, a turn of the loop's worth: a flood of events must not keep all else waiting."""
        for record in ring.read(_TURN):
            event = RawEvent.parse(record)
            if event.registration == SELF_TEST:
                continue
            if not event.vector and event.name == NETWORK:
                self._network.set()
                continue
            for line in self._reporter.add(event):
                self._output.put(encode(line))

    def _tick(self) -> None:
        for line in self._reporter.tick(time.monotonic_ns()):
            self._output.put(encode(line))

    def _describe_source(self, pid: int, comm: str) -> Line:
        where = processes.place(pid)
        return {
            "exe": processes.executable(pid),
            "container": where.container,
            "pod": where.pod,
            "namespace": "",
        }

    def _describe_target(self, pid: int, comm: str) -> Line:
        where = processes.place(pid)
        return {"container": where.container, "pod": where.pod, "namespace": ""}

    # --- registrations

    async def admit(self, connection: Any, container: str) -> dict[str, object]:
        """`socket.Door`."""
        return await self._door.admit(connection, container)

    def scored(self, connection: Any, score: dict[str, object]) -> None:
        """`socket.Door`: counted; what a process says of itself is no measurement of ours."""
        self._scores += 1

    def turned_away(self, refusal: Refusal) -> None:
        """`socket.Door`."""
        self._refused[refusal.value] += 1

    def _answer(self) -> dict[str, Any]:
        return {
            "mode": self.mode,
            "tier": self._outcome.tier.value,
            "known": self._outcome.known,
            "hold": self._outcome.hold,
        }

    def _registered(self, registration: Registration, peer: Peer) -> None:
        assert self._lifetimes is not None
        self._lifetimes.begin(registration, peer)
        line: Line = {
            "time": time_of_day(time.time_ns()),
            "node": self._config.node,
            "vector": 0,
            "name": "registration",
            "verdict": "registered",
            "source": {
                "pid": peer.pid,
                "comm": "",
                "exe": peer.executable,
                "digest": peer.digest,
                "container": peer.place.container,
                "pod": peer.place.pod,
                "namespace": "",
            },
            "target": {"pid": peer.pid, "registration": registration.number, "name": registration.name},
            "syscall": "",
            "count": 1,
        }
        self._output.put(encode(line))

    def _sweep(self) -> None:
        if self._guard is not None and self._lifetimes is not None:
            self._lifetimes.sweep()
            installation.tell_scopes(self._guard, self._config)

    async def _serve_pods(self) -> None:
        open_: set[int] = set()
        loop = asyncio.get_running_loop()
        while True:
            try:
                found = await loop.run_in_executor(None, netns.pods)
            except OSError:
                found = {}
            for space in open_ - set(found):
                await self._server.stop(f"net:{space}")
                self._sockets -= 1
            open_ &= set(found)
            for space, pid in found.items():
                if space not in open_:
                    try:
                        listener = await loop.run_in_executor(None, netns.listen_in, pid, ABSTRACT)
                    except (OSError, CloudtaserError) as error:
                        log("no socket in a pod", pid=pid, reason=str(error))
                        continue
                    self._server.serve(f"net:{space}", listener)
                    open_.add(space)
                    self._sockets += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(self._network.wait(), _POD_SCAN)
            self._network.clear()

    # --- pages

    def _figures(self) -> Figures:
        guard = self._guard
        return Figures(
            registrations=len(self._registry),
            scores=self._scores,
            sockets=self._sockets,
            protected_tasks=self._lifetimes.tasks if self._lifetimes else 0,
            events=dict(self._reporter.told),
            refused=dict(self._refused),
            lost=guard.counter("lost") if guard else 0,
            suppressed=self._reporter.suppressed,
            unwritten=self._output.unwritten,
            fork_refused=guard.counter("fork_refused") if guard else 0,
        )

    def _healthz(self) -> Page:
        return 200, "text/plain", "ok\n"

    def _readyz(self) -> Page:
        return (200, "text/plain", "ok\n") if self._ready else (503, "text/plain", "not ready\n")

    def _status_page(self) -> Page:
        outcome = self._outcome
        return (
            200,
            "application/json",
            status(
                outcome,
                node=self._config.node,
                mode=self.mode,
                everyone=self._config.everyone,
                machine=machine(),
                figures=self._figures(),
            )
            + "\n",
        )

    def _metrics_page(self) -> Page:
        return (
            200,
            "text/plain; version=0.0.4",
            metrics(self._outcome, mode=self.mode, figures=self._figures()),
        )

    @property
    def holds(self) -> bool:
        """Whether anything does."""
        return Standing.HOLDS in self._outcome.standings.values()
