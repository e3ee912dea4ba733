"""Lifetimes: registered processes from their registration to the end of their tree; used by `agent`.

A pidfd tells when the process that registered has ended, the kernel's map when the last of its descendants
has.
"""

from __future__ import annotations

import asyncio
import os
from typing import Final

from cloudtaser.ebpf import processes
from cloudtaser.ebpf.admission import Peer
from cloudtaser.ebpf.guard import Guard
from cloudtaser.ebpf.installation import AGENT
from cloudtaser.ebpf.probe import SELF_TEST
from cloudtaser.ebpf.registry import Registration, Registry

_SETTLE: Final = 1.0  # seconds; after a registered process has ended, for its tree to end with it


class Lifetimes:
    """Keeps `registry` to those that live, and the kernel's namespaces to theirs."""

    def __init__(self, guard: Guard, registry: Registry) -> None:
        self._guard, self._registry = guard, registry
        self._pid_fds: dict[int, int] = {}
        self._spaces: dict[int, set[int]] = {}
        self.tasks = 0  # how many are protected, when it was last looked

    def adopt(self) -> None:
        """Take over what a former agent registered."""
        found = self._guard.protected()
        self.tasks = len(found)
        for thread in found:
            if thread.registration in (AGENT, SELF_TEST) or thread.tid != thread.tgid:
                continue
            if self._registry.get(thread.registration) is None:
                where = processes.place(thread.tgid)
                self._registry.adopt(
                    Registration(thread.registration, thread.tgid, thread.start, where.pod, where.container)
                )

    def begin(self, registration: Registration, peer: Peer) -> None:
        """One was registered; its pidfd is ours from here on."""
        self._pid_fds[registration.number] = peer.pid_fd
        self._spaces[registration.number] = set(peer.namespaces.values())
        asyncio.get_running_loop().add_reader(peer.pid_fd, self._ended, registration.number)

    def _ended(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        pid_fd = self._pid_fds.pop(number)
        loop.remove_reader(pid_fd)
        os.close(pid_fd)
        loop.call_later(_SETTLE, self.sweep)

    def sweep(self) -> None:
        """Forget registrations whose whole tree is gone, and the namespaces that were only theirs."""
        found = self._guard.protected()
        self.tasks = len(found)
        living = {thread.registration for thread in found}
        for registration in self._registry.all():
            if registration.number in living or registration.number in self._pid_fds:
                continue
            self._registry.remove(registration.number)
            self._spaces.pop(registration.number, None)
        # of an adopted registration nobody may look up the namespaces any more: while one lives, all are kept
        if all(each.number in self._spaces for each in self._registry.all()):
            self._guard.keep_namespaces(set().union(*self._spaces.values()))
