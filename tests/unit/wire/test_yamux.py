"""yamux: the frames of the specification, windows that hold, and two sessions that never lose a byte."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudtaser.errors import ProtocolError, UnavailableError
from cloudtaser.wire.yamux import Session
from cloudtaser.wire.yamux_frames import (
    INITIAL_WINDOW,
    Data,
    Event,
    GoAway,
    HalfClosed,
    Pong,
    Reset,
    StreamOpened,
    WindowGrew,
)

DATA, UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8


def frame(kind: int, flags: int, stream: int, length: int, body: bytes = b"", version: int = 0) -> bytes:
    """A frame spelled out by the document, not by our code."""
    return struct.pack(">BBHII", version, kind, flags, stream, length) + body


def data(stream: int, body: bytes, flags: int = 0) -> bytes:
    return frame(DATA, flags, stream, len(body), body)


def server() -> Session:
    return Session(client=False)


def client() -> Session:
    return Session(client=True)


def joined(events: list[Event]) -> list[Event]:
    """Events with neighbouring data of one stream joined: what stays the same however bytes are split."""
    result: list[Event] = []
    for event in events:
        last = result[-1] if result else None
        if isinstance(event, Data) and isinstance(last, Data) and last.id == event.id:
            result[-1] = Data(event.id, last.data + event.data)
        else:
            result.append(event)
    return result


def exchange(a: Session, b: Session) -> tuple[list[Event], list[Event]]:
    """Move bytes both ways until both are quiet; what each heard."""
    heard_a: list[Event] = []
    heard_b: list[Event] = []
    while a.pending or b.pending:
        heard_b += b.receive(a.data_to_send())
        heard_a += a.receive(b.data_to_send())
    return heard_a, heard_b


# -- frames


def test_a_stream_opens_with_its_first_data_and_is_accepted_with_the_first_answer() -> None:
    us = client()
    assert us.open_stream() == 1
    assert us.send(1, b"hello") == 5
    assert us.data_to_send() == data(1, b"hello", SYN)
    assert us.receive(data(1, b"world", ACK)) == [Data(1, b"world")]
    us.send(1, b"more")
    assert us.data_to_send() == data(1, b"more")


def test_a_stream_without_data_opens_and_is_accepted_by_window_updates() -> None:
    us, them = client(), server()
    assert us.open_stream() == 1
    opening = us.data_to_send()
    assert opening == frame(UPDATE, SYN, 1, 0)
    assert them.receive(opening) == [StreamOpened(1)]
    assert them.data_to_send() == frame(UPDATE, ACK, 1, 0)
    assert not them.pending


def test_the_server_opens_even_streams_and_the_client_odd_ones() -> None:
    assert [client().open_stream() for _ in range(1)] == [1]
    us, them = client(), server()
    assert [us.open_stream() for _ in range(3)] == [1, 3, 5]
    assert [them.open_stream() for _ in range(3)] == [2, 4, 6]


def test_all_frames_of_a_turn_leave_in_one_piece_and_in_order() -> None:
    us = client()
    for body in (b"a", b"b"):
        us.send(us.open_stream(), body)
    us.close(1)
    assert us.data_to_send() == data(1, b"a", SYN) + data(3, b"b", SYN) + frame(UPDATE, FIN, 1, 0)
    assert us.data_to_send() == b""


def test_a_larger_window_is_told_with_the_first_frame() -> None:
    us, them = Session(True, window=INITIAL_WINDOW + 1000), Session(False, window=INITIAL_WINDOW + 5)
    us.send(us.open_stream(), b"x")
    opening = us.data_to_send()
    assert opening == frame(UPDATE, SYN, 1, 1000) + data(1, b"x")
    them.receive(opening)
    assert them.can_send(1) == INITIAL_WINDOW + 1000
    assert us.receive(them.data_to_send()) == []
    assert us.can_send(1) == INITIAL_WINDOW + 5 - 1


def test_a_window_below_the_specified_one_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="262144"):
        Session(True, window=1000)


def test_an_echo_request_is_answered_and_an_answer_is_matched() -> None:
    us, them = client(), server()
    nonce = us.ping()
    assert them.receive(us.data_to_send()) == []
    answer = them.data_to_send()
    assert answer == frame(PING, ACK, 0, nonce)
    assert us.receive(answer) == [Pong(nonce)]
    assert us.receive(answer) == []  # once only
    assert us.receive(frame(PING, ACK, 0, 4711)) == []  # never asked


def test_unanswered_echo_requests_are_forgotten_oldest_first() -> None:
    us = client()
    nonces = [us.ping() for _ in range(17)]
    assert us.receive(frame(PING, ACK, 0, nonces[0])) == []
    assert us.receive(frame(PING, ACK, 0, nonces[16])) == [Pong(nonces[16])]


# -- closing


def test_each_side_closes_for_itself_and_the_stream_goes_when_both_have() -> None:
    us, them = client(), server()
    us.send(us.open_stream(), b"request")
    us.close(1)
    assert them.receive(us.data_to_send()) == [StreamOpened(1), Data(1, b"request"), HalfClosed(1)]
    assert them.send(1, b"answer") == 6
    them.close(1)
    assert them.active == 0
    assert us.receive(them.data_to_send()) == [Data(1, b"answer"), HalfClosed(1)]
    assert us.active == 0


def test_an_end_that_rides_on_data_comes_after_the_data() -> None:
    them = server()
    them.receive(frame(UPDATE, SYN, 1, 0))
    stream = data(1, b"last words", FIN)
    assert them.receive(stream[:15]) == [Data(1, b"las")]
    assert them.receive(stream[15:]) == [Data(1, b"t words"), HalfClosed(1)]


def test_a_stream_may_open_speak_and_end_in_one_frame() -> None:
    them = server()
    assert them.receive(data(1, b"x", SYN | FIN)) == [StreamOpened(1), Data(1, b"x"), HalfClosed(1)]


def test_sending_after_closing_is_a_mistake_of_ours() -> None:
    us = client()
    us.close(us.open_stream())
    assert us.can_send(1) == 0
    with pytest.raises(ValueError, match="closed"):
        us.send(1, b"x")
    us.close(1)
    assert us.data_to_send() == frame(UPDATE, SYN | FIN, 1, 0)


def test_a_reset_ends_the_stream_at_once_and_what_was_on_its_way_is_dropped() -> None:
    us, them = client(), server()
    us.send(us.open_stream(), b"one")
    them.receive(us.data_to_send())
    us.send(1, b"on its way" * 1000)
    us.close(1)
    them.reset(1)
    assert them.active == 0
    assert them.receive(us.data_to_send()) == []
    assert us.receive(them.data_to_send()) == [Reset(1)]
    assert us.active == 0


def test_a_stream_reset_in_the_middle_of_a_frame_hears_no_more_of_it() -> None:
    them = server()
    whole = data(1, b"x" * 100, SYN | FIN)
    assert them.receive(whole[:50]) == [StreamOpened(1), Data(1, b"x" * 38)]
    them.reset(1)
    assert them.receive(whole[50:] + data(3, b"y", SYN)) == [StreamOpened(3), Data(3, b"y")]


def test_a_reset_stream_takes_nothing_and_complains_of_nothing() -> None:
    them = server()
    them.receive(data(1, b"x", SYN) + frame(UPDATE, RST, 1, 0))
    assert (them.can_send(1), them.send(1, b"late")) == (0, 0)
    them.consumed(1, 1)
    them.close(1)
    them.reset(1)
    assert them.data_to_send() == b""


def test_a_stream_reset_before_the_peer_heard_of_it_leaves_no_trace() -> None:
    us = client()
    us.reset(us.open_stream())
    assert us.data_to_send() == b""
    assert us.open_stream() == 3


@pytest.mark.parametrize("kind", [DATA, UPDATE])
@pytest.mark.parametrize("flags", [0, ACK, FIN, RST, ACK | FIN])
def test_frames_for_streams_that_are_not_there_are_dropped(kind: int, flags: int) -> None:
    them = server()
    body = b"12345" if kind == DATA else b""
    assert them.receive(frame(kind, flags, 77, 5, body) + frame(PING, SYN, 0, 1)) == []
    assert them.data_to_send() == frame(PING, ACK, 0, 1)


# -- windows


def test_a_stream_takes_its_window_and_no_more_until_the_peer_gives_it_back() -> None:
    us, them = client(), server()
    us.open_stream()
    body = bytes(300_000)
    assert us.send(1, body) == INITIAL_WINDOW
    assert us.can_send(1) == 0
    assert us.send(1, b"x") == 0
    them.receive(us.data_to_send())
    us.receive(them.data_to_send())
    them.consumed(1, INITIAL_WINDOW // 2 - 1)
    assert not them.pending  # not worth a frame yet
    them.consumed(1, 1)
    update = them.data_to_send()
    assert update == frame(UPDATE, 0, 1, INITIAL_WINDOW // 2)
    assert us.receive(update) == [WindowGrew(1)]
    assert us.send(1, body[INITIAL_WINDOW:]) == 300_000 - INITIAL_WINDOW
    them.consumed(1, INITIAL_WINDOW // 2)
    assert us.receive(them.data_to_send()) == []  # nobody waited
    left = us.can_send(1)
    assert left == 2 * INITIAL_WINDOW - 300_000
    assert us.send(1, bytes(left)) == left
    assert sum(len(e.data) for e in them.receive(us.data_to_send()) if isinstance(e, Data)) == INITIAL_WINDOW


def test_one_stream_without_window_does_not_hold_up_another() -> None:
    us, them = client(), server()
    us.send(us.open_stream(), bytes(INITIAL_WINDOW + 1))
    us.send(us.open_stream(), b"through")
    assert Data(3, b"through") in them.receive(us.data_to_send())


def test_a_peer_that_overruns_its_window_is_out() -> None:
    them = server()
    them.receive(data(1, bytes(INITIAL_WINDOW), SYN))
    with pytest.raises(ProtocolError, match="overran"):
        them.receive(data(1, b"x"))
    assert them.data_to_send().endswith(frame(GO_AWAY, 0, 0, 1))


def test_an_overrun_is_refused_by_its_header_before_the_bytes_come() -> None:
    them = server()
    with pytest.raises(ProtocolError, match="overran"):
        them.receive(frame(DATA, SYN, 1, INITIAL_WINDOW + 1))


def test_consuming_more_than_came_is_a_mistake_of_ours() -> None:
    them = server()
    them.receive(data(1, b"abc", SYN))
    with pytest.raises(ValueError, match="consumed"):
        them.consumed(1, 4)


# -- bounds


def test_a_stream_too_many_is_reset_and_the_rest_go_on() -> None:
    them = Session(False, max_streams=2)
    events = them.receive(b"".join(data(i, b"x", SYN) for i in (1, 3, 5)))
    assert events == [StreamOpened(1), Data(1, b"x"), StreamOpened(3), Data(3, b"x")]
    assert frame(UPDATE, RST, 5, 0) in them.data_to_send()
    them.reset(1)
    assert them.receive(frame(UPDATE, SYN, 7, 0)) == [StreamOpened(7)]


def test_we_open_no_stream_too_many() -> None:
    us = Session(True, max_streams=2)
    us.open_stream()
    us.open_stream()
    with pytest.raises(UnavailableError):
        us.open_stream()


def test_streams_beyond_the_peers_backlog_wait_and_lose_nothing() -> None:
    us, them = Session(True, accept_backlog=2), Session(False, accept_backlog=2)
    for body in (b"a", b"b", b"c", b"d"):
        us.send(us.open_stream(), body)
    us.close(7)
    first = them.receive(us.data_to_send())
    assert first == [StreamOpened(1), Data(1, b"a"), StreamOpened(3), Data(3, b"b")]
    _, rest = exchange(us, them)
    assert rest == [StreamOpened(5), Data(5, b"c"), StreamOpened(7), Data(7, b"d"), HalfClosed(7)]
    assert us.active == 4


def test_a_stream_reset_while_it_waits_is_never_opened() -> None:
    us = Session(True, accept_backlog=1)
    assert [us.open_stream() for _ in range(3)] == [1, 3, 5]
    us.send(3, b"never")
    us.reset(3)
    assert us.data_to_send() == frame(UPDATE, SYN, 1, 0)
    us.reset(1)
    assert us.data_to_send() == frame(UPDATE, RST, 1, 0) + frame(UPDATE, SYN, 5, 0)


def test_a_peer_that_opens_more_than_the_backlog_at_once_is_cut_back() -> None:
    them = Session(False, accept_backlog=2)
    assert them.receive(b"".join(frame(UPDATE, SYN, i, 0) for i in (1, 3, 5))) == [
        StreamOpened(1),
        StreamOpened(3),
    ]
    assert frame(UPDATE, RST, 5, 0) in them.data_to_send()
    assert them.receive(frame(UPDATE, SYN, 7, 0)) == [StreamOpened(7)]


def test_opening_and_resetting_over_and_over_stays_within_the_backlog() -> None:
    them = Session(False, accept_backlog=1)
    stream = b"".join(frame(UPDATE, SYN, i, 0) + frame(UPDATE, RST, i, 0) for i in range(1, 40, 2))
    assert len(them.receive(stream)) == 40
    assert not them.data_to_send()


def test_stream_ids_are_not_used_twice() -> None:
    us = client()
    us._next_id = 0xFFFFFFFD
    assert us.open_stream() == 0xFFFFFFFD
    with pytest.raises(UnavailableError, match="used up"):
        us.open_stream()


# -- going away


def test_after_our_go_away_streams_go_on_and_new_ones_are_turned_down() -> None:
    us, them = client(), server()
    us.send(us.open_stream(), b"x")
    them.receive(us.data_to_send())
    them.go_away()
    us.open_stream()
    assert them.receive(us.data_to_send()) == []
    assert us.receive(them.data_to_send()) == [GoAway(0), Reset(3)]
    assert us.going_away
    assert them.going_away
    for side in (us, them):
        with pytest.raises(UnavailableError):
            side.open_stream()
    us.send(1, b"still here")
    assert them.receive(us.data_to_send()) == [Data(1, b"still here")]


@pytest.mark.parametrize("code", [0, 1, 2, 99])
def test_a_peers_go_away_is_heard_with_its_code(code: int) -> None:
    assert client().receive(frame(GO_AWAY, 0, 0, code)) == [GoAway(code)]


# -- what ends a session


@pytest.mark.parametrize(
    "stream",
    [
        frame(PING, SYN, 0, 0, version=1),
        frame(4, 0, 0, 0),
        frame(255, 0, 0, 0),
        frame(UPDATE, SYN, 0, 0),
        frame(UPDATE, SYN, 2, 0),
        frame(UPDATE, SYN, 1, 0) * 2,
        frame(UPDATE, SYN, 1, 0) + frame(UPDATE, 0, 1, 0xFFFFFFFF),
        frame(UPDATE, SYN, 1, 0) + frame(UPDATE, FIN, 1, 0) * 2,
        data(1, b"x", SYN | FIN) + data(1, b"y"),
        data(1, b"x", SYN | FIN) + data(1, b"y", FIN),
        frame(PING, SYN, 1, 0),
        frame(GO_AWAY, 0, 1, 0),
    ],
)
def test_a_frame_against_the_rules_ends_the_session_with_a_go_away(stream: bytes) -> None:
    them = server()
    with pytest.raises(ProtocolError):
        them.receive(stream)
    assert them.data_to_send().endswith(frame(GO_AWAY, 0, 0, 1))
    assert them.active == 0
    with pytest.raises(ProtocolError):
        them.receive(b"")
    with pytest.raises(UnavailableError):
        them.open_stream()


# -- any bytes

FRAMES = st.one_of(
    st.builds(
        frame,
        st.sampled_from([DATA, UPDATE, PING, GO_AWAY]),
        st.integers(0, 15),
        st.integers(0, 9),
        st.integers(0, 40),
        st.binary(max_size=40),
    ),
    st.builds(data, st.sampled_from([1, 3, 5]), st.binary(max_size=60), st.sampled_from([0, SYN, FIN, RST])),
    st.binary(max_size=20),
)


@settings(max_examples=300)
@given(st.lists(FRAMES, max_size=12).map(b"".join), st.booleans(), st.integers(1, 64))
def test_any_bytes_are_heard_alike_in_any_chunks_or_end_in_a_typed_error(
    stream: bytes, as_client: bool, size: int
) -> None:
    def outcome(pieces: list[bytes]) -> tuple[list[Event], str, bytes]:
        session = Session(as_client)
        session.open_stream()
        session.data_to_send()
        events: list[Event] = []
        for piece in pieces:
            try:
                events += session.receive(piece)
            except ProtocolError as error:
                return [], str(error), b""
        return joined(events), "", session.data_to_send()

    whole = outcome([stream])
    assert outcome([stream[i : i + size] for i in range(0, len(stream), size)]) == whole
    assert outcome([stream[i : i + 1] for i in range(len(stream))]) == whole


def test_a_view_of_a_reused_buffer_is_copied_both_ways() -> None:
    us, them = client(), server()
    buffer = bytearray(b"first")
    us.send(us.open_stream(), memoryview(buffer))
    buffer[:] = b"spoil"
    wire = bytearray(us.data_to_send())
    events = them.receive(memoryview(wire))
    wire[:] = bytes(len(wire))
    assert events == [StreamOpened(1), Data(1, b"first")]
