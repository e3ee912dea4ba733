"""Admission: whether the process at the other end of a connection is registered, and how; called by `socket`.

The order is the point: everything of /proc that only the unprotected show is read first, then the kernel
marks the process, then what others hold on it is looked for, then the peer is asked once more whether it
lives. Only then does it get its answer, and only after that does it fetch a secret.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from cloudtaser.ebpf import layout, processes
from cloudtaser.ebpf.guard import Guard
from cloudtaser.ebpf.layout import Mode
from cloudtaser.ebpf.libbpf import BpfError
from cloudtaser.ebpf.processes import Measurer, Place
from cloudtaser.ebpf.protocol import Refusal
from cloudtaser.ebpf.registry import Registration, Registry
from cloudtaser.ebpf.socket import Refused

MAX_AT_ONCE: Final = 32


@dataclass(frozen=True, slots=True)
class Allowed:
    """The executables that may register: by content, wherever they lie."""

    digests: frozenset[str]

    @classmethod
    def measured(cls, wanted: tuple[str, ...], measurer: Measurer) -> Allowed:
        """`wanted` are paths, which are measured now, or sha256:HEX. Raises `OSError` for a path."""
        return cls(
            frozenset(
                each.removeprefix("sha256:") if each.startswith("sha256:") else measurer.measure(each).digest
                for each in wanted
            )
        )


@dataclass(frozen=True, slots=True)
class Peer:
    """A process that asks, as it was before it was protected."""

    pid: int
    pid_fd: int
    place: Place
    executable: str
    digest: str
    namespaces: dict[str, int]


class Admission:
    """Registers processes. `registered` is told of each, with its pidfd, which it owns from then on."""

    def __init__(
        self,
        guard: Guard | None,
        registry: Registry,
        allowed: Allowed,
        measurer: Measurer,
        answer: Callable[[], dict[str, Any]],
        registered: Callable[[Registration, Peer], None],
    ) -> None:
        self._guard, self._registry, self._allowed = guard, registry, allowed
        self._measurer, self._answer, self._registered = measurer, answer, registered
        self._host = processes.host_namespaces(guard.config.host_mounts) if guard is not None else {}
        self._busy = 0

    async def admit(self, connection: socket.socket, container: str) -> dict[str, Any]:
        """What the peer is told; raises `Refused`."""
        if self._guard is None:
            raise Refused(Refusal.UNAVAILABLE, "this kernel takes none of the agent's programs")
        if self._busy >= MAX_AT_ONCE:
            raise Refused(Refusal.BUSY, "too many ask at once; try again")
        if self._is_protected(self._guard, connection):
            return self._answer()  # it asks after the agent's restart, or lost its connection
        self._busy += 1
        try:
            peer = await asyncio.get_running_loop().run_in_executor(None, self._examine, connection)
            try:
                registration = self._register(self._guard, peer, container)
            except BaseException:
                os.close(peer.pid_fd)
                raise
        finally:
            self._busy -= 1
        self._registered(registration, peer)
        return self._answer()

    @staticmethod
    def _is_protected(guard: Guard, connection: socket.socket) -> bool:
        """Whether the peer is, as after a restart of the agent: it was measured then, and nobody, not even
        the agent, sees its executable now.
        """
        try:
            pid, pid_fd = processes.peer(connection)
        except OSError:
            return False
        try:
            found = guard.ask(layout.ACTION_LOOK, pid, pid_fd)
            return bool(found) and all(thread.registration for thread in found) and processes.lives(pid_fd)
        except BpfError:
            return False
        finally:
            os.close(pid_fd)

    def _examine(self, connection: socket.socket) -> Peer:
        """Reads a file of some megabytes, so in a thread of its own."""
        try:
            pid, pid_fd = processes.peer(connection)
        except OSError as error:
            raise Refused(
                Refusal.NOT_ALLOWED, f"the peer cannot be told: {error.strerror or error}"
            ) from None
        try:
            measure = self._measurer.measure(f"/proc/{pid}/exe")
            peer = Peer(
                pid,
                pid_fd,
                processes.place(pid),
                processes.executable(pid),
                measure.digest,
                processes.namespaces(pid),
            )
        except OSError as error:
            os.close(pid_fd)
            raise Refused(
                Refusal.NOT_ALLOWED, f"its executable cannot be measured: {error.strerror}"
            ) from None
        except BaseException:
            os.close(pid_fd)
            raise
        return peer

    def _register(self, guard: Guard, peer: Peer, container: str) -> Registration:
        """From here to the end nothing waits: no other registration comes in between."""
        if peer.digest not in self._allowed.digests:
            raise Refused(
                Refusal.NOT_ALLOWED,
                f"{peer.executable} (sha256:{peer.digest}) is not among those that may register",
            )
        if full := self._registry.room_for(peer.place.pod):
            raise Refused(Refusal.LIMIT, full)
        number = self._registry.next_number()
        try:
            start = self._mark(guard, peer, number)
        except BpfError as error:
            raise Refused(Refusal.UNAVAILABLE, f"the kernel refused: {error.strerror}") from None
        registration = Registration(
            number, peer.pid, start, peer.place.pod, peer.place.container, container, peer.executable
        )
        self._registry.add(registration)
        return registration

    def _mark(self, guard: Guard, peer: Peer, number: int) -> int:
        found = guard.ask(layout.ACTION_MARK, peer.pid, peer.pid_fd, number)
        try:
            trouble = 0
            for thread in found:
                trouble |= thread.trouble
            if not found or not processes.lives(peer.pid_fd):
                raise Refused(Refusal.NOT_ALLOWED, "the process has ended")
            if trouble & layout.NO_ROOM:
                raise Refused(Refusal.LIMIT, "the kernel's map of protected tasks is full")
            if guard.config.mode == Mode.ENFORCE:
                self._refuse_watched(guard, peer, trouble)
        except Refused:
            guard.ask(layout.ACTION_RELEASE, peer.pid, peer.pid_fd)
            raise
        for name, space in peer.namespaces.items():
            if space != self._host.get(name):
                guard.own_namespace(space)
        return found[0].start

    @staticmethod
    def _refuse_watched(guard: Guard, peer: Peer, trouble: int) -> None:
        if trouble & layout.TRACED:
            raise Refused(Refusal.TRACED, "a debugger is attached to the process")
        if trouble & layout.SUPERVISED:
            raise Refused(Refusal.TRACED, "a supervisor answers its system calls (seccomp user notification)")
        handles = guard.handles(peer.pid)
        if handles:
            one = handles[0]
            raise Refused(Refusal.HELD, f"{one.comm or 'a process'} ({one.holder}) has {one.name} of it open")
