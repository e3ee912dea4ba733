"""A beacon, or an operator with its broker, that writes down everything it can read.

`python -m cloudtaser.demo.recorder beacon|operator FILE -- ARGUMENT…` runs the real program with a tap that
no flag of it reaches: what an attacker in full control of that part would see. Used by the demo ("what the
beacon saw") and by the tests of blindness.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from cloudtaser.beacon import app as beacon
from cloudtaser.operator import app as operator

_USAGE = "usage: python -m cloudtaser.demo.recorder beacon|operator FILE -- ARGUMENT…"


class Recorder:
    """Appends what passes to one file a direction, so that nothing is torn apart by its opposite."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: dict[str, BinaryIO] = {}

    def beacon(self, side: str, room: bytes, data: memoryview) -> None:
        """The beacon's tap: `side` sent `data` to its partner in `room`."""
        self._write(f"{side}-{room[:4].hex()}", data)

    def broker(self, side: str, data: bytes) -> None:
        """The broker's tap: what a pod or its stream sent."""
        self._write(side, data)

    def _write(self, name: str, data: bytes | memoryview) -> None:
        file = self._files.get(name)
        if file is None:
            path = self._path.with_name(f"{self._path.name}-{name}-{os.getpid()}")
            file = self._files[name] = path.open("ab", buffering=0)
        file.write(data)


def main(arguments: Sequence[str]) -> int:
    """Entry point; returns the program's exit status."""
    if len(arguments) < 3 or arguments[0] not in ("beacon", "operator") or arguments[2] != "--":
        print(_USAGE, file=sys.stderr)
        return 2
    recorder = Recorder(Path(arguments[1]))
    if arguments[0] == "beacon":
        return beacon.main(arguments[3:], tap=recorder.beacon)
    return operator.main(arguments[3:], tap=recorder.broker)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
