"""Layout: the structures that the kernel's programs and the agent share, byte for byte as in bpf/guard.h and
life.h.

`tests/unit/ebpf/test_layout.py` holds both sides together by the object's own type information.
"""

from __future__ import annotations

import struct
from dataclasses import astuple, dataclass
from enum import IntEnum
from typing import Any, Final, Self


class Mode(IntEnum):
    """What a refused access gets."""

    DETECT = 0
    ENFORCE = 1


class Verdict(IntEnum):
    """What became of an access."""

    DENIED = 1
    KILLED = 2
    DETECTED = 3
    EXEMPT = 4
    NOTED = 5


SCOPE_SUBJECT, SCOPE_RUNTIME, SCOPE_AGENT = 1, 2, 4
TRUST_RUNTIME, TRUST_TRACER, TRUST_AGENT = 1, 2, 4
OWN_MAP, OWN_PROGRAM, OWN_LINK = 1 << 32, 2 << 32, 3 << 32
FIXED_ITSELF, FIXED_CHILDREN = 1, 2
ACTION_MARK, ACTION_RELEASE, ACTION_LOOK = 1, 2, 3
TRACED, SUPERVISED, NO_ROOM = 1, 2, 4
COUNTERS: Final = ("lost", "fork_refused", "capable", "exempt")

ZERO: Final = bytes(4)
GUARD: Final = struct.Struct("<QII")
CONFIG: Final = struct.Struct("<IIIIIIQQIIQIIII")
REQUEST: Final = struct.Struct("<IIIIQ")
FOUND: Final = struct.Struct("<QIIIIII")
HANDLE: Final = struct.Struct("<IIII16s16s")
IDENTITY: Final = struct.Struct("<QQII")
EVENT: Final = struct.Struct("<QQIIiIIIIIQ16s16s32s32s")
INODE_KEY: Final = struct.Struct("<QII")
TRUSTED: Final = struct.Struct("<QII")
U32: Final = struct.Struct("<I")
U64: Final = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Config:
    """`struct config`; `kills` is `vectors.KILLS` in the tier `kill`, 0 in the others."""

    mode: int = Mode.DETECT
    kills: int = 0
    everyone: int = 0
    log_all: int = 0
    agent_tgid: int = 0
    agent_dead: int = 0
    agent_start: int = 0
    agent_inode: int = 0
    agent_device: int = 0
    host_mounts: int = 0
    open_until: int = 0
    numbers: int = 0
    pins_device: int = 0
    networks: int = 0
    unused: int = 0

    def pack(self) -> bytes:
        """As the kernel reads it."""
        return CONFIG.pack(*astuple(self))

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """What the kernel has."""
        return cls(*CONFIG.unpack(data))


@dataclass(frozen=True, slots=True)
class RawEvent:
    """`struct event`; `time` on CLOCK_MONOTONIC in ns."""

    time: int
    cgroup: int
    vector: int
    verdict: Verdict
    syscall: int
    source_tgid: int
    source_tid: int
    source_uid: int
    target_tgid: int
    registration: int
    argument: int
    source_comm: str
    target_comm: str
    source_exe: str
    name: str

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """One record of the ring."""
        time, cgroup, vector, verdict, *numbers, source, target, exe, name = EVENT.unpack_from(data)
        fields: list[Any] = [time, cgroup, vector, Verdict(verdict), *numbers]
        return cls(*fields, *map(_text, (source, target, exe, name)))


@dataclass(frozen=True, slots=True)
class Found:
    """`struct found`: one thread that `iter_mark` met."""

    start: int
    tgid: int
    tid: int
    registration: int
    trouble: int
    mounts: int  # inode number of its mount namespace
    more: int = 0


@dataclass(frozen=True, slots=True)
class Handle:
    """`struct handle`: somebody else's open file on a process's memory."""

    holder: int
    fd: int
    vector: int
    name: str
    comm: str


def parse_found(data: bytes) -> list[Found]:
    """What `iter_mark` wrote."""
    return [Found(*record) for record in FOUND.iter_unpack(data)]


def parse_handles(data: bytes) -> list[Handle]:
    """What `iter_handles` wrote."""
    return [
        Handle(holder, fd, vector, _text(name), _text(comm))
        for holder, fd, vector, _, name, comm in HANDLE.iter_unpack(data)
    ]


@dataclass(frozen=True, slots=True)
class Inode:
    """`struct identity`: a file as the kernel knows it."""

    inode: int
    size: int
    device: int

    @property
    def key(self) -> bytes:
        """`struct inode_key`."""
        return INODE_KEY.pack(self.inode, self.device, 0)


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode(errors="replace")
