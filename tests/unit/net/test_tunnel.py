"""A tunnel carries many streams, each like a connection of its own, and none at the expense of another."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Callable, Coroutine

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudtaser.errors import CloudtaserError, ProtocolError, UnavailableError
from cloudtaser.net import tls
from cloudtaser.net.ends import HIGH_WATER, MAX_UNREAD
from cloudtaser.net.layers import TlsLayer
from cloudtaser.net.stream import StreamResetError, TunnelStream
from cloudtaser.net.tunnel import Tunnel
from cloudtaser.wire.opening import Kind, Opening
from tests.unit.net import parties
from tests.unit.net.wires import Recorder, Wire, plug

POD = Opening(Kind.POD, "10.0.0.7:51324", "c1")


class Side:
    """One side of a tunnel that accepts everything, and keeps what it accepted."""

    def __init__(self, client: bool, **options: object) -> None:
        self.accepted: list[tuple[Opening, Recorder]] = []
        self.news = asyncio.Event()
        self.echo = False
        self.half_open = False
        self.tunnel = Tunnel(client, self.accept, **options)  # type: ignore[arg-type]  # test shorthand

    def accept(self, opening: Opening, stream: TunnelStream) -> asyncio.Protocol | None:
        recorder = Recorder(echo=self.echo, half_open=self.half_open)
        self.accepted.append((opening, recorder))
        self.news.set()
        return recorder

    async def nth(self, number: int) -> Recorder:
        while len(self.accepted) <= number:
            self.news.clear()
            await self.news.wait()
        return self.accepted[number][1]


def connect(**options: object) -> tuple[Side, Side, Wire, Wire]:
    """Bridge's side, broker's side, and the wire between them."""
    bridge, broker = Side(True, **options), Side(False, **options)
    return bridge, broker, *plug(bridge.tunnel, broker.tunnel)


async def until(condition: Callable[[], bool]) -> None:
    """For what nobody announces."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not come to pass")


async def test_a_stream_delivers_both_ways_and_ends_cleanly() -> None:
    bridge, broker, *_ = connect()
    near = Recorder()
    stream = broker.tunnel.open(POD, near)
    far = await bridge.nth(0)
    assert bridge.accepted[0][0] == POD
    near_data, far_data = os.urandom(1_000_000), os.urandom(700_000)
    await asyncio.gather(near.send(near_data), far.send(far_data))
    assert await far.received(len(near_data)) == near_data
    assert await near.received(len(far_data)) == far_data
    stream.close()
    assert await near.lost is None
    assert await far.lost is None
    assert (broker.tunnel.active, bridge.tunnel.active) == (0, 0)


async def test_many_streams_at_once_each_get_their_own_bytes() -> None:
    bridge, broker, *_ = connect()
    bridge.echo = True
    payloads = [os.urandom(300) * (1 + number % 7) for number in range(1000)]
    ends = [Recorder() for _ in payloads]
    streams = [broker.tunnel.open(POD, end) for end in ends]
    assert broker.tunnel.active == 1000
    for stream, payload in zip(streams, payloads, strict=True):
        stream.write(payload)
    answers = await asyncio.gather(*(end.received(len(p)) for end, p in zip(ends, payloads, strict=True)))
    assert answers == payloads
    for stream in streams:
        stream.close()
    assert set(await asyncio.gather(*(end.lost for end in ends))) == {None}
    assert set(await asyncio.gather(*(far.lost for _, far in bridge.accepted))) == {None}
    assert (broker.tunnel.active, bridge.tunnel.active) == (0, 0)


async def test_what_all_streams_send_in_one_turn_leaves_as_one_write() -> None:
    bridge, broker, _, wire = connect()
    await broker.tunnel.established
    before = len(wire.writes)
    ends = [Recorder() for _ in range(50)]
    for end in ends:
        broker.tunnel.open(POD, end).write(b"x" * 100)
    for number in range(50):
        await (await bridge.nth(number)).received(100)
    assert len(wire.writes) - before == 1


