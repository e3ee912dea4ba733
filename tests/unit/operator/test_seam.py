"""What passes between the operator's containers: framed, bounded, from the right uid, and nothing besides."""

from __future__ import annotations

import asyncio
import json
import os
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.errors import CloudtaserError, ProtocolError, RefusedError, UnavailableError
from cloudtaser.operator.manager import Introduction
from cloudtaser.operator.manager_door import ManagerDoor
from cloudtaser.operator.remote_manager import RemoteManager
from cloudtaser.operator.seam import MAX_FRAME, Frames, failure, frame, raise_failure
from cloudtaser.operator.trust import Trust, TrustDiffersError
from cloudtaser.secret import Secret
from tests.unit.operator.parties import FINGERPRINT, Authority

UID = os.getuid()
TUNNEL = Authority("tunnel")
POD = Authority("pod")


class Answers:
    """A manager's place; holds what it was asked to keep."""

    def __init__(self) -> None:
        self.fingerprint = FINGERPRINT
        self.trust: Trust | None = None
        self.kept: list[tuple[Trust, str, str]] = []
        self.tokens: list[tuple[bytes, bytes]] = []
        self.error: CloudtaserError | None = None

    async def introduction(self) -> Introduction:
        return Introduction("https://issuer", {"keys": [{"kid": "1"}]}, "PEM", "system:serviceaccount:a:b")

    async def channel_token(self, handshake_hash: bytes, spki: bytes) -> Secret:
        self.tokens.append((handshake_hash, spki))
        return Secret("a.b.c")

    async def read_trust(self) -> Trust | None:
        return self.trust

    async def keep(self, trust: Trust, pod_ca: str, former_pod_cas: str = "") -> None:
        if self.error is not None:
            raise self.error
        self.kept.append((trust, pod_ca, former_pod_cas))


class Both:
    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "manager.sock")
        self.answers = Answers()
        self.door = ManagerDoor(self.path, UID, self.answers)
        self.remote = RemoteManager(self.path, UID)


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[Both]:
    both = Both(tmp_path)
    await both.door.start()
    yield both
    await both.door.close()


async def test_the_broker_gets_from_the_manager_what_it_needs_to_get_in(both: Both) -> None:
    remote, answers = both.remote, both.answers
    assert await remote.fingerprint() == FINGERPRINT
    assert await remote.introduction() == await answers.introduction()
    assert await remote.channel_token(b"h" * 32, b"spki") == Secret("a.b.c")
    assert answers.tokens == [(b"h" * 32, b"spki")]
    assert await remote.read_trust() is None
    answers.trust = TUNNEL.trust
    assert await remote.read_trust() == TUNNEL.trust
    await remote.keep(TUNNEL.trust, POD.pem, "former")
    assert answers.kept == [(TUNNEL.trust, POD.pem, "former")]


async def test_an_error_arrives_as_what_it_was(both: Both) -> None:
    both.answers.error = TrustDiffersError("another CA is pinned", on="a ConfigMap", fix="compare")
    with pytest.raises(TrustDiffersError) as caught:
        await both.remote.keep(TUNNEL.trust, POD.pem)
    assert caught.value.diagnostic() == "another CA is pinned (a ConfigMap); compare"


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
    door = ManagerDoor(both.path, UID + 1, both.answers)
    await door.start()
    reader, writer = await asyncio.open_unix_connection(both.path)
    assert await asyncio.wait_for(_all(reader), 10) == b""
    writer.close()
    with pytest.raises(UnavailableError, match="closed the connection"):
        await both.remote.read_trust()
    assert door.asked == 0
    await door.close()


async def test_a_manager_with_another_uid_is_told_nothing(both: Both) -> None:
    with pytest.raises(RefusedError, match=f"uid {UID}, not the manager's {UID + 1}"):
        await RemoteManager(both.path, UID + 1).channel_token(b"h", b"s")
    assert both.answers.tokens == []


@pytest.mark.parametrize(
    "sent",
    [
        frame({"ask": "operator_token"}),
        frame({"ask": "reviewer_token"}),
        frame({}),
        frame({"ask": "channel_token", "h": "zz", "spki": ""}),
        frame({"ask": "channel_token", "h": 1}),
        frame({"ask": "keep", "tunnel_ca": "", "lineage": "", "pod_ca": "", "former_pod_cas": ""}),
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
    assert both.answers.kept == []


async def test_the_socket_of_a_predecessor_is_replaced_and_is_for_us_and_our_group(tmp_path: Path) -> None:
    first, second = Both(tmp_path), Both(tmp_path)
    await first.door.start()
    await second.door.start()
    assert os.stat(second.path).st_mode & 0o777 == 0o660
    assert await second.remote.read_trust() is None
    await first.door.close()
    assert await second.remote.read_trust() is None
    await second.door.close()


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
