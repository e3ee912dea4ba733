"""The door: one request a connection, in its time, from whoever comes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from cloudtaser.demo.certificates import CertificateFiles, write_server_certificate
from cloudtaser.operator.settings import Listen
from cloudtaser.operator.tokens.announcement import MAX_BODY
from cloudtaser.operator.tokens.door import Door, DoorLimits, Verdict
from cloudtaser.operator.tokens.metrics import TokenMetrics
from tests.chain_tools import eventually

GOOD = b"POST /v1/announce HTTP/1.1\r\nHost: operator.cloudtaser.internal\r\nContent-Length: 2\r\n\r\n{}"


ACCEPTED = Verdict(202, "accepted")


@dataclass
class Scene:
    door: Door
    registry: CollectorRegistry
    client: ssl.SSLContext
    heard: list[tuple[bytes, str]] = field(default_factory=list)
    verdict: Verdict = ACCEPTED
    busy: asyncio.Event = field(default_factory=asyncio.Event)
    has_certificate: bool = True

    def counted(self, outcome: str) -> float:
        name = "cloudtaser_operator_announcements_total"
        return self.registry.get_sample_value(name, {"outcome": outcome}) or 0.0

    async def ask(self, data: bytes, *, half_close: bool = False) -> bytes:
        """What comes back for these bytes, until the other side closes."""
        reader, writer = await asyncio.open_connection(
            *self.door.address, ssl=self.client, server_hostname="operator.cloudtaser.internal"
        )
        try:
            writer.write(data)
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()


@pytest.fixture
def files(tmp_path: Path) -> CertificateFiles:
    return write_server_certificate(tmp_path, "operator", ["operator.cloudtaser.internal"])


@pytest.fixture
def limits() -> DoorLimits:
    return DoorLimits()


@pytest.fixture
async def scene(files: CertificateFiles, limits: DoorLimits) -> AsyncIterator[Scene]:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.certificate, files.key)
    registry = CollectorRegistry()

    async def hear(body: bytes, source: str) -> Verdict:
        made.heard.append((body, source))
        if body == b"slow":
            await made.busy.wait()
        return made.verdict

    door = Door(
        Listen("127.0.0.1", 0),
        limits,
        lambda: server if made.has_certificate else None,
        hear,
        TokenMetrics(registry),
    )
    made = Scene(door, registry, ssl.create_default_context(cafile=str(files.ca)))
    await door.start()
    yield made
    await door.close()


async def test_an_announcement_is_heard_with_its_source_and_answered(scene: Scene) -> None:
    answer = await scene.ask(GOOD)
    assert answer.startswith(b"HTTP/1.1 202 ")
    assert b"connection: close" in answer
    assert scene.heard == [(b"{}", "127.0.0.1")]
    assert scene.counted("accepted") == 1


async def test_who_has_to_come_again_is_told_when(scene: Scene) -> None:
    scene.verdict = Verdict(503, "busy", 7.2)
    answer = await scene.ask(GOOD)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 8\r\n" in answer


HEAD = b"POST /v1/announce HTTP/1.1\r\nHost: o\r\n"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /v1/announce HTTP/1.1\r\nHost: o\r\n\r\n", 405),
        (b"POST /v1/other HTTP/1.1\r\nHost: o\r\nContent-Length: 2\r\n\r\n{}", 404),
        (HEAD + b"\r\n", 411),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 411),
        (HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
        (HEAD + b"Content-Length: %d\r\n\r\n" % (MAX_BODY + 1), 413),
        (HEAD + b"X: " + b"y" * 5000 + b"\r\n\r\n", 431),
        (b"\x16\x03\x01 nonsense\r\n\r\n", 400),
    ],
    ids=range(8),
)
async def test_what_is_no_announcement_is_refused_unheard(scene: Scene, data: bytes, status: int) -> None:
    assert (await scene.ask(data)).startswith(b"HTTP/1.1 %d " % status)
    assert scene.heard == []


async def test_a_second_request_on_a_connection_is_not_heard(scene: Scene) -> None:
    answer = await scene.ask(GOOD + GOOD)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert len(scene.heard) == 1


async def test_without_a_certificate_everybody_is_turned_away_at_once(scene: Scene) -> None:
    scene.has_certificate = False
    with pytest.raises((ConnectionError, ssl.SSLError)):
        await scene.ask(GOOD)
    assert scene.counted("no_certificate") == 1


@pytest.mark.parametrize("limits", [DoorLimits(request_seconds=0.3)])
async def test_who_is_slow_is_cut_off_and_keeps_nobody_out(scene: Scene) -> None:
    host, port = scene.door.address
    silent = [socket.create_connection((host, port)) for _ in range(5)]
    half = await asyncio.open_connection(
        host, port, ssl=scene.client, server_hostname="operator.cloudtaser.internal"
    )
    half[1].write(HEAD + b"Content-Length: 10\r\n\r\n{")
    assert (await scene.ask(GOOD)).startswith(b"HTTP/1.1 202 ")

    async def empty() -> bool:
        return scene.door.connections == 0

    await eventually(empty, "all are cut off")
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        assert await half[0].read() == b""
    half[1].close()
    for one in silent:
        one.close()


@pytest.mark.parametrize("limits", [DoorLimits(connections=6, connections_per_source=4)])
async def test_one_address_has_its_share_of_connections_and_no_more(scene: Scene) -> None:
    host, port = scene.door.address
    taken = [await asyncio.open_connection(host, port) for _ in range(4)]

    async def full() -> bool:
        return scene.door.connections == 4

    await eventually(full, "four are in")
    with pytest.raises((ConnectionError, ssl.SSLError)):
        await scene.ask(GOOD)
    assert scene.counted("too_many_connections_of_one_source") == 1
    for _, writer in taken:
        writer.close()

    async def empty() -> bool:
        return scene.door.connections == 0

    await eventually(empty, "all are out")
    assert (await scene.ask(GOOD)).startswith(b"HTTP/1.1 202 ")


@pytest.mark.parametrize("limits", [DoorLimits(answer_seconds=0.3)])
async def test_an_answer_that_takes_too_long_is_come_back_later(scene: Scene) -> None:
    slow = GOOD.replace(b"Content-Length: 2\r\n\r\n{}", b"Content-Length: 4\r\n\r\nslow")
    answer = await scene.ask(slow)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 5" in answer
