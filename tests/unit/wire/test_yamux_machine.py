"""yamux: two sessions talk at random, over links of any delay, and no byte is lost, doubled or reordered."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from cloudtaser.errors import UnavailableError
from cloudtaser.wire.yamux import Session
from cloudtaser.wire.yamux_frames import (
    INITIAL_WINDOW,
    Data,
    GoAway,
    HalfClosed,
    Pong,
    Reset,
    StreamOpened,
    WindowGrew,
)

BACKLOG = 3
MAX_STREAMS = 6


@dataclass
class Half:
    """One direction of a stream, as an observer outside both sessions counts it."""

    sent: bytearray = field(default_factory=bytearray)
    received: bytearray = field(default_factory=bytearray)
    consumed: int = 0
    closed: bool = False
    ended: bool = False


@dataclass
class Side:
    session: Session
    link: bytearray = field(default_factory=bytearray)  # on its way to the other side
    blocked: set[int] = field(default_factory=set)
    dead: set[int] = field(default_factory=set)  # reset here, or heard to be
    pings: set[int] = field(default_factory=set)


class TwoSessions(RuleBasedStateMachine):
    """Random operations on both sides; the observer's own record is what they are held to."""

    streams = Bundle("streams")

    def __init__(self) -> None:
        super().__init__()
        self.sides = [
            Side(Session(client, max_streams=MAX_STREAMS, accept_backlog=BACKLOG)) for client in (True, False)
        ]
        self.halves: dict[tuple[int, int], Half] = {}
        self.opened: set[tuple[int, int]] = set()
        self.counter = 0

    @rule(target=streams, side=st.sampled_from([0, 1]))
    def open(self, side: int) -> int:
        session = self.sides[side].session
        try:
            stream = session.open_stream()
        except UnavailableError:
            assert session.active >= MAX_STREAMS or session.going_away
            return 0
        for direction in (0, 1):
            self.halves[direction, stream] = Half()
        self.opened.add((side, stream))
        return stream

    @rule(stream=streams, side=st.sampled_from([0, 1]), size=st.sampled_from([0, 1, 700, 100_000, 300_000]))
    def send(self, stream: int, side: int, size: int) -> None:
        here = self.sides[side]
        if (side, stream) not in self.opened or self.halves[side, stream].closed:
            return
        self.counter += 1
        data = (self.counter.to_bytes(4, "big") * (size // 4 + 1))[:size]
        room = here.session.can_send(stream)
        taken = here.session.send(stream, data)
        assert taken == min(room, size)
        self.halves[side, stream].sent += data[:taken]
        if stream not in here.dead and size >= room:
            here.blocked.add(stream)

    @rule(stream=streams, side=st.sampled_from([0, 1]))
    def close(self, stream: int, side: int) -> None:
        if (side, stream) in self.opened:
            self.sides[side].session.close(stream)
            if stream not in self.sides[side].dead:
                self.halves[side, stream].closed = True

    @rule(stream=consumes(streams), side=st.sampled_from([0, 1]))
    def reset(self, stream: int, side: int) -> None:
        if (side, stream) in self.opened:
            self.sides[side].session.reset(stream)
            self.sides[side].dead.add(stream)

    @rule(stream=streams, side=st.sampled_from([0, 1]), share=st.sampled_from([0.3, 1.0]))
    def consume(self, stream: int, side: int, share: float) -> None:
        if (side, stream) in self.opened and stream not in self.sides[side].dead:
            half = self.halves[1 - side, stream]
            size = int((len(half.received) - half.consumed) * share)
            half.consumed += size
            self.sides[side].session.consumed(stream, size)

    @rule(side=st.sampled_from([0, 1]))
    def ping(self, side: int) -> None:
        self.sides[side].pings.add(self.sides[side].session.ping())

    @rule(side=st.sampled_from([0, 1]), size=st.integers(1, 400_000))
    def deliver(self, side: int, size: int) -> None:
        """Bytes on their way from `side` arrive, as many as the link likes."""
        here, there = self.sides[side], self.sides[1 - side]
        here.link += here.session.data_to_send()
        piece = bytes(here.link[:size])
        del here.link[:size]
        grown: list[int] = []
        for event in there.session.receive(piece):
            self.heard(1 - side, event)
            if isinstance(event, WindowGrew):
                grown.append(event.id)
        for stream in grown:
            closed = stream in there.dead or self.halves[1 - side, stream].closed
            assert closed or there.session.can_send(stream) > 0

    def heard(self, side: int, event: object) -> None:
        there = self.sides[side]
        match event:
            case StreamOpened(stream):
                assert (1 - side, stream) in self.opened
                assert (side, stream) not in self.opened
                self.opened.add((side, stream))
            case Data(stream, data):
                half = self.halves[1 - side, stream]
                assert stream not in there.dead
                assert not half.ended
                half.received += data
                assert half.sent.startswith(half.received)
                assert len(half.received) - half.consumed <= INITIAL_WINDOW
            case HalfClosed(stream):
                half = self.halves[1 - side, stream]
                assert half.closed
                assert half.received == half.sent
                half.ended = True
            case Reset(stream):
                refused = (1 - side, stream) not in self.opened
                assert refused or stream in self.sides[1 - side].dead
                there.dead.add(stream)
            case WindowGrew(stream):
                assert stream in there.blocked
                there.blocked.discard(stream)
            case Pong(nonce):
                assert nonce in there.pings
                there.pings.discard(nonce)
            case GoAway():
                raise AssertionError("nobody went away")

    @invariant()
    def sessions_hold_their_bounds(self) -> None:
        for side in self.sides:
            assert side.session.active <= MAX_STREAMS

    def teardown(self) -> None:
        """With the links drained and all consumed, everything sent on a living stream has arrived."""
        for _ in range(200):
            for side in (0, 1):
                for opened_side, stream in sorted(self.opened):
                    if opened_side == side:
                        self.consume(stream, side, 1.0)
            if not any(here.session.pending or here.link for here in self.sides):
                break
            for side in (0, 1):
                self.deliver(side, 1 << 30)
        else:
            raise AssertionError("two sessions without work do not fall silent")
        dead = self.sides[0].dead | self.sides[1].dead
        for (_, stream), half in self.halves.items():
            if stream not in dead:
                assert half.received == half.sent
                assert half.ended == half.closed


TestTwoSessions = TwoSessions.TestCase
TestTwoSessions.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
