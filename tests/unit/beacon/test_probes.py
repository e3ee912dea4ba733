"""The probes: three pages, one answer a connection."""

from __future__ import annotations

import asyncio

import pytest

from cloudtaser.beacon.probes import Probes


async def ask(probes: Probes, request: bytes) -> bytes:
    assert probes.address is not None
    reader, writer = await asyncio.open_connection(*probes.address)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize(
    ("request_", "status", "body"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"200 OK", b"ok\n"),
        (b"GET /healthz?verbose HTTP/1.0\r\n\r\n", b"200 OK", b"ok\n"),
        (b"HEAD /healthz HTTP/1.1\r\n\r\n", b"200 OK", b""),
        (b"GET /readyz HTTP/1.1\r\n\r\n", b"503 Unavailable", b"draining\n"),
        (b"GET /secret HTTP/1.1\r\n\r\n", b"404 Not Found", b"there is /healthz, /readyz\n"),
        (b"POST /healthz HTTP/1.1\r\n\r\n", b"405 Method Not Allowed", b"GET or HEAD\n"),
        (b"\r\n\r\n", b"405 Method Not Allowed", b"GET or HEAD\n"),
        (b"GET /" + b"x" * 10_000, b"400 Bad Request", b"the request is too long\n"),
    ],
)
async def test_pages(request_: bytes, status: bytes, body: bytes) -> None:
    probes = Probes(
        {
            "/healthz": lambda: (200, "text/plain", "ok\n"),
            "/readyz": lambda: (503, "text/plain", "draining\n"),
        }
    )
    await probes.start("127.0.0.1", 0)
    try:
        answer = await ask(probes, request_)
    finally:
        probes.close()
    head, _, got = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status + b"\r\n")
    assert b"Connection: close" in head
    assert got == body
