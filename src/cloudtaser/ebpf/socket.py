"""Socket: where wrappers ask to be registered; the thin side of `protocol`.

Outside Kubernetes one socket in the file system, in Kubernetes an abstract one in each pod's network
namespace (`netns`). Bounded in connections and time; what is decided is `admission`'s. A registered process
keeps its connection, one, for as long as it lives: by its end it learns that the agent was restarted.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from cloudtaser.ebpf.protocol import Conversation, Malformed, Refusal, Register
from cloudtaser.errors import UnavailableError

ABSTRACT: Final = "@cloudtaser-agent"
MAX_CONNECTIONS: Final = 256  # of one listener, of peers that are not registered
FIRST_FRAME: Final = 10.0  # seconds
_BACKLOG: Final = 64
_READ: Final = 4096


class Refused(Exception):
    """A peer that is not registered, and why."""

    def __init__(self, refusal: Refusal, message: str) -> None:
        super().__init__(message)
        self.refusal, self.message = refusal, message


class Door(Protocol):
    """Who decides."""

    async def admit(self, connection: socket.socket, container: str) -> dict[str, object]:
        """Register the peer; what `Conversation.accept` says. Raises `Refused`."""

    def scored(self, connection: socket.socket, score: dict[str, object]) -> None:
        """A registered peer reported its protection score."""

    def turned_away(self, refusal: Refusal) -> None:
        """Count one."""


def bind(name: str) -> socket.socket:
    """A listening socket at a path, or abstract when `name` begins with @; a dead one in its place goes.

    Raises `UnavailableError`.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if name.startswith("@"):
            listener.bind(b"\0" + name[1:].encode())
        else:
            _bind_path(listener, Path(name))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise UnavailableError(f"cannot listen: {error.strerror}", on=name) from None
    return listener


def _bind_path(listener: socket.socket, path: Path) -> None:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        if path.is_socket():
            path.unlink()
    listener.bind(str(path))
    # whoever runs a wrapper may ask; who may register is decided by its executable
    os.chmod(path, 0o666)  # noqa: S103


def peer_number(connection: socket.socket) -> int:
    """The pid of a connection's peer, as the kernel has it."""
    return int(struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])


class Server:
    """All listeners, and the conversations on them."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._tasks: set[asyncio.Task[None]] = set()
        self._acceptors: dict[str, asyncio.Task[None]] = {}
        self._kept: dict[int, asyncio.Task[None]] = {}  # of registered processes, by pid

    def serve(self, name: str, listener: socket.socket) -> None:
        """Answer on this socket until `stop(name)`."""
        self._acceptors[name] = asyncio.get_running_loop().create_task(self._accept(listener))

    async def stop(self, name: str) -> None:
        """Close one listener."""
        task = self._acceptors.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        """Close all listeners and connections."""
        for name in list(self._acceptors):
            await self.stop(name)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        room = asyncio.Semaphore(MAX_CONNECTIONS)
        with listener:
            while True:
                await room.acquire()
                try:
                    connection, _ = await loop.sock_accept(listener)
                except OSError:  # too many descriptors, or the peer is gone already
                    room.release()
                    await asyncio.sleep(0.05)
                    continue
                task = loop.create_task(self._converse(connection, room))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _converse(self, connection: socket.socket, room: asyncio.Semaphore) -> None:
        loop = asyncio.get_running_loop()
        conversation = Conversation()
        connection.setblocking(False)
        kept = 0
        try:
            with connection, suppress(OSError, TimeoutError):
                async with asyncio.timeout(FIRST_FRAME) as limit:
                    while data := await loop.sock_recv(connection, _READ):
                        for event in conversation.receive(data):
                            answer, last = await self._answer(connection, conversation, event)
                            await loop.sock_sendall(connection, answer)
                            if last:
                                return
                            if not kept:
                                kept = self._keep(connection)
                                room.release()
                                limit.reschedule(None)
        finally:
            if not kept:
                room.release()
            elif self._kept.get(kept) is asyncio.current_task():
                del self._kept[kept]

    def _keep(self, connection: socket.socket) -> int:
        """The connection of a process that is registered now; one that it had before ends."""
        pid = peer_number(connection)
        before, task = self._kept.get(pid), asyncio.current_task()
        if before is not None and before is not task:
            before.cancel()
        assert task is not None
        self._kept[pid] = task
        return pid

    async def _answer(
        self, connection: socket.socket, conversation: Conversation, event: object
    ) -> tuple[bytes, bool]:
        if isinstance(event, Malformed):
            self._door.turned_away(event.refusal)
            return conversation.refuse(event.refusal, event.message), True
        if isinstance(event, Register):
            try:
                told = await self._door.admit(connection, event.container)
            except Refused as refused:
                self._door.turned_away(refused.refusal)
                return conversation.refuse(refused.refusal, refused.message), True
            return conversation.accept(**told), False  # type: ignore[arg-type]
        self._door.scored(connection, event.score)  # type: ignore[attr-defined]
        return conversation.thank(), False
