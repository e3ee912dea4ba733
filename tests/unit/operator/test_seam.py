"""What passes between the operator's containers: framed, bounded, from the right uid, and nothing besides."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.errors import ProtocolError, RefusedError, UnavailableError
from cloudtaser.net.tls import Identity
from cloudtaser.operator.exchange import BridgeRefusedError, Certified
from cloudtaser.operator.exchanges import Exchange
from cloudtaser.operator.manager_door import ManagerDoor
from cloudtaser.operator.remote_exchanges import RemoteExchanges
from cloudtaser.operator.remote_manager import RemoteManager
from cloudtaser.operator.seam import MAX_FRAME, Frames, failure, frame, raise_failure
from cloudtaser.operator.trust import Trust, TrustDiffersError
from cloudtaser.secret import Secret
from cloudtaser.wire.bootstrap import Refusal
from tests.unit.operator.parties import FINGERPRINT, Authority

UID = os.getuid()
TUNNEL = Authority("tunnel")
CERTIFIED = Certified(
    identity=Identity(b"certificate", Secret(b"key"), b"chain"),
    trust=TUNNEL.trust,
    pod_ca="pod CA",
    name="broker-1",
    not_before=datetime(2030, 1, 1, tzinfo=UTC),
    not_after=datetime(2030, 1, 2, tzinfo=UTC),
    former_pod_cas="former",
)


class Answers:
    """A manager's place."""

    def __init__(self) -> None:
        self.fingerprint = FINGERPRINT
        self.trust: Trust | None = None

    async def read_trust(self) -> Trust | None:
        return self.trust


class Ping(Exchange):
    """An exchange of a kind: says who it is, and is certified by what it hears."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self.name)

    def data_received(self, data: bytes) -> None:
        if not self.heard.done():
            self.heard.set_result(data)

    async def finish(self) -> Certified:
        heard = await self.heard
        if heard == b"no":
            raise BridgeRefusedError(Refusal(error="already_initialized", message="long ago"))
        if heard == b"differs":
            raise TrustDiffersError("another CA is pinned", on="a ConfigMap", fix="compare")
        return CERTIFIED

    def close(self) -> None:
        assert self.transport is not None
        self.transport.close()


class Exchanges:
    async def introduce(self) -> Callable[[], Exchange]:
        return lambda: Ping(b"introduce")

    def come_back(self, trust: Trust) -> Exchange:
        return Ping(b"come back to " + trust.short.encode())


class Both:
    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "manager.sock")
        self.answers = Answers()
        self.door = ManagerDoor(self.path, UID, self.answers, Exchanges())
        self.remote = RemoteManager(self.path, UID)
        self.exchanges = RemoteExchanges(self.remote)


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[Both]:
    both = Both(tmp_path)
    await both.door.start()
    yield both
    await both.door.close()


class Bridge(asyncio.Protocol):
    """The other end of the broker's connection."""

    def __init__(self) -> None:
        self.heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if not self.heard.done():
            self.heard.set_result(data)

    def say(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)


async def met(exchange: Exchange) -> Bridge:
    """A match: `exchange` is connected to a bridge."""
    ours, theirs = socket.socketpair()
    loop, bridge = asyncio.get_running_loop(), Bridge()
    await loop.create_unix_connection(lambda: bridge, sock=theirs)
    await loop.create_unix_connection(lambda: exchange, sock=ours)
    return bridge


async def test_the_broker_learns_who_we_are_and_what_is_pinned(both: Both) -> None:
    assert await both.remote.fingerprint() == FINGERPRINT
    assert await both.remote.read_trust() is None
    both.answers.trust = TUNNEL.trust
    assert await both.remote.read_trust() == TUNNEL.trust


async def test_an_exchange_runs_in_the_manager_over_the_brokers_connection(both: Both) -> None:
    await both.remote.fingerprint()
    exchange = (await both.exchanges.introduce())()
    bridge = await met(exchange)
    assert await asyncio.wait_for(bridge.heard, 10) == b"introduce"
    bridge.say(b"yes")
    assert await asyncio.wait_for(exchange.finish(), 10) == CERTIFIED
    exchange.close()


async def test_what_came_of_it_arrives_as_what_it_was(both: Both) -> None:
    for said, kind in ((b"no", BridgeRefusedError), (b"differs", TrustDiffersError)):
        exchange = (await both.exchanges.introduce())()
        bridge = await met(exchange)
        await asyncio.wait_for(bridge.heard, 10)
        bridge.say(said)
        with pytest.raises(kind) as caught:
            await asyncio.wait_for(exchange.finish(), 10)
        if isinstance(caught.value, BridgeRefusedError):
            assert caught.value.code == "already_initialized"
        exchange.close()


async def test_once_a_tunnel_ca_is_pinned_nobody_is_introduced_again(both: Both) -> None:
    both.answers.trust = TUNNEL.trust
    exchange = (await both.exchanges.introduce())()
    bridge = await met(exchange)
    with pytest.raises(RefusedError, match="it is to come back"):
        await asyncio.wait_for(exchange.finish(), 10)
    assert not bridge.heard.done()
    exchange.close()