async def test_a_paused_stream_holds_one_window_and_the_others_go_on() -> None:
    bridge, broker, *_ = connect()
    stuck, free = Recorder(), Recorder()
    broker.tunnel.open(POD, stuck)
    broker.tunnel.open(POD, free)
    far_stuck, far_free = await bridge.nth(0), await bridge.nth(1)
    far_stuck.transport.pause_reading()
    written = 0
    while stuck.may_write.is_set():
        stuck.transport.write(bytes(65536))
        written += 65536
        await asyncio.sleep(0)
    assert written <= 2 * HIGH_WATER + 4 * 65536
    assert len(far_stuck.data) == 0
    await free.send(bytes(5_000_000))
    await far_free.received(5_000_000)
    assert not stuck.may_write.is_set()
    far_stuck.transport.resume_reading()
    await far_stuck.received(written)
    await stuck.may_write.wait()


async def test_a_bulk_stream_does_not_starve_a_small_one() -> None:
    """1 KB written after 10 MB of another stream does not wait for them."""
    bridge, broker, _, wire = connect()
    bulk, small = Recorder(), Recorder()
    wire.high = 64 * 1024
    broker.tunnel.open(POD, bulk)
    broker.tunnel.open(POD, small)
    far_bulk, far_small = await bridge.nth(0), await bridge.nth(1)
    bulk.transport.write(bytes(10_000_000))
    small.transport.write(bytes(1000))
    await far_small.received(1000)
    assert len(far_bulk.data) <= 512 * 1024
    await far_bulk.received(10_000_000)


async def test_nothing_piles_up_when_the_connection_below_is_full() -> None:
    _, broker, _, wire = connect()
    await broker.tunnel.established
    wire.cork()
    ends = [Recorder() for _ in range(20)]
    for end in ends:
        broker.tunnel.open(POD, end)
    for _ in range(50):
        for end in ends:
            if end.may_write.is_set():
                end.transport.write(bytes(32 * 1024))
        await asyncio.sleep(0)
    assert not any(end.may_write.is_set() for end in ends)
    assert wire.most <= wire.high + 256 * 1024
    wire.uncork()
    await asyncio.gather(*(end.may_write.wait() for end in ends))


@pytest.mark.parametrize(
    "question",
    [struct.pack(">BBHII", 0, 2, 1, 0, 7), struct.pack(">BBHII", 0, 1, 1, 10, 0)],
    ids=["pings", "streams too many"],
)
async def test_a_peer_that_asks_without_reading_the_answers_is_cut_off(question: bytes) -> None:
    bridge = Side(True, max_streams=1)
    near, far = plug(bridge.tunnel, Recorder(half_open=True))
    near.cork()
    far.write(struct.pack(">BBHII", 0, 1, 1, 8, 0))  # the one stream that there may be
    asked = 0
    while not near.dead:
        far.write(question * 1000)
        asked += len(question) * 1000
        await asyncio.sleep(0)
        assert asked < 64 * MAX_UNREAD
    assert near.most <= 2 * MAX_UNREAD
    await bridge.tunnel.closed
    assert isinstance(bridge.tunnel.error, ProtocolError)


async def test_a_window_of_tiny_frames_weighs_about_its_bytes_while_it_waits() -> None:
    bridge, broker, *_ = connect()
    near = Recorder()
    stream = broker.tunnel.open(POD, near)
    far = await bridge.nth(0)
    far.transport.pause_reading()
    for _ in range(200):
        for _ in range(5):
            broker.tunnel._session.send(stream.number, b"xy")
        broker.tunnel._flush()
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    held = far.transport._held  # type: ignore[attr-defined]  # how much it is made of
    assert sum(map(len, held)) == 2000
    assert len(held) <= 2
    far.transport.resume_reading()
    assert await far.received(2000) == b"xy" * 1000


async def test_a_peer_that_uses_an_id_again_at_once_ends_its_tunnel_and_raises_nothing() -> None:
    side = Side(True)
    _, far = plug(side.tunnel, Recorder(half_open=True))
    line = POD.encode()
    opened = struct.pack(">BBHII", 0, 0, 1, 2, len(line)) + line
    far.write(opened + struct.pack(">BBHII", 0, 1, 8, 2, 0) + struct.pack(">BBHII", 0, 1, 1, 2, 0))
    await side.tunnel.closed
    assert isinstance(side.tunnel.error, ProtocolError)


