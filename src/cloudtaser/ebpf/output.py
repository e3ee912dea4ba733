"""Output: event lines to stdout, without the agent ever waiting for who reads them; used by `agent`."""

from __future__ import annotations

import queue
import threading
from typing import Final, TextIO

MAX_LINES: Final = 16384


class Output:
    """A bounded queue and a thread that writes; what finds the queue full is counted."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._queue: queue.Queue[str | None] = queue.Queue(MAX_LINES)
        self.unwritten = 0
        self._thread = threading.Thread(target=self._write, name="output", daemon=True)
        self._thread.start()

    def put(self, line: str) -> None:
        """Never waits."""
        try:
            self._queue.put_nowait(line)
        except queue.Full:
            self.unwritten += 1

    def _write(self) -> None:
        while (line := self._queue.get()) is not None:
            try:
                self._stream.write(line + "\n")
                if self._queue.empty():
                    self._stream.flush()
            except (OSError, ValueError):
                self.unwritten += 1

    def close(self, patience: float = 2.0) -> None:
        """Write what is left, for `patience` seconds at most."""
        try:
            self._queue.put(None, timeout=patience)
        except queue.Full:
            return
        self._thread.join(patience)
