"""What an HTTP/2 peer may send before gRPC sees it: headers with an end, and control frames in measure."""

from __future__ import annotations

import pytest

from cloudtaser.errors import ProtocolError
from cloudtaser.wire.http2_watch import CONTROL_BURST, CONTROL_RATE, MAX_HEADERS, FrameWatch

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST, SETTINGS, PING, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
END_HEADERS = 4


def frame(kind: int, flags: int = 0, size: int = 0) -> bytes:
    return size.to_bytes(3, "big") + bytes([kind, flags, 0, 0, 0, 1]) + b"\0" * size


def watch() -> FrameWatch:
    made = FrameWatch(len(PREFACE))
    made.receive(PREFACE, 0.0)
    return made


def test_data_without_end_and_windows_without_end_pass() -> None:
    made = watch()
    for _ in range(3 * CONTROL_BURST):
        made.receive(frame(DATA, 1, 16) + frame(WINDOW, 0, 4), 0.0)


def test_headers_in_pieces_may_be_as_long_as_the_limit_and_no_longer() -> None:
    piece = MAX_HEADERS // 4 - 9
    made = watch()
    for _ in range(3):  # one block after the other: each is counted alone
        made.receive(frame(HEADERS, 0, piece) + frame(CONTINUATION, 0, piece) * 2, 0.0)
        made.receive(frame(CONTINUATION, END_HEADERS, piece), 0.0)
    made.receive(frame(HEADERS, 0, piece) + frame(CONTINUATION, 0, piece) * 3, 0.0)
    with pytest.raises(ProtocolError, match="headers of more than"):
        made.receive(frame(CONTINUATION), 0.0)


def test_empty_pieces_of_headers_without_end_are_a_flood_too() -> None:
    made = watch()
    made.receive(frame(HEADERS), 0.0)
    with pytest.raises(ProtocolError, match="headers of more than"):
        made.receive(frame(CONTINUATION) * (MAX_HEADERS // 9), 0.0)


@pytest.mark.parametrize("kind", [RST, SETTINGS, PING, CONTINUATION, 0x77])
def test_control_frames_are_let_through_at_their_rate(kind: int) -> None:
    made = watch()
    made.receive(frame(kind) * CONTROL_BURST, 0.0)
    for second in range(1, 4):
        made.receive(frame(kind) * int(CONTROL_RATE), float(second))
    with pytest.raises(ProtocolError, match="flood of HTTP/2 control frames"):
        made.receive(frame(kind), 3.0)


def test_it_sees_the_same_however_the_bytes_are_cut() -> None:
    good = frame(HEADERS, END_HEADERS, 70) + frame(DATA, 0, 1000) + frame(PING, 0, 8)
    bad = frame(HEADERS, 0, 5) + frame(CONTINUATION, 0, MAX_HEADERS)
    for cut in (1, 2, 7, 9, 10, 100):
        made = FrameWatch(len(PREFACE))
        said = PREFACE + good * 20
        for at in range(0, len(said), cut):
            made.receive(said[at : at + cut], 0.0)
        made.receive(bad[: 9 + 5 + 8], 0.0)
        with pytest.raises(ProtocolError, match="headers of more than"):
            made.receive(bad[9 + 5 + 8 :], 0.0)
