"""The audit's way out: in order and whole while it is read; else bounded, counted and in nobody's way."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from cloudtaser.bridge.audit import Audit
from cloudtaser.bridge.audit_lines import AuditLines


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for descriptor in (reader, writer):
        try:
            os.close(descriptor)
        except OSError:
            pass


def write(audit: Audit, path: str = "/v1/secret/data/shop/db") -> None:
    audit.write(
        now=1_800_000_000.0,
        cluster="f",
        id="c0ffee.1",
        peer="10.0.0.7:51324",
        namespace="shop",
        serviceaccount="web",
        pod="web-1",
        method="GET",
        path=path,
        verdict="allowed",
        status=200,
        milliseconds=1.0,
    )


async def read_all(descriptor: int) -> bytes:
    def read() -> bytes:
        parts = []
        while part := os.read(descriptor, 65536):
            parts.append(part)
        return b"".join(parts)

    return await asyncio.to_thread(read)


async def read_again(lines: AuditLines) -> None:
    async with asyncio.timeout(20):
        while not lines.keeps_up:  # noqa: ASYNC110  # the thread has no event for it
            await asyncio.sleep(0.01)


async def closed(lines: AuditLines, writer: int) -> None:
    await asyncio.to_thread(lines.close)
    os.close(writer)


async def test_lines_arrive_whole_and_in_their_order(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    lines = AuditLines(writer)
    audit = Audit(lines)
    reading = asyncio.create_task(read_all(reader))
    for number in range(5000):
        write(audit)
        if number % 50 == 0:
            await asyncio.sleep(0)
    await closed(lines, writer)
    assert [json.loads(line)["seq"] for line in (await reading).splitlines()] == list(range(1, 5001))
    assert lines.dropped == 0
    assert lines.keeps_up


async def test_a_reader_that_stalls_delays_nobody_and_the_gap_is_counted(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    lines = AuditLines(writer, limit=256 * 1024)
    audit = Audit(lines)
    loop = asyncio.get_running_loop()
    longest = 0.0
    for _ in range(200):
        began = loop.time()
        for _ in range(20):
            write(audit, "/v1/" + "x" * 400)
        await asyncio.sleep(0)
        longest = max(longest, loop.time() - began)
    assert longest < 1.0  # a blocked write would last until somebody read: for ever
    assert lines.dropped > 1000
    assert not lines.keeps_up
    reading = asyncio.create_task(read_all(reader))
    await read_again(lines)
    write(audit)
    await closed(lines, writer)
    found = [json.loads(line)["seq"] for line in (await reading).splitlines()]
    assert found == sorted(set(found))
    assert found[-1] == audit.written == 4001
    assert audit.written - len(found) == lines.dropped


async def test_what_waits_is_bounded(pipe: tuple[int, int]) -> None:
    _, writer = pipe
    lines = AuditLines(writer, limit=10_000)
    for _ in range(2000):
        lines(b"x" * 99)
        assert lines._size <= 10_000
    assert lines.dropped == 1900
    await asyncio.to_thread(lines.close, 0.05)


async def test_a_reader_that_is_gone_is_an_error_said_once(
    pipe: tuple[int, int], capfd: pytest.CaptureFixture[str]
) -> None:
    reader, writer = pipe
    os.close(reader)
    lines = AuditLines(writer)
    for _ in range(3):
        lines(b"x")
        await asyncio.sleep(0)
    await closed(lines, writer)
    assert lines.dropped == 3
    assert not lines.keeps_up


async def test_after_a_failure_that_passes_lines_are_written_again(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.close(reader)
    lines = AuditLines(writer)
    lines(b"lost")
    async with asyncio.timeout(10):
        while lines.keeps_up:  # noqa: ASYNC110  # the thread has no event for it
            await asyncio.sleep(0.01)
    again, other = os.pipe()
    os.dup2(other, writer)
    os.close(other)
    lines(b"kept")
    await read_again(lines)
    await closed(lines, writer)
    assert await read_all(again) == b"kept\n"
    os.close(again)
    assert lines.dropped == 1


async def test_a_pipe_that_somebody_made_nonblocking_loses_nothing(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.set_blocking(writer, False)
    lines = AuditLines(writer)
    for _ in range(300):
        lines(b"y" * 999)
    await asyncio.sleep(0)
    reading = asyncio.create_task(read_all(reader))
    await closed(lines, writer)
    assert len(await reading) == 300_000


def test_a_process_whose_audit_nobody_reads_ends_in_order() -> None:
    program = """
import asyncio
from cloudtaser.bridge.audit_lines import AuditLines
from cloudtaser.net.log import configure
configure("info", "bridge")
async def main():
    lines = AuditLines(limit=1_000_000)
    for _ in range(3000):
        lines(b"z" * 999)
        await asyncio.sleep(0)
    await asyncio.to_thread(lines.close, 0.1)
    assert lines.dropped > 1000, lines.dropped
asyncio.run(main())
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        errors = process.stderr.read().decode()
        assert process.wait(30) == 0, errors
    assert "Fatal" not in errors
    assert "Traceback" not in errors
