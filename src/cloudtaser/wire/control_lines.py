"""Control lines: the JSON lines of a `control` stream, short and few (spec/wire.md, "Tunnel").

Used by `bridge.control` and `operator.control`, which know what the lines mean. Pure: the caller passes `now`
(seconds, any steady clock).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from cloudtaser.errors import ProtocolError
from cloudtaser.wire.strict_json import parse_object

MAX_LINE: Final = 4096
LINES_LIMIT: Final = 60
"""Lines taken per minute."""
_MINUTE: Final = 60.0


class ControlLines:
    """What one peer says."""

    __slots__ = ("_count", "_rest", "_since")

    def __init__(self, now: float) -> None:
        self._rest = b""
        self._count = 0
        self._since = now

    def receive(self, data: bytes, now: float) -> Iterator[dict[str, Any]]:
        """The lines that are whole now, one at a time; ProtocolError at the first that is out of bounds."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > MAX_LINE:
            raise ProtocolError("a control line is too long")
        for line in lines:
            if now - self._since >= _MINUTE:
                self._since, self._count = now, 0
            self._count += 1
            if self._count > LINES_LIMIT:
                raise ProtocolError("too many control lines")
            yield parse_object(line, what="a control line", limit=MAX_LINE)