async def test_one_comes_back_to_a_ca_that_is_pinned_or_was_and_to_no_other(both: Both) -> None:
    both.answers.trust = TUNNEL.trust
    exchange = both.exchanges.come_back(TUNNEL.trust)
    bridge = await met(exchange)
    assert await asyncio.wait_for(bridge.heard, 10) == b"come back to " + TUNNEL.trust.short.encode()
    exchange.close()
    stranger = both.exchanges.come_back(Authority("another").trust)
    bridge = await met(stranger)
    with pytest.raises(RefusedError, match="never trusted"):
        await asyncio.wait_for(stranger.finish(), 10)
    assert not bridge.heard.done()
    stranger.close()


async def test_a_manager_that_is_restarted_meanwhile_ends_the_exchange(both: Both) -> None:
    exchange = (await both.exchanges.introduce())()
    bridge = await met(exchange)
    await asyncio.wait_for(bridge.heard, 10)
    await both.door.close()
    with pytest.raises(UnavailableError):
        await asyncio.wait_for(exchange.finish(), 10)
    exchange.close()


async def test_a_manager_that_is_away_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="the manager's container is not there"):
        await RemoteManager(str(tmp_path / "none"), UID).read_trust()


async def test_who_waits_for_the_manager_gets_the_fingerprint_once_it_is_there(tmp_path: Path) -> None:
    both = Both(tmp_path)
    waited = asyncio.Event()

    async def sleep(seconds: float) -> None:
        waited.set()
        await asyncio.sleep(0)

    asking = asyncio.ensure_future(both.remote.fingerprint(sleep=sleep))
    await asyncio.wait_for(waited.wait(), 10)
    await both.door.start()
    assert await asyncio.wait_for(asking, 10) == FINGERPRINT
    await both.door.close()


async def test_who_has_another_uid_than_the_brokers_is_cut_off_unheard(tmp_path: Path) -> None:
    both = Both(tmp_path)
    door = ManagerDoor(both.path, UID + 1, both.answers, Exchanges())
    await door.start()
    reader, writer = await asyncio.open_unix_connection(both.path)
    assert await asyncio.wait_for(_all(reader), 10) == b""
    writer.close()
    with pytest.raises(UnavailableError, match="closed the connection"):
        await both.remote.read_trust()
    assert door.asked == 0
    await door.close()


async def test_a_manager_with_another_uid_is_told_nothing(both: Both) -> None:
    with pytest.raises(RefusedError, match=f"uid {UID}, not {UID + 1}"):
        await RemoteManager(both.path, UID + 1).read_trust()
    assert both.door.asked == 0


@pytest.mark.parametrize(
    "sent",
    [
        frame({"ask": "operator_token"}),
        frame({"ask": "reviewer_token"}),
        frame({}),
        frame({"ask": "channel_token", "h": "00", "spki": "00"}),
        frame({"ask": "keep", "tunnel_ca": "", "lineage": "", "pod_ca": "", "former_pod_cas": ""}),
        frame({"ask": "result", "id": "00"}),
        frame({"ask": "result"}),
        frame({"ask": "come_back", "tunnel_ca": ""}),
        struct.pack(">I", 3) + b"[1]",
        struct.pack(">I", MAX_FRAME + 1),
    ],
)
async def test_a_question_that_is_none_of_the_brokers_gets_no_answer(both: Both, sent: bytes) -> None:
    reader, writer = await asyncio.open_unix_connection(both.path)
    writer.write(sent)
    answer = json.loads((await asyncio.wait_for(_all(reader), 10))[4:])
    assert "error" in answer
    writer.close()
    assert both.door.asked == 0


async def test_the_socket_of_a_predecessor_is_replaced_and_is_for_us_and_our_group(tmp_path: Path) -> None:
    first, second = Both(tmp_path), Both(tmp_path)
    await first.door.start()
    await second.door.start()
    assert os.stat(second.path).st_mode & 0o777 == 0o660
    assert await second.remote.read_trust() is None
    await first.door.close()
    assert await second.remote.read_trust() is None
    await second.door.close()


async def test_a_directory_that_is_not_mounted_is_made_for_us_and_our_group(tmp_path: Path) -> None:
    path = tmp_path / "manager" / "manager.sock"
    door = ManagerDoor(str(path), UID, Answers(), Exchanges())
    await door.start()
    assert path.parent.stat().st_mode & 0o007 == 0
    assert await RemoteManager(str(path), UID).fingerprint() == FINGERPRINT
    await door.close()


def test_a_frame_that_is_too_long_is_not_waited_for() -> None:
    with pytest.raises(ProtocolError, match="a frame of 4097 bytes"):
        Frames(4096).receive(struct.pack(">I", 4097))
    with pytest.raises(ProtocolError):
        frame({"x": "y" * MAX_FRAME})


@given(st.lists(st.dictionaries(st.text(max_size=8), st.integers()), max_size=8), st.integers(1, 50))
def test_frames_are_found_however_they_are_cut(fields: list[dict[str, Any]], size: int) -> None:
    sent = b"".join(map(frame, fields))
    frames, found = Frames(), []
    for start in range(0, len(sent), size):
        found += frames.receive(sent[start : start + size])
    assert found == fields
    assert frames.rest == b""


@given(st.binary(max_size=200))
def test_bytes_without_sense_are_refused_and_nothing_else(data: bytes) -> None:
    try:
        Frames(100).receive(data)
    except ProtocolError:
        pass


def test_every_error_survives_the_way() -> None:
    for error in (UnavailableError("a", on="b", fix="c"), RefusedError("x"), ProtocolError("y")):
        with pytest.raises(type(error), match=error.what):
            raise_failure(failure(error))
    raise_failure({"ok": True})


async def _all(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(-1)
    except ConnectionResetError:
        return b""
