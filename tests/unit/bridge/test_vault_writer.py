"""The second token: accepted however late, renewed, replaced; what is remembered of writes is bounded."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from cloudtaser.bridge.vault_writer import VaultWriter
from cloudtaser.errors import CloudtaserError
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.layout import Space
from cloudtaser.openbao.login import TokenFile, TokenValue
from cloudtaser.secret import Secret
from cloudtaser.wire.migration import Migration
from tests.unit.bridge.scripted import Line, scripted
from tests.unit.bridge.test_migration import CONFLICT, FORBIDDEN, STORED, reply

SPACE = Space("aaaaaaaa", "cloudtaser/aaaaaaaa")


def secret(number: int, value: str = "v") -> Migration:
    return Migration(f"secret/data/shop/s{number}", {"x": value})


async def test_of_its_writes_it_remembers_the_last_few() -> None:
    stored: set[bytes] = set()

    async def keeps(line: Line) -> None:
        while True:
            request = await line.request()
            method, path, *_ = request.split()
            if method == b"GET":
                await line.say(reply(200, {"data": {"current_version": 1}}))
            elif path in stored:
                await line.say(CONFLICT)
            else:
                stored.add(path)
                await line.say(STORED)

    async with scripted(keeps) as server:
        client = OpenBao(server.address, token=Secret("s.second"))
        writer = VaultWriter(client, TokenValue(Secret("s.second")), remembered=2)
        try:
            for number in range(3):
                assert (await writer.begin(SPACE, secret(number))).created
            known = [bool((await writer.begin(SPACE, secret(number))).sha256) for number in range(3)]
        finally:
            await writer.close()
    assert known == [False, True, True]
    assert writer.outcomes == {"stored": 3, "exists": 3}


async def test_the_same_secret_of_another_space_is_not_confused_with_it() -> None:
    async def speaks(line: Line) -> None:
        for answer in (STORED, CONFLICT, reply(200, {"data": {"current_version": 1}})):
            await line.request()
            await line.say(answer)

    async with scripted(speaks) as server:
        writer = VaultWriter(OpenBao(server.address, token=Secret("s.x")), TokenValue(Secret("s.x")))
        try:
            assert (await writer.begin(SPACE, secret(1))).created
            other = await writer.begin(Space("bbbbbbbb", "cloudtaser/bbbbbbbb"), secret(1))
        finally:
            await writer.close()
    assert other.sha256 == ""


async def test_a_token_that_is_not_accepted_is_reported_and_a_better_one_in_its_file_is_taken(
    tmp_path: Path,
) -> None:
    file = tmp_path / "token"
    file.write_text("s.bad\n")
    troubles: list[str] = []
    accepted, troubled, stop = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def checks(line: Line) -> None:
        while True:
            request = await line.request()
            if b"s.good" not in request:
                await line.say(FORBIDDEN)
                continue
            await line.say(reply(200, {"data": {"ttl": 3600, "renewable": True, "expire_time": "x"}}))
            accepted.set()

    def trouble(error: CloudtaserError) -> None:
        troubles.append(error.diagnostic())
        troubled.set()

    async with scripted(checks) as server:
        writer = VaultWriter(OpenBao(server.address), TokenFile(file), on_trouble=trouble, retry=0.05)
        running = asyncio.create_task(writer.run(stop))
        async with asyncio.timeout(10):
            await troubled.wait()
            file.write_text("s.good\n")
            await accepted.wait()
        stop.set()
        await running
        await writer.close()
    assert "s.bad" not in json.dumps(troubles)
    assert "does not accept the token" in troubles[0]


async def test_closing_waits_for_what_is_under_way() -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow(line: Line) -> None:
        await line.request()
        asked.set()
        await go_on.wait()
        await line.say(STORED)

    async with scripted(slow) as server:
        writer = VaultWriter(OpenBao(server.address, token=Secret("s.x")), TokenValue(Secret("s.x")))
        task = writer.begin(SPACE, secret(1))
        await asked.wait()
        closing = asyncio.create_task(writer.close())
        await asyncio.sleep(0)
        assert not closing.done()
        go_on.set()
        await closing
    assert task.result().created
