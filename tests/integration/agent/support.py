"""A node agent that the test scripts, and a real OpenBao with one secret for the wrapper that asks it."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.unit.wrapper.launch import PATIENCE

OK = {"v": 1, "ok": True, "mode": "enforce", "tier": "lsm", "vectors": {"known": 46, "hold": 40}}
TAKEN = {"v": 1, "ok": True}


def framed(body: bytes | dict[str, Any]) -> bytes:
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return len(body).to_bytes(4, "big") + body


def refusal(error: str, message: str = "") -> bytes:
    return framed({"v": 1, "ok": False, "error": error, "message": message})


@dataclass(slots=True)
class Agent:
    """Listens at `place`; answers each registration with the next of `answers` (the last one again and
    again), each score with ok. An answer of None closes the connection."""

    place: Path
    answers: list[bytes | None] = field(default_factory=lambda: [framed(OK)])
    heard: queue.Queue[dict[str, Any]] = field(default_factory=queue.Queue)
    connections: list[socket.socket] = field(default_factory=list)
    _listener: socket.socket = field(init=False)
    _thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.place))
        self._listener.listen(16)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """As an agent that is killed."""
        self._end(self._listener)
        self._thread.join(PATIENCE)  # whoever came a moment ago is among the connections now
        for connection in self.connections:
            self._end(connection)
        self.place.unlink()

    @staticmethod
    def _end(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()

    def next(self) -> dict[str, Any]:
        """The next message that came."""
        return self.heard.get(timeout=PATIENCE)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections.append(connection)
                threading.Thread(target=self._attend, args=(connection,), daemon=True).start()

    def _attend(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            while message := self._receive(connection):
                answer: bytes | None = framed(TAKEN)
                if "register" in message:
                    answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                self.heard.put(message)
                if answer is None:
                    connection.shutdown(socket.SHUT_RDWR)
                else:
                    connection.sendall(answer)

    @staticmethod
    def _receive(connection: socket.socket) -> dict[str, Any]:
        head = connection.recv(4, socket.MSG_WAITALL)
        if not head:
            return {}
        size = int.from_bytes(head, "big")
        assert 0 < size <= 4096
        message: dict[str, Any] = json.loads(connection.recv(size, socket.MSG_WAITALL))
        return message
