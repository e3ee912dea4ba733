"""The pump alone: TLS in any pieces, sockets that take what they like, every byte to its own peer exactly
once.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudtaser.beacon.dev import in_memory, self_signed
from cloudtaser.beacon.link import Link, State
from cloudtaser.beacon.pump import Pump
from cloudtaser.beacon.tls import server_context
from cloudtaser.wire.rendezvous import Role

BUFFER = 16_384


def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    with in_memory(*self_signed(["localhost"])) as (cert_file, key_file):
        server = server_context(cert_file, key_file)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    return server, client


SERVER, CLIENT = contexts()


class Loop:
    """Remembers who watches what."""

    def __init__(self) -> None:
        self.readers: dict[int, Callable[[], None]] = {}
        self.writers: dict[int, Callable[[], None]] = {}

    def add_reader(self, fd: int, call: Callable[[Link], None], link: Link) -> None:
        self.readers[fd] = lambda: call(link)

    def add_writer(self, fd: int, call: Callable[[Link], None], link: Link) -> None:
        self.writers[fd] = lambda: call(link)

    def remove_reader(self, fd: int) -> None:
        self.readers.pop(fd, None)

    def remove_writer(self, fd: int) -> None:
        self.writers.pop(fd, None)


class Wire:
    """A socket as the pump sees it, and a TLS client at its other end."""

    numbers = iter(range(10, 1_000_000))

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.fd = next(self.numbers)
        self.to_pump = bytearray()
        self.space = 0  # what the kernel would take now
        self.shut = self.closed = self.client_gone = False
        self.got = b""
        self.ended = False
        self.bio_in, self.bio_out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = CLIENT.wrap_bio(self.bio_in, self.bio_out)
        self.ready = False

    def fileno(self) -> int:
        return self.fd

    def recv_into(self, buffer: memoryview, limit: int = 0) -> int:
        size = min(len(self.to_pump), limit or len(buffer), self.rng.choice((1, 5, 700, 1 << 20)))
        if not size:
            if self.client_gone:
                return 0
            raise BlockingIOError
        buffer[:size] = self.to_pump[:size]
        del self.to_pump[:size]
        return size

    def send(self, data: bytes) -> int:
        size = min(len(data), self.space)
        if not size:
            raise BlockingIOError
        self.space -= size
        self.bio_in.write(bytes(data[:size]))
        self.drive()
        return size

    def make_space(self, size: int) -> None:
        self.space = size

    def shutdown(self, how: int) -> None:
        self.shut = True

    def close(self) -> None:
        self.closed = True

    def drive(self) -> None:
        """The client reads whatever it can."""
        try:
            if not self.ready:
                self.tls.do_handshake()
                self.ready = True
            while True:
                data = self.tls.read(65_536)
                if not data:
                    self.ended = True
                    break
                self.got += data
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        self.to_pump += self.bio_out.read()

    def say(self, data: bytes) -> None:
        self.tls.write(data)
        self.to_pump += self.bio_out.read()

    def end(self) -> None:
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        self.to_pump += self.bio_out.read()
        self.client_gone = True


class Owner:
    """Collects what the pump reports."""

    def __init__(self) -> None:
        self.heard_from: dict[Link, bytes] = {}
        self.over: list[str] = []

    def established(self, link: Link) -> None:
        self.heard_from[link] = b""

    def heard(self, link: Link, data: bytes) -> None:
        self.heard_from[link] += data

    def pair_over(self, link: Link, peer: Link, reason: str) -> None:
        self.over.append(reason)

    def closed(self, link: Link) -> None:
        pass

    def gone(self, link: Link) -> None:
        raise AssertionError("nobody leaves before the match")

    def handshake_failed(self, link: Link, reason: str) -> None:
        raise AssertionError(reason)

    def failed(self, link: Link, error: Exception) -> None:
        raise error


class World:
    def __init__(self, seed: int, pairs: int) -> None:
        self.rng = random.Random(seed)
        self.loop, self.owner = Loop(), Owner()
        self.seen: dict[tuple[str, bytes], bytes] = {}
        self.pump = Pump(cast(asyncio.AbstractEventLoop, self.loop), self.owner, buffer=BUFFER, tap=self.tap)
        self.wires: list[Wire] = []
        self.links: list[Link] = []
        for number in range(2 * pairs):
            wire = Wire(self.rng)
            link = self.pump.attach(cast(socket.socket, wire), SERVER, "192.0.2.1", 0.0)
            link.role = (Role.BRIDGE, Role.BROKER)[number % 2]
            link.room = bytes([number // 2]) * 32
            self.wires.append(wire)
            self.links.append(link)
            wire.drive()
        self.run(lambda: all(wire.ready for wire in self.wires) and len(self.owner.heard_from) == 2 * pairs)

    def tap(self, side: str, room: bytes, data: memoryview) -> None:
        self.seen[side, room] = self.seen.get((side, room), b"") + bytes(data)

    def step(self) -> None:
        """One event that a loop could deliver now, any of them."""
        events: list[Callable[[], Any]] = []
        for wire in self.wires:
            if wire.fd in self.loop.readers and (wire.to_pump or wire.client_gone):
                events.append(self.loop.readers[wire.fd])
            if wire.fd in self.loop.writers and wire.space:
                events.append(self.loop.writers[wire.fd])
            events.append(partial(wire.make_space, self.rng.choice((0, 10, 3000, 1 << 20))))
        self.rng.choice(events)()
        for link in self.links:
            # one read's worth, and the rest of a record that began in the read before
            assert link.pending is None or len(link.pending) <= BUFFER + 16_384 + 4096
        assert not self.pump._incoming.pending
        assert not self.pump._outgoing.pending

    def run(self, until: Callable[[], bool]) -> None:
        for _ in range(400_000):
            if until():
                return
            self.step()
        raise AssertionError("it does not get there")


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 7), st.sampled_from([1, 100, 1400, 16_384, 50_000])), max_size=30),
)
def test_every_byte_reaches_its_own_peer_once_in_any_order_of_events(
    seed: int, pairs: int, says: list[tuple[int, int]]
) -> None:
    world = World(seed, pairs)
    for one, other in zip(world.links[::2], world.links[1::2], strict=True):
        world.pump.join(one, other)
    said = [b""] * (2 * pairs)
    for who, size in says:
        who %= 2 * pairs
        data = os.urandom(size)
        said[who] += data
        world.wires[who].say(data)
        for _ in range(world.rng.randrange(6)):
            world.step()
    for wire in world.wires:
        # a client sends its close_notify when it has nothing unread: OpenSSL insists
        world.run(lambda wire=wire: wire.bio_in.pending == 0)  # type: ignore[misc]  # bound by its default
        wire.end()
    world.run(lambda: all(wire.closed for wire in world.wires))
    for number, wire in enumerate(world.wires):
        assert wire.got == said[number ^ 1]
        assert wire.ended
        assert wire.shut
    assert world.owner.over == ["finished"] * pairs
    for number, link in enumerate(world.links):
        side = "bridge" if number % 2 == 0 else "broker"
        assert world.seen.get((side, link.room), b"") == said[number]
        assert link.relayed == len(said[number])


def test_what_was_said_before_the_match_is_delivered_behind_the_answer() -> None:
    world = World(1, 1)
    bridge, broker = world.links
    bridge.early, broker.early = b"from the bridge", b""
    world.pump.join(bridge, broker)
    world.pump.relay_early(bridge, b"M")
    world.pump.relay_early(broker, b"M")
    world.run(lambda: world.wires[0].got == b"M" and world.wires[1].got == b"Mfrom the bridge")
    assert (bridge.early, bridge.relayed) == (b"", 15)


def test_a_slow_reader_stops_its_sender_and_only_that_direction() -> None:
    world = World(2, 1)
    world.pump.join(*world.links)
    slow = world.wires[1]
    slow.space = 0
    world.wires[0].say(bytes(200_000))
    for _ in range(200):
        for fd in list(world.loop.readers):
            world.loop.readers[fd]()
    assert world.links[1].pending is not None
    assert world.wires[0].fd not in world.loop.readers
    assert slow.fd in world.loop.readers
    assert len(world.wires[0].to_pump) > 150_000
    assert world.pump.pauses == 1


@pytest.mark.parametrize("farewell", [b"", b"F\0\0"])
def test_a_dismissed_party_reads_why_before_the_end(farewell: bytes) -> None:
    world = World(3, 1)
    link, wire = world.links[0], world.wires[0]
    wire.space = 0
    world.pump.dismiss(link, farewell)
    assert not wire.shut
    world.run(lambda: wire.ended and wire.shut)
    assert wire.got == farewell
    assert link.state is State.LEAVING
    wire.client_gone = True
    world.run(lambda: wire.closed)


def test_bytes_left_over_by_a_fault_reach_nobody() -> None:
    world = World(4, 1)
    world.pump.join(*world.links)
    failures: list[Exception] = []
    world.owner.failed = lambda link, error: failures.append(error)  # type: ignore[method-assign]  # it is expected
    world.pump._relay = lambda link: None  # type: ignore[method-assign]  # as if it had forgotten to read
    world.wires[0].say(b"x")
    while not failures:
        world.loop.readers[world.wires[0].fd]()
    assert not world.pump._incoming.pending
    assert world.wires[0].closed
