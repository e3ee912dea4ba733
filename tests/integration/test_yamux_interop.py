"""yamux against HashiCorp's own Go module, in both roles (tests/peers/yamux is the other end of a pipe)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cloudtaser.errors import ProtocolError, UnavailableError
from cloudtaser.wire.yamux import Session
from cloudtaser.wire.yamux_frames import (
    INITIAL_WINDOW,
    Data,
    Event,
    GoAway,
    HalfClosed,
    Pong,
    StreamOpened,
    WindowGrew,
)

SOURCE = Path(__file__).parents[1] / "peers" / "yamux"
GO_PLACES = ("/usr/local/go/bin", "/usr/lib/go/bin", "/usr/lib/go-1.19/bin")
DEADLINE = 60.0

ROLES = pytest.mark.parametrize("client", [True, False], ids=["we are the client", "we are the server"])


@pytest.fixture(scope="session")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test peer, built once."""
    go = shutil.which("go", path=os.pathsep.join((os.environ.get("PATH", ""), *GO_PLACES)))
    assert go, "these tests build HashiCorp's yamux: install Go (Debian: apt install golang-go)"
    program = tmp_path_factory.mktemp("yamux") / "yamuxpeer"
    subprocess.run([go, "build", "-o", str(program), "."], cwd=SOURCE, check=True, timeout=300)
    return program


class Talk:
    """Our session at one end of the peer's standard input and output."""

    def __init__(self, session: Session, process: asyncio.subprocess.Process) -> None:
        assert process.stdin
        assert process.stdout
        self.session = session
        self._process = process
        self._to, self._from = process.stdin, process.stdout
        self.outgoing: dict[int, bytes] = {}
        self.closing: set[int] = set()

    async def events(self) -> list[Event]:
        """One turn: what is queued goes out, and what comes in is heard."""
        self._to.write(self.session.data_to_send())
        await self._to.drain()
        data = await self._from.read(65536)
        assert data, "the peer closed"
        return self.session.receive(data)

    def send(self, stream: int, data: bytes, *, close: bool = False) -> int:
        """Send as the window allows; the rest follows by `flow()`. What was taken now."""
        data = self.outgoing.pop(stream, b"") + data
        taken = self.session.send(stream, data)
        if taken < len(data):
            self.outgoing[stream] = data[taken:]
        if close:
            self.closing.add(stream)
        if stream in self.closing and stream not in self.outgoing:
            self.closing.discard(stream)
            self.session.close(stream)
        return taken

    def flow(self, event: Event) -> None:
        if isinstance(event, WindowGrew) and event.id in self.outgoing:
            self.send(event.id, b"")

    def raw(self, data: bytes) -> None:
        """Bytes that no session of ours would send."""
        self._to.write(self.session.data_to_send() + data)

    async def finish(self) -> dict[str, Any]:
        """Close, and say what the peer reported. It must have ended well."""
        self._to.write(self.session.data_to_send())
        self._to.close()
        _, said = await asyncio.gather(self._from.read(), self._process.stderr.read())  # type: ignore[union-attr]  # piped
        assert await self._process.wait() == 0, said.decode()
        report = [line for line in said.decode().splitlines() if line.startswith("{")]
        return dict(json.loads(report[-1])) if report else {}


@asynccontextmanager
async def talk(peer: Path, client: bool, scenario: str, **options: int) -> AsyncIterator[Talk]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        str(peer), "server" if client else "client", scenario, stdin=pipe, stdout=pipe, stderr=pipe
    )
    try:
        async with asyncio.timeout(DEADLINE):
            yield Talk(Session(client, **options), process)
    except Exception as error:
        if process.returncode is None:
            process.kill()
        assert process.stderr
        error.add_note(f"the peer said: {(await process.stderr.read()).decode()}")
        raise
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def call_all(talk: Talk, bodies: list[bytes]) -> None:
    """Open a stream for each body at once, half-close, and expect every byte back, and the end."""
    wanted = {talk.session.open_stream(): body for body in bodies}
    for stream, body in wanted.items():
        talk.send(stream, body, close=True)
    got = {stream: bytearray() for stream in wanted}
    left = set(wanted)
    while left:
        for event in await talk.events():
            talk.flow(event)
            if isinstance(event, Data):
                got[event.id] += event.data
                talk.session.consumed(event.id, len(event.data))
            elif isinstance(event, HalfClosed):
                left.remove(event.id)
            else:
                assert isinstance(event, WindowGrew), event
    assert got == wanted
    assert talk.session.active == 0


async def echo_all(talk: Talk, count: int) -> int:
    """Echo `count` streams; a peer gets window back only for what has gone on. The most that was held."""
    ended = 0
    held: dict[int, int] = {}
    most = 0

    def gone(stream: int, size: int) -> None:
        held[stream] -= size
        talk.session.consumed(stream, size)

    while ended < count:
        for event in await talk.events():
            if isinstance(event, StreamOpened):
                held[event.id] = 0
            elif isinstance(event, Data):
                held[event.id] += len(event.data)
                most = max(most, held[event.id])
                gone(event.id, talk.send(event.id, event.data))
            elif isinstance(event, HalfClosed):
                talk.send(event.id, b"", close=True)
                ended += 1
            elif isinstance(event, WindowGrew):
                gone(event.id, talk.send(event.id, b""))
    while talk.outgoing:
        for event in await talk.events():
            talk.flow(event)
    return most


@ROLES
@pytest.mark.parametrize("scenario", ["echo", "echo-window"])
async def test_streams_that_we_open_come_back_whole(peer: Path, client: bool, scenario: str) -> None:
    bodies = [random.Random(seed).randbytes(600_000) for seed in range(64)]
    async with talk(peer, client, scenario) as us:
        await call_all(us, bodies)
        await us.finish()


