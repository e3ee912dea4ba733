"""TlsLayer keeps what its module promises, over TCP, over itself, over a wire in memory."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import ssl
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudtaser.errors import CloudtaserError, ProtocolError, UnavailableError
from cloudtaser.net import tls
from cloudtaser.net.ends import HIGH_WATER, MAX_UNREAD
from cloudtaser.net.engine import Engine
from cloudtaser.net.layers import TlsLayer
from tests.unit.net import parties
from tests.unit.net.wires import Recorder, Wire, plug


class Slow(asyncio.Protocol):
    """Counts and hashes what it reads, and stops reading for a while after each MB."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.made = asyncio.Event()
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.total = 0
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.made.set()

    def data_received(self, data: bytes) -> None:
        self._hash.update(data)
        before, self.total = self.total, self.total + len(data)
        if before >> 20 != self.total >> 20:
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(0.002, self.transport.resume_reading)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


def client(upper: asyncio.Protocol, **options: object) -> TlsLayer:
    context = tls.tunnel_client(parties.bridge(), [parties.tunnel_ca().pem])
    return TlsLayer(context, upper, server_side=False, **options)  # type: ignore[arg-type]  # test shorthand


def server(upper: asyncio.Protocol, **options: object) -> TlsLayer:
    context = tls.tunnel_server(parties.broker(), [parties.tunnel_ca().pem])
    return TlsLayer(context, upper, server_side=True, **options)  # type: ignore[arg-type]  # test shorthand


