"""Control lines are short, few and strict JSON."""

from __future__ import annotations

import pytest

from cloudtaser.errors import ProtocolError
from cloudtaser.wire.control_lines import LINES_LIMIT, MAX_LINE, ControlLines


def test_lines_come_out_whole_however_they_came_in() -> None:
    lines = ControlLines(0.0)
    data = b'{"type":"keys"}\n{"type":"parked"}\n'
    said = [fields for byte in data for fields in lines.receive(bytes((byte,)), 1.0)]
    assert said == [{"type": "keys"}, {"type": "parked"}]


@pytest.mark.parametrize("data", [b"x" * (MAX_LINE + 1), b"[]\n", b'{"a":1,"a":2}\n', b"\xff\n", b"\n"])
def test_what_is_no_control_line_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(ControlLines(0.0).receive(data, 0.0))


def test_a_minute_has_so_many_lines_and_no_more() -> None:
    lines = ControlLines(0.0)
    assert len(list(lines.receive(b"{}\n" * LINES_LIMIT, 59.0))) == LINES_LIMIT
    rest = lines.receive(b"{}\n", 59.9)
    with pytest.raises(ProtocolError, match="too many"):
        next(rest)
    assert list(lines.receive(b"{}\n", 60.0)) == [{}]