@ROLES
@pytest.mark.parametrize("scenario", ["call", "call-window"])
async def test_streams_that_the_peer_opens_go_back_whole_under_back_pressure(
    peer: Path, client: bool, scenario: str
) -> None:
    async with talk(peer, client, scenario) as us:
        assert await echo_all(us, 64) <= INITIAL_WINDOW
        await us.finish()


@ROLES
async def test_a_larger_window_of_ours_is_used_by_the_peer(peer: Path, client: bool) -> None:
    async with talk(peer, client, "call", window=4 * INITIAL_WINDOW) as us:
        await echo_all(us, 64)
        await us.finish()


@ROLES
async def test_a_thousand_streams_at_once_in_each_direction(peer: Path, client: bool) -> None:
    async with talk(peer, client, "echo-many") as us:
        await call_all(us, [b"%04d" % number * 375 for number in range(1000)])
        await us.finish()
    async with talk(peer, client, "call-many") as us:
        await echo_all(us, 1000)
        await us.finish()


@ROLES
async def test_a_slow_reader_holds_us_back_and_loses_nothing(peer: Path, client: bool) -> None:
    body = random.Random(1).randbytes(8 << 20)
    async with talk(peer, client, "slow") as us:
        stream = us.session.open_stream()
        assert us.send(stream, body, close=True) == INITIAL_WINDOW
        waits = 0
        while us.session.active:
            for event in await us.events():
                waits += isinstance(event, WindowGrew)
                us.flow(event)
        assert waits > 8
        assert await us.finish() == {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}


@ROLES
async def test_an_answer_on_the_half_that_is_still_open(peer: Path, client: bool) -> None:
    async with talk(peer, client, "half-close") as us:
        us.send(us.session.open_stream(), b"x" * 1000, close=True)
        heard: list[Event] = []
        while us.session.active:
            heard += await us.events()
        assert b"".join(e.data for e in heard if isinstance(e, Data)) == b"heard 1000 bytes"
        assert isinstance(heard[-1], HalfClosed)
        await us.finish()


@ROLES
async def test_a_reset_of_ours_ends_one_stream_and_no_other(peer: Path, client: bool) -> None:
    async with talk(peer, client, "reset") as us:
        stream = us.session.open_stream()
        us.send(stream, b"hello")
        while not any(isinstance(event, Data) for event in await us.events()):
            pass
        us.session.reset(stream)
        await call_all(us, [b"after the reset" * 1000])
        assert await us.finish() == {"reset": "hello"}


@ROLES
async def test_streams_too_many_are_reset_and_the_rest_live(peer: Path, client: bool) -> None:
    async with talk(peer, client, "surplus", max_streams=3) as us:
        opened: list[int] = []
        while us.session.active or not opened:
            for event in await us.events():
                if isinstance(event, StreamOpened):
                    opened.append(event.id)
                elif isinstance(event, Data):
                    for stream in opened:
                        us.session.close(stream)
        assert len(opened) == 3
        assert await us.finish() == {"ended": 3, "refused": 5}


@ROLES
async def test_the_peers_go_away_stops_new_streams_and_spares_old_ones(peer: Path, client: bool) -> None:
    async with talk(peer, client, "go-away") as us:
        stream = us.session.open_stream()
        us.send(stream, b"before")
        while GoAway(0) not in await us.events():
            pass
        with pytest.raises(UnavailableError):
            us.session.open_stream()
        us.send(stream, b" and after", close=True)
        heard: list[Event] = []
        while us.session.active:
            heard += await us.events()
        assert b"".join(e.data for e in heard if isinstance(e, Data)) == b"before and after"
        await us.finish()


@ROLES
async def test_our_go_away_stops_the_peers_new_streams_and_spares_old_ones(peer: Path, client: bool) -> None:
    async with talk(peer, client, "heard-go-away") as us:
        stream = us.session.open_stream()
        us.send(stream, b"hello")
        us.session.go_away()
        us.send(stream, b"", close=True)
        heard: list[Event] = []
        while us.session.active:
            heard += await us.events()
        assert b"".join(e.data for e in heard if isinstance(e, Data)) == b"still here"
        await us.finish()


@ROLES
async def test_pings_are_answered_both_ways(peer: Path, client: bool) -> None:
    async with talk(peer, client, "ping") as us:
        nonces = {us.session.ping() for _ in range(3)}
        while nonces:
            nonces -= {event.nonce for event in await us.events() if isinstance(event, Pong)}
        await call_all(us, [b"and the session still works"])
        await us.finish()


def overrun(stream: int) -> bytes:
    size = INITIAL_WINDOW + 1
    return bytes((0, 0, 0, 0)) + stream.to_bytes(4, "big") + size.to_bytes(4, "big") + bytes(size)


def opened_twice(stream: int) -> bytes:
    return bytes((0, 1, 0, 1)) + stream.to_bytes(4, "big") + bytes(4)


@ROLES
@pytest.mark.parametrize(
    ("broken", "complaint"),
    [(overrun, "receive window exceeded"), (opened_twice, "duplicate stream")],
    ids=["overrun", "opened twice"],
)
async def test_both_sides_hold_the_same_things_to_be_errors(
    peer: Path, client: bool, broken: Callable[[int], bytes], complaint: str
) -> None:
    """What ends a session for HashiCorp's module ends it for ours. (Its go-away may be lost as it closes.)"""
    ours = Session(not client)
    async with talk(peer, client, "protocol-error") as us:
        stream = us.session.open_stream()
        opening = us.session.data_to_send()
        ours.receive(opening)
        with pytest.raises(ProtocolError):
            ours.receive(broken(stream))
        us.raw(opening + broken(stream))
        assert complaint in (await us.finish())["closed"]
