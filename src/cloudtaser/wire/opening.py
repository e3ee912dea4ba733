"""Opening: the one JSON line with which a tunnel stream says what it is for.

Used by `net.tunnel` on both sides. There is no reply; a stream that is not wanted is reset. (spec/wire.md,
"Tunnel".)
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Final

from cloudtaser.errors import ProtocolError
from cloudtaser.wire.strict_json import dump_object, parse_object

MAX_LINE: Final = 1024

_TEXT: Final = re.compile(r"[\x21-\x7e]{0,256}", re.ASCII)


class Kind(enum.StrEnum):
    """What a stream carries. The broker opens all but `apiserver`, which the bridge opens."""

    POD = "pod"
    OPERATOR = "operator"
    ADMIN = "admin"
    RENEW = "renew"
    CONTROL = "control"
    APISERVER = "apiserver"


_KINDS: Final = {kind.value: kind for kind in Kind}


@dataclass(frozen=True, slots=True)
class Opening:
    """A stream's purpose. `peer` is who it is carried for, `id` the correlation id; both may be empty."""

    kind: Kind
    peer: str = ""
    id: str = ""

    def encode(self) -> bytes:
        """The line, newline included. ProtocolError when a field holds what a line may not."""
        _check(self.peer, "peer")
        _check(self.id, "id")
        return dump_object({"kind": self.kind.value, "peer": self.peer, "id": self.id}) + b"\n"


class OpeningReader:
    """Collects a stream's first line, at most 1,024 bytes with its newline."""

    __slots__ = ("_line",)

    def __init__(self) -> None:
        self._line = b""

    def receive(self, data: bytes) -> tuple[Opening, bytes] | None:
        """The opening and the bytes behind it once the line is whole, else None. ProtocolError when bad."""
        line = self._line + data if self._line else bytes(data)
        end = line.find(b"\n", 0, MAX_LINE)
        if end < 0:
            if len(line) >= MAX_LINE:
                raise ProtocolError(f"a stream's opening is longer than {MAX_LINE} bytes")
            self._line = line
            return None
        self._line = b""
        return _decode(line[:end]), line[end + 1 :]


def _decode(line: bytes) -> Opening:
    fields = parse_object(line, what="a stream's opening", limit=MAX_LINE)
    kind = fields.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ProtocolError("a stream's opening names no kind that we know")
    return Opening(_KINDS[kind], _check(fields.get("peer", ""), "peer"), _check(fields.get("id", ""), "id"))


def _check(value: object, name: str) -> str:
    """Printable ASCII without spaces, since it goes into log lines."""
    if not isinstance(value, str) or not _TEXT.fullmatch(value):
        raise ProtocolError(f"a stream's opening has a bad {name}")
    return value
