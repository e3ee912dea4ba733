"""Audit lines on their way out: a bounded queue, and a thread that writes it to standard output.

Made by `service` as the sink of `audit`. Whoever reads the audit may stall; the loop that serves all clusters
must not stall with it. What does not fit into the queue is dropped, and the gap shows: lines are numbered
before they come here, and `dropped` counts. Requests go on, for OpenBao keeps an audit of its own of all that
is passed on; what the bridge would do with a token of its own is refused meanwhile (`keeps_up`).
"""

from __future__ import annotations

import asyncio
import os
import select
import threading
from collections import deque
from typing import Final

from cloudtaser.net.log import get_logger

STDOUT: Final = 1
MAX_WAITING: Final = 8 * 1024 * 1024
"""Bytes of lines that wait for their reader: some 25,000."""
GATHER: Final = 0.005
"""Seconds for which lines gather before the thread is woken: each waking costs the loop a moment."""
CLOSE_TIMEOUT: Final = 5.0
"""Seconds for the rest to be read when the bridge ends."""
_POLL: Final = 1.0
_STEP: Final = 64 * 1024

_log = get_logger("bridge.audit")


class AuditLines:
    """Call it with one line at a time. `close` ends the thread."""

    def __init__(self, descriptor: int = STDOUT, *, limit: int = MAX_WAITING) -> None:
        """`descriptor` is written to, past Python's own buffer, and not closed."""
        self._descriptor = descriptor
        self._limit = limit
        self._lines: list[bytes] = []  # of the last moment
        self._size = 0  # bytes given and not yet written or dropped; changed under the lock
        self._waiting: deque[bytes] = deque()
        self._ready = threading.Condition()
        self._closing = False
        self._stalled = False
        self._broken = False
        self._thread: threading.Thread | None = None
        self.dropped = 0
        """Lines that nobody will read."""

    @property
    def keeps_up(self) -> bool:
        """Whether the next line will be written, as far as one can tell."""
        return not self._broken and self._size <= self._limit // 2

    def __call__(self, line: bytes) -> None:
        """Take one line; never waits."""
        with self._ready:
            fits = self._size + len(line) + 1 <= self._limit
            if fits:
                self._size += len(line) + 1
        if not fits:
            self.dropped += 1
            if not self._stalled:
                self._stalled = True
                _log.error("the audit's reader stalls: lines are dropped", waiting_bytes=self._size)
            return
        if self._stalled and self.keeps_up:
            self._stalled = False
            _log.warning("the audit is read again", dropped=self.dropped)
        if not self._lines:
            asyncio.get_running_loop().call_later(GATHER, self._hand_over)
        self._lines.append(line)

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Wait until all is written, `timeout` seconds at most."""
        self._hand_over()
        with self._ready:
            self._closing = True
            self._ready.notify()
        if self._thread is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                _log.error("the audit's reader stalls: the last lines are lost", bytes=self._size)

    def _hand_over(self) -> None:
        if not self._lines:
            return
        data = b"\n".join(self._lines) + b"\n"
        self._lines.clear()
        if self._thread is None:  # a daemon: a reader that stalls must not keep the bridge from ending
            self._thread = threading.Thread(target=self._write, name="audit", daemon=True)
            self._thread.start()
        with self._ready:
            self._waiting.append(data)
            self._ready.notify()

    # The thread

    def _write(self) -> None:
        while True:
            with self._ready:
                while not self._waiting:
                    if self._closing:
                        return
                    self._ready.wait()
                data = self._waiting.popleft()
            lost = 0
            try:
                self._write_all(data)
            except (OSError, ValueError) as error:
                lost = data.count(b"\n")
                if not self._broken:
                    self._broken = True
                    _log.error("the audit cannot be written", reason=type(error).__name__)
            else:
                self._broken = False
            with self._ready:
                self._size -= len(data)
                self.dropped += lost

    def _write_all(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest[:_STEP]) :]
            except BlockingIOError:  # whoever shares the pipe made it so
                select.select([], [self._descriptor], [], _POLL)