@asynccontextmanager
async def over_tcp(
    make_client: Callable[[], asyncio.Protocol], make_server: Callable[[], asyncio.Protocol]
) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(make_server, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    transport, _ = await loop.create_connection(make_client, "127.0.0.1", port)
    try:
        yield
    finally:
        transport.abort()
        listener.close()
        await listener.wait_closed()


async def pair(*, half_open: bool = False) -> tuple[Recorder, Recorder, Wire, Wire]:
    """Two recorders that talk through TLS over a wire in memory."""
    a, b = Recorder(half_open=half_open), Recorder(half_open=half_open)
    one, two = plug(client(a), server(b))
    await asyncio.gather(a.made.wait(), b.made.wait())
    return a, b, one, two


@pytest.mark.parametrize("depth", [1, 2, 3])
async def test_what_is_written_arrives_in_order_over_any_number_of_layers(depth: int) -> None:
    a, b = Recorder(), Recorder()
    upper, lower = client(a), server(b)
    for _ in range(depth - 1):
        upper, lower = client(upper), server(lower)
    async with over_tcp(lambda: upper, lambda: lower):
        await b.made.wait()
        data = os.urandom(3_000_000)
        await asyncio.gather(a.send(data), b.send(data[::-1]))
        assert await b.received(len(data)) == data
        assert await a.received(len(data)) == data[::-1]
        a.transport.close()
        assert await b.lost is None
        assert await a.lost is None
    assert (a.losses, b.losses) == (1, 1)


async def test_a_slow_reader_slows_the_writer_and_nothing_piles_up() -> None:
    """64 MB through TLS in TLS over TCP, the reader pausing after each MB: every buffer stays bounded."""
    a, b = Recorder(), Slow()
    inner_a, inner_b = client(a), server(b)
    outer_a, outer_b = client(inner_a), server(inner_b)
    size, piece = 64 << 20, os.urandom(1 << 16)
    most = 0
    async with over_tcp(lambda: outer_a, lambda: outer_b):
        await asyncio.gather(a.made.wait(), b.made.wait())
        for _ in range(size // len(piece)):
            await a.may_write.wait()
            a.transport.write(piece)
            most = max(most, inner_a.get_write_buffer_size(), outer_a.get_write_buffer_size())
        a.transport.close()
        assert await b.lost is None
    assert b.total == size
    assert b.digest == hashlib.sha256(piece * (size // len(piece))).hexdigest()
    assert a.pauses > 0
    assert most <= HIGH_WATER + 2 * len(piece)


async def test_paused_layers_hold_no_more_than_their_bounds() -> None:
    a, b, one, two = await pair()
    b.transport.pause_reading()
    written = 0
    while a.may_write.is_set():
        a.transport.write(bytes(65536))
        written += 65536
        await asyncio.sleep(0)
    assert not two.reading
    assert len(b.data) == 0
    assert one.most <= one.high + 2 * 65536
    assert written <= one.high + HIGH_WATER + 6 * 65536
    b.transport.resume_reading()
    await a.may_write.wait()
    await b.received(written)


async def test_each_direction_ends_on_its_own() -> None:
    a, b, *_ = await pair(half_open=True)
    a.transport.write(b"question")
    a.transport.write_eof()
    await b.ended.wait()
    assert b.data == b"question"
    await b.send(bytes(500_000))
    b.transport.write_eof()
    await a.ended.wait()
    assert len(a.data) == 500_000
    a.transport.close()
    b.transport.close()
    assert (await a.lost, await b.lost) == (None, None)


async def test_an_end_is_sent_although_data_of_the_peer_waits_unread() -> None:
    a, b, *_ = await pair(half_open=True)
    a.transport.pause_reading()
    b.transport.write(b"x" * 300_000)
    await asyncio.sleep(0.01)
    a.transport.write_eof()
    await b.ended.wait()
    a.transport.resume_reading()
    await a.received(300_000)


async def test_everything_written_before_close_arrives() -> None:
    a, b, *_ = await pair()
    a.transport.write(bytes(3_000_000))
    a.transport.close()
    a.transport.write(b"too late")
    assert await b.lost is None
    assert len(b.data) == 3_000_000


async def test_writes_of_one_turn_leave_as_one() -> None:
    a, b, one, _ = await pair()
    before = len(one.writes)
    for _ in range(100):
        a.transport.write(b"0123456789")
    await b.received(1000)
    assert len(one.writes) - before == 1


async def test_tampered_bytes_end_the_connection_with_an_error() -> None:
    a, b, one, _ = await pair()
    one.cork()
    a.transport.write(b"secret")
    await asyncio.sleep(0)  # the turn in which the layer sends
    await asyncio.sleep(0)
    record = bytearray(one.flight[-1])
    record[-1] ^= 1
    one.flight[-1] = bytes(record)
    one.uncork()
    error = await b.lost
    assert isinstance(error, ProtocolError)
    assert error.diagnostic() == "TLS failed: decryption failed or bad record mac"
    assert b.data == b""
    assert isinstance(await a.lost, ProtocolError)
    assert (a.losses, b.losses) == (1, 1)


async def test_a_cut_is_not_taken_for_an_end() -> None:
    a, b, one, two = await pair()
    a.transport.write(b"half of it")
    await b.received(10)
    one.write_eof()
    error = await b.lost
    assert isinstance(error, ProtocolError)
    assert "without TLS close_notify" in error.diagnostic()
    assert not b.ended.is_set()
    two.abort()


async def test_a_reset_below_is_one_typed_error_above() -> None:
    a, b, one, _ = await pair()
    one.abort()
    error = await b.lost
    assert isinstance(error, UnavailableError)
    assert error.diagnostic() == "the connection was lost: connection reset by peer"
    assert await a.lost is not None
    assert (a.losses, b.losses) == (1, 1)


async def test_what_came_before_a_loss_is_delivered_even_when_paused() -> None:
    _a, b, one, two = await pair()
    b.transport.pause_reading()
    two.reading = True  # a layer below that had more in hand
    a = _a
    a.transport.write(b"last words")
    a.transport.close()
    await asyncio.sleep(0.01)
    two.cut(None)
    assert await b.lost is None
    assert b.data == b"last words"
    del one


async def test_bytes_right_behind_the_handshake_are_not_lost() -> None:
    class Eager(Recorder):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.transport.write(b"early" * 1000)

    a, b = Eager(), Eager()
    plug(client(a), server(b))
    assert await b.received(5000) == b"early" * 1000
    assert await a.received(5000) == b"early" * 1000


@pytest.mark.parametrize("size", [1, 7, 100])
async def test_records_may_arrive_in_crumbs(size: int) -> None:
    class Crumbs(asyncio.Protocol):
        def __init__(self, upper: TlsLayer) -> None:
            self.upper = upper
            self.connection_made = upper.connection_made  # type: ignore[method-assign]  # passed on as it is
            self.connection_lost = upper.connection_lost  # type: ignore[method-assign]  # passed on as it is
            self.eof_received = upper.eof_received  # type: ignore[method-assign]  # passed on as it is

        def data_received(self, data: bytes) -> None:
            for start in range(0, len(data), size):
                self.upper.data_received(data[start : start + size])

    a, b = Recorder(), Recorder()
    plug(client(a), Crumbs(server(b)))
    await a.made.wait()
    data = os.urandom(20_000)
    a.transport.write(data)
    assert await b.received(len(data)) == data


async def test_a_peer_that_says_nothing_is_dropped_in_time() -> None:
    a = Recorder()
    layer = server(a, handshake_timeout=0.05)
    one, _ = plug(layer, Recorder())
    with pytest.raises(UnavailableError, match=r"no TLS handshake within 0\.05 s"):
        await layer.handshake
    assert one.closing
    assert not a.made.is_set()
    assert a.losses == 0


async def test_a_peer_that_speaks_no_tls_is_an_error_of_one_line() -> None:
    a = Recorder()
    layer = server(a)
    _, two = plug(layer, Recorder())
    two.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    with pytest.raises(ProtocolError, match="TLS handshake failed: http request"):
        await layer.handshake


async def test_an_end_in_the_middle_of_the_handshake_is_an_error() -> None:
    layer = server(Recorder())
    _, two = plug(layer, Recorder())
    two.write_eof()
    with pytest.raises(ProtocolError, match="during the TLS handshake"):
        await layer.handshake


async def test_a_server_of_another_ca_is_refused_by_name() -> None:
    other = parties.authority("other")
    context = tls.tunnel_client(parties.bridge(), [other.pem])
    a, b = Recorder(), Recorder()
    layer, far = TlsLayer(context, a, server_side=False), server(b)
    plug(layer, far)
    with pytest.raises(ProtocolError, match=r"certificate verify failed: .*(issuer|self.signed)"):
        await layer.handshake
    with pytest.raises(ProtocolError, match=r"TLS handshake failed: .*unknown ca"):
        await far.handshake
    assert not a.made.is_set()
    assert not b.made.is_set()


@pytest.mark.parametrize("kind", ["another CA", "expired", "none"])
async def test_a_client_learns_of_its_refusal_as_the_loss_of_the_connection(kind: str) -> None:
    """TLS 1.3: its own handshake was over before the server looked."""
    trusted = [parties.tunnel_ca().pem]
    if kind == "another CA":
        context = tls.tunnel_client(parties.authority("x").issue(), trusted)
    elif kind == "expired":
        context = tls.tunnel_client(parties.tunnel_ca().issue(days=-1), trusted)
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=trusted[0].decode())
    a, b = Recorder(), Recorder()
    layer, far = TlsLayer(context, a, server_side=False), server(b)
    async with over_tcp(lambda: layer, lambda: far):
        await layer.handshake
        a.transport.write(b"sent in good faith")
        error = await a.lost
    assert isinstance(error, ProtocolError)
    assert error.diagnostic().startswith("TLS failed: ")
    assert "alert" in error.diagnostic()
    assert far.handshake.exception() is not None
    assert not b.made.is_set()


async def test_an_expired_server_is_refused_with_the_reason() -> None:
    context = tls.tunnel_server(parties.tunnel_ca().issue(days=-1), [parties.tunnel_ca().pem])
    layer = client(Recorder())
    plug(layer, TlsLayer(context, Recorder(), server_side=True))
    with pytest.raises(ProtocolError, match="certificate verify failed: certificate has expired"):
        await layer.handshake


async def test_verify_ends_a_connection_before_anything_above_sees_it() -> None:
    def refuse(ssl_object: ssl.SSLObject) -> None:
        tls.require_party(tls.peer_certificate(ssl_object), parties.OTHER_FINGERPRINT, "bridge")

    a, b = Recorder(), Recorder()
    far = server(b, verify=refuse)
    plug(client(a), far)
    with pytest.raises(ProtocolError, match="another cluster"):
        await far.handshake
    await a.lost
    assert not b.made.is_set()


async def test_abort_cuts_at_once_and_tells_both_sides_once() -> None:
    a, b, *_ = await pair()
    a.transport.write(bytes(100))
    a.transport.abort()
    a.transport.abort()
    a.transport.close()
    await asyncio.gather(a.lost, b.lost)
    assert (a.losses, b.losses) == (1, 1)
    a.transport.write(b"ignored")


async def test_a_typed_error_above_ends_the_connection_with_it() -> None:
    class Fussy(Recorder):
        def data_received(self, data: bytes) -> None:
            raise ProtocolError("not for me")

    a, b = Recorder(), Fussy()
    plug(client(a), server(b))
    await asyncio.gather(a.made.wait(), b.made.wait())
    a.transport.write(b"?")
    error = await b.lost
    assert isinstance(error, CloudtaserError)
    assert error.what == "not for me"
    await a.lost


async def test_a_finished_connection_is_freed_without_the_garbage_collector() -> None:
    gc.disable()
    try:
        a, b, one, two = await pair()
        a.transport.close()
        await asyncio.gather(a.lost, b.lost)
        layer = weakref.ref(a.transport)
        del a.transport, one, two, b
        await asyncio.sleep(0)
        assert layer() is None
    finally:
        gc.enable()


async def test_the_layers_below_are_known_above() -> None:
    a, *_ = await pair()
    assert a.transport.get_extra_info("peername") == ("198.51.100.7", 4711)
    assert a.transport.get_extra_info("ssl_object").version() == "TLSv1.3"
    assert a.transport.get_extra_info("nothing", 7) == 7


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abpqPQ"), st.integers(1, 90_000)), max_size=40), st.booleans())
def test_any_interleaving_delivers_exactly_the_bytes(script: list[tuple[str, int]], nested: bool) -> None:
    """a, b: a side writes; p, q: a side stops reading; P, Q: it goes on; then both end."""

    async def play() -> None:
        a, b = Recorder(half_open=True), Recorder(half_open=True)
        near, far = client(a), server(b)
        if nested:
            near, far = client(near), server(far)
        plug(near, far)
        await asyncio.gather(a.made.wait(), b.made.wait())
        sent = {"a": bytearray(), "b": bytearray()}
        for step, (action, size) in enumerate(script):
            side = a if action in "apP" else b
            if action in "ab":
                data = bytes([step % 256]) * size
                sent[action] += data
                side.transport.write(data)
            elif action in "pq":
                side.transport.pause_reading()
            else:
                side.transport.resume_reading()
            if size % 3 == 0:
                await asyncio.sleep(0)
        for side in (a, b):
            side.transport.write_eof()
            side.transport.resume_reading()
        await asyncio.gather(a.ended.wait(), b.ended.wait())
        assert (b.data, a.data) == (sent["a"], sent["b"])
        a.transport.close()
        b.transport.close()
        assert (await a.lost, await b.lost) == (None, None)

    asyncio.run(play())


ANSWERS = 16 * 1024


class Answering:
    """An engine whose peer asked for key updates, which are answered each time it is looked at."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    def output(self) -> bytes:
        return self._engine.output() + bytes(ANSWERS)


async def test_a_peer_that_asks_for_key_updates_without_reading_the_answers_is_cut_off() -> None:
    near, far = server(Recorder()), client(Recorder())
    wire, _ = plug(near, far)
    await asyncio.gather(near.handshake, far.handshake)
    assert near._engine is not None
    near._engine = cast("Engine", Answering(near._engine))
    wire.cork()
    while not wire.dead:
        near.data_received(b"")
        await asyncio.sleep(0)
        assert wire.most <= MAX_UNREAD + ANSWERS