async def test_each_direction_of_a_stream_ends_on_its_own() -> None:
    bridge, broker, *_ = connect()
    bridge.half_open = True
    near = Recorder(half_open=True)
    stream = broker.tunnel.open(POD, near)
    stream.write(b"question")
    stream.write_eof()
    far = await bridge.nth(0)
    await far.ended.wait()
    assert far.data == b"question"
    far.transport.write(bytes(1_000_000))
    far.transport.write_eof()
    await near.ended.wait()
    assert len(near.data) == 1_000_000
    assert (await near.lost, await far.lost) == (None, None)


async def test_bytes_before_the_end_of_both_directions_wait_for_a_paused_reader() -> None:
    bridge, broker, *_ = connect()
    bridge.half_open = True
    near = Recorder(half_open=True)
    stream = broker.tunnel.open(POD, near)
    far = await bridge.nth(0)
    far.transport.pause_reading()
    stream.write(b"unread")
    stream.write_eof()
    far.transport.write_eof()
    await near.ended.wait()
    await asyncio.sleep(0.01)
    assert not far.losses
    far.transport.resume_reading()
    assert await far.lost is None
    assert far.data == b"unread"


async def test_a_refused_stream_is_reset_and_the_tunnel_lives() -> None:
    bridge, broker, *_ = connect()
    refusals = [lambda *_: None, _refuse]
    for refusal in refusals:
        bridge.tunnel._accept = refusal  # the test decides stream by stream
        near = Recorder()
        broker.tunnel.open(POD, near)
        error = await near.lost
        assert isinstance(error, StreamResetError)
        assert near.losses == 1
    bridge.tunnel._accept = bridge.accept
    near = Recorder()
    broker.tunnel.open(POD, near).write(b"still here")
    await (await bridge.nth(0)).received(10)


def _refuse(*_: object) -> asyncio.Protocol:
    raise UnavailableError("too many")


async def test_a_storm_of_resets_leaves_nothing_behind() -> None:
    bridge, broker, *_ = connect()
    for _ in range(20):
        ends = [Recorder() for _ in range(100)]
        streams = [broker.tunnel.open(POD, end) for end in ends]
        for stream in streams[::2]:
            stream.write(bytes(1000))
        await asyncio.sleep(0)
        for stream in streams:
            stream.abort()
        await asyncio.gather(*(end.lost for end in ends))
    near = Recorder()
    seen = len(bridge.accepted)
    broker.tunnel.open(POD, near).write(b"alive")
    await (await bridge.nth(seen)).received(5)
    assert (broker.tunnel.active, bridge.tunnel.active) == (1, 1)


async def test_a_stream_too_many_is_refused_on_either_side() -> None:
    bridge, broker, *_ = connect(max_streams=3)
    ends = [Recorder() for _ in range(3)]
    for end in ends:
        broker.tunnel.open(POD, end)
    with pytest.raises(UnavailableError):
        broker.tunnel.open(POD, Recorder())
    await bridge.nth(2)
    ends[0].transport.abort()
    await ends[0].lost
    near = Recorder()
    broker.tunnel.open(POD, near)
    await bridge.nth(3)


async def test_a_stream_that_does_not_say_what_it_is_for_is_reset_in_time() -> None:
    bridge, broker, *_ = connect(opening_timeout=0.05)
    await broker.tunnel.established
    number = broker.tunnel._session.open_stream()
    broker.tunnel._session.send(number, b'{"kind":')
    broker.tunnel._flush()
    await until(lambda: bridge.tunnel.active == 1)
    await until(lambda: bridge.tunnel.active == 0)
    assert bridge.accepted == []
    assert not bridge.tunnel.closed.done()


@pytest.mark.parametrize("line", [b"x" * 1100, b'{"kind":"nothing"}\n', b"[]\n", b"\xff\n"])
async def test_a_bad_opening_is_a_reset(line: bytes) -> None:
    bridge, broker, *_ = connect()
    await broker.tunnel.established
    number = broker.tunnel._session.open_stream()
    broker.tunnel._session.send(number, line)
    broker.tunnel._flush()
    await until(lambda: broker.tunnel.active == 0)
    assert bridge.accepted == []
    assert bridge.tunnel.active == 0


