"""Registry: which processes are registered, and whether one more may be; pure, the kernel's part is
`agent`'s.

A registration is a process with its start time, and all that descend from it. It ends when the process that
asked for it has ended; its descendants stay protected in the kernel as long as they live.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

PER_POD: Final = 64
TOTAL: Final = 4096
RESERVE: Final = 512  # of TOTAL: for pods that have none yet
_LAST_ID: Final = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Registration:
    """One process that asked to be protected."""

    number: int
    pid: int
    start: int  # start_boottime, ns
    pod: str = ""
    container: str = ""
    name: str = ""  # what it calls its container
    executable: str = ""


@dataclass(slots=True)
class Registry:
    """All of them; `TOTAL` at most, `PER_POD` of one pod (or, outside Kubernetes, of one machine's
    processes).
    """

    _entries: dict[int, Registration] = field(default_factory=dict)
    _pods: dict[str, int] = field(default_factory=dict)
    _last: int = 0
    per_pod: int = PER_POD
    total: int = TOTAL
    reserve: int = RESERVE

    def __len__(self) -> int:
        return len(self._entries)

    def room_for(self, pod: str) -> str:
        """Why there is no room for one more of this pod; empty when there is."""
        mine = self._pods.get(pod, 0)
        if mine >= self.per_pod:
            return f"this pod has {self.per_pod} registered processes, which is the limit"
        if len(self._entries) >= self.total:
            return f"this node has {self.total} registered processes, which is the limit"
        if mine and len(self._entries) >= self.total - self.reserve:
            return "this node is nearly full: what is left is for pods that have no registered process yet"
        return ""

    def next_number(self) -> int:
        """A number that no living registration has."""
        while True:
            self._last = self._last % _LAST_ID + 1
            if self._last not in self._entries:
                return self._last

    def add(self, registration: Registration) -> None:
        """The kernel has it."""
        assert registration.number not in self._entries
        self._entries[registration.number] = registration
        self._pods[registration.pod] = self._pods.get(registration.pod, 0) + 1

    def adopt(self, registration: Registration) -> None:
        """One that a former agent made; its number is not given again."""
        self._last = max(self._last, registration.number)
        if registration.number not in self._entries:
            self.add(registration)

    def remove(self, number: int) -> Registration | None:
        """Its process has ended."""
        registration = self._entries.pop(number, None)
        if registration is not None:
            left = self._pods[registration.pod] - 1
            if left:
                self._pods[registration.pod] = left
            else:
                del self._pods[registration.pod]
        return registration

    def get(self, number: int) -> Registration | None:
        """The registration of this number."""
        return self._entries.get(number)

    def all(self) -> tuple[Registration, ...]:
        """In the order in which they came."""
        return tuple(self._entries.values())
