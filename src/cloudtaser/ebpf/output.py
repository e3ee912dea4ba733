"""Output: event lines to stdout, without the agent ever waiting for who reads them, and its own log to
stderr; used by `agent` and `installation`.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from typing import Any, Final, TextIO

from cloudtaser.ebpf.events import time_of_day

MAX_LINES: Final = 16384


def log(message: str, **fields: Any) -> None:
    """One JSON line on stderr; stdout is for events."""
    line = {"time": time_of_day(time.time_ns()), "program": "cloudtaser-ebpf", "message": message, **fields}
    print(json.dumps(line), file=sys.stderr, flush=True)


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