async def test_a_peer_that_answers_no_pings_is_dead() -> None:
    tunnel = Tunnel(True, lambda *_: None, ping_interval=0.02, missed=3)
    near = Recorder()
    one, _ = plug(tunnel, Recorder(half_open=True))
    tunnel.open(POD, near)
    await tunnel.closed
    assert isinstance(tunnel.error, UnavailableError)
    assert tunnel.error.diagnostic() == "the peer missed 3 pings"
    assert isinstance(await near.lost, UnavailableError)
    assert one.dead


async def test_a_peer_that_answers_pings_lives_and_its_distance_is_known() -> None:
    bridge, broker, *_ = connect(ping_interval=0.005, missed=3)
    await asyncio.sleep(0.1)
    for side in (bridge, broker):
        assert not side.tunnel.closed.done()
        assert side.tunnel.round_trip is not None
    bridge.tunnel.close()
    await asyncio.gather(bridge.tunnel.closed, broker.tunnel.closed)


async def test_go_away_lets_streams_finish_and_then_closes() -> None:
    drained = asyncio.Event()
    bridge, broker, *_ = connect()
    broker.tunnel._on_draining = drained.set
    near = Recorder()
    stream = broker.tunnel.open(POD, near)
    far = await bridge.nth(0)
    bridge.tunnel.go_away()
    await drained.wait()
    assert broker.tunnel.draining
    with pytest.raises(UnavailableError):
        broker.tunnel.open(POD, Recorder())
    with pytest.raises(UnavailableError):
        bridge.tunnel.open(POD, Recorder())
    stream.write(bytes(400_000))
    await far.received(400_000)
    stream.close()
    await asyncio.gather(bridge.tunnel.closed, broker.tunnel.closed)
    assert (bridge.tunnel.error, broker.tunnel.error) == (None, None)
    assert (await near.lost, await far.lost) == (None, None)


async def test_streams_hear_once_that_their_tunnel_is_gone() -> None:
    bridge, broker, one, _ = connect()
    ends = [Recorder() for _ in range(5)]
    for end in ends:
        broker.tunnel.open(POD, end)
    await bridge.nth(4)
    one.abort()
    await asyncio.gather(bridge.tunnel.closed, broker.tunnel.closed)
    recorders = [*ends, *(far for _, far in bridge.accepted)]
    for recorder in recorders:
        assert isinstance(await recorder.lost, CloudtaserError)
    await asyncio.sleep(0)
    assert {recorder.losses for recorder in recorders} == {1}
    ends[0].transport.write(b"ignored")
    ends[0].transport.close()


async def test_a_peer_that_breaks_the_protocol_loses_the_tunnel() -> None:
    tunnel = Tunnel(False, lambda *_: None)
    _, wire = plug(tunnel, Recorder())
    wire.write(b"\x07" * 12)
    await tunnel.closed
    assert isinstance(tunnel.error, ProtocolError)
    assert isinstance(tunnel.established.exception(), ProtocolError) or tunnel.established.result() is None


async def test_a_fault_above_one_stream_ends_that_stream_only() -> None:
    class Broken(Recorder):
        def data_received(self, data: bytes) -> None:
            raise ZeroDivisionError

    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context["exception"]))
    bridge, broker, *_ = connect()
    bridge.tunnel._accept = lambda *_: Broken()
    near = Recorder()
    broker.tunnel.open(POD, near).write(b"boom")
    assert isinstance(await near.lost, StreamResetError)
    assert [type(fault) for fault in faults] == [ZeroDivisionError]
    bridge.tunnel._accept = bridge.accept
    broker.tunnel.open(POD, Recorder()).write(b"fine")
    await (await bridge.nth(0)).received(4)


async def test_a_closed_stream_whose_peer_never_ends_is_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloudtaser.net.stream.LINGER", 0.02)
    monkeypatch.setattr("cloudtaser.net.deadlines.SWEEP", 0.02)
    bridge, broker, *_ = connect()
    bridge.half_open = True
    near = Recorder()
    stream = broker.tunnel.open(POD, near)
    far = await bridge.nth(0)
    stream.close()
    assert await near.lost is None
    assert isinstance(await far.lost, StreamResetError)
    assert (broker.tunnel.active, bridge.tunnel.active) == (0, 0)


