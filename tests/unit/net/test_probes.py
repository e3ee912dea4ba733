"""Probes say whether the program lives, is ready, and what it counts; on TCP and on a Unix socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter

from cloudtaser.errors import UnavailableError
from cloudtaser.net import probes as module
from cloudtaser.net.dial import Address
from cloudtaser.net.probes import Probes


@asynccontextmanager
async def listening(*answers: bool) -> AsyncIterator[tuple[Probes, int]]:
    """`answers` is what readiness is, asked again and again."""
    asked = iter(answers)
    registry = CollectorRegistry()
    Counter("cloudtaser_test_things", "things", registry=registry).inc(3)
    probes = Probes(ready=lambda: next(asked), registry=registry)
    _, port = await probes.listen("127.0.0.1", 0)
    try:
        yield probes, port
    finally:
        await probes.close()


async def get(port: int, message: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(message)
    answer = await reader.read()
    writer.close()
    return answer


def ask(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()


async def test_each_path_has_its_answer() -> None:
    async with listening(True, False) as (_, port):
        assert (await get(port, ask("/healthz"))).startswith(b"HTTP/1.1 200 OK\r\n")
        assert (await get(port, ask("/readyz?verbose"))).endswith(b"\r\n\r\nready\n")
        assert (await get(port, ask("/readyz"))).startswith(b"HTTP/1.1 503 ")
        assert b"cloudtaser_test_things_total 3.0" in await get(port, ask("/metrics"))
        assert (await get(port, ask("/"))).startswith(b"HTTP/1.1 404 ")
        assert (await get(port, ask("/healthz", "POST"))).startswith(b"HTTP/1.1 405 ")
        assert (await get(port, ask("/healthz", "HEAD"))).endswith(b"\r\n\r\n")
        assert (await get(port, b"nonsense\r\n\r\n")).startswith(b"HTTP/1.1 400 ")


async def test_a_connection_that_asks_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.02)
    async with listening() as (_, port):
        assert await get(port, b"GET ") == b""


async def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 1)
    async with listening() as (probes, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await get(port, b"") == b""
        assert len(probes.connections) == 1
        writer.close()


async def test_a_port_that_is_taken_is_an_error_of_one_line() -> None:
    async with listening() as (_, port):
        other = Probes(ready=lambda: True)
        with pytest.raises(UnavailableError, match=rf"cannot listen: .*127\.0\.0\.1:{port}"):
            await other.listen(Address("127.0.0.1", port))


async def test_a_unix_socket_answers_alike(tmp_path: Path) -> None:
    probes = Probes(ready=lambda: True)
    await probes.listen_unix(str(tmp_path / "probes"))
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "probes"))
    writer.write(ask("/healthz"))
    assert (await reader.read()).endswith(b"ok\n")
    writer.close()
    await probes.close()


async def test_readyz_tells_more_when_asked_and_only_then() -> None:
    probes = Probes(ready=lambda: False, registry=CollectorRegistry(), details=lambda: ["- a thing", "+ b"])
    assert probes.answer(b"/readyz") == (503, b"text/plain; charset=utf-8", b"not ready\n")
    status, _, body = probes.answer(b"/readyz", b"verbose")
    assert (status, body) == (503, b"- a thing\n+ b\nnot ready\n")