async def test_a_stream_knows_its_opening_and_the_connection_below() -> None:
    bridge, broker, *_ = connect()
    broker.tunnel.open(POD, Recorder())
    far = await bridge.nth(0)
    assert far.transport.get_extra_info("opening") == POD
    assert far.transport.get_extra_info("peername") == ("198.51.100.7", 4711)


async def whole_stack() -> None:
    """The whole stack of the chain, one stream each way under a tunnel of its own TLS."""
    bridge_pods: list[Recorder] = []

    def accept(opening: Opening, stream: TunnelStream) -> asyncio.Protocol:
        recorder = Recorder(echo=True)
        bridge_pods.append(recorder)
        return TlsLayer(tls.pod_server(parties.bridge()), recorder, server_side=True)

    bridge_tunnel = Tunnel(True, accept)
    broker_tunnel = Tunnel(False, lambda *_: None)
    client = tls.tunnel_client(parties.bridge(), [parties.tunnel_ca().pem])
    server = tls.tunnel_server(parties.broker(), [parties.tunnel_ca().pem])
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(
        lambda: TlsLayer(server, broker_tunnel, server_side=True), "127.0.0.1", 0
    )
    port = listener.sockets[0].getsockname()[1]
    await loop.create_connection(
        lambda: TlsLayer(client, bridge_tunnel, server_side=False), "127.0.0.1", port
    )
    await asyncio.gather(bridge_tunnel.established, broker_tunnel.established)
    context = tls.pod_client(parties.tunnel_ca().pem)
    context.check_hostname = False
    data = os.urandom(2_000_000)
    pods = [Recorder() for _ in range(4)]
    for pod in pods:
        broker_tunnel.open(POD, TlsLayer(context, pod, server_side=False))
    await asyncio.gather(*(pod.made.wait() for pod in pods))
    await asyncio.gather(*(pod.send(data) for pod in pods))
    for pod in pods:
        assert await pod.received(len(data)) == data
        pod.transport.close()
        assert await pod.lost is None
    assert [await end.lost for end in bridge_pods] == [None] * 4
    bridge_tunnel.go_away()
    await asyncio.gather(bridge_tunnel.closed, broker_tunnel.closed)
    assert (bridge_tunnel.error, broker_tunnel.error) == (None, None)
    listener.close()
    await listener.wait_closed()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_tls_over_streams_over_tls_over_tcp(run: Callable[[Coroutine[None, None, None]], None]) -> None:
    run(whole_stack())


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abpqPQ"), st.integers(0, 2), st.integers(1, 200_000)), max_size=40)
)
def test_any_interleaving_delivers_exactly_the_bytes_of_each_stream(
    script: list[tuple[str, int, int]],
) -> None:
    """Three streams. a, b: a side writes; p, q: it stops reading; P, Q: it goes on; then all end."""

    async def play() -> None:
        bridge, broker, *_ = connect()
        bridge.half_open = True
        near = [Recorder(half_open=True) for _ in range(3)]
        for end in near:
            broker.tunnel.open(POD, end)
        far = [await bridge.nth(number) for number in range(3)]
        sent: dict[tuple[str, int], bytearray] = {(s, n): bytearray() for s in "ab" for n in range(3)}
        for step, (action, number, size) in enumerate(script):
            side = near[number] if action in "apP" else far[number]
            if action in "ab":
                data = bytes([step % 256]) * size
                sent[action, number] += data
                side.transport.write(data)
            elif action in "pq":
                side.transport.pause_reading()
            else:
                side.transport.resume_reading()
            if size % 3 == 0:
                await asyncio.sleep(0)
        for side in (*near, *far):
            side.transport.write_eof()
            side.transport.resume_reading()
        assert set(await asyncio.gather(*(side.lost for side in (*near, *far)))) == {None}
        for number in range(3):
            assert far[number].data == sent["a", number]
            assert near[number].data == sent["b", number]
        assert (broker.tunnel.active, bridge.tunnel.active) == (0, 0)

    asyncio.run(play())
