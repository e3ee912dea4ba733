"""Migrations at a bridge whose OpenBao is scripted: bounds, failures, clients that leave, the audit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from cloudtaser.bridge import migration as module
from cloudtaser.bridge.migration import Admin
from cloudtaser.bridge.session import Times
from cloudtaser.bridge.vault_writer import VaultWriter
from cloudtaser.demo.tokens import PodReference
from cloudtaser.net.rates import Buckets, Rate
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.login import TokenValue
from cloudtaser.secret import Secret
from cloudtaser.wire.migration import Migration
from tests.integration.bridge_world import Answer, Bridge, Pod, Space, bridge_for
from tests.unit.bridge.scripted import Line, Script, Scripted, scripted

SPACE = Space("aaaaaaaa-0000-4000-8000-00000000000a")
CANARY = "canary-11c2a9"
MIGRATION = Migration("secret/data/shop/db", {"password": CANARY})


def reply(status: int, body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    return b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        status,
        len(data),
        data,
    )


STORED = reply(200, {"data": {"version": 1}})
FORBIDDEN = reply(403, {"errors": ["permission denied"]})
CONFLICT = reply(400, {"errors": ["check-and-set parameter did not match the current version"]})


@asynccontextmanager
async def admin_stream(
    script: Script, *, writer: bool = True, times: Times | None = None, **settings: Any
) -> AsyncIterator[tuple[Pod, Bridge, Scripted]]:
    """An administrator's stream, its bridge, and the scripted OpenBao behind it."""
    async with scripted(script) as server:
        store = VaultWriter(OpenBao(server.address, token=Secret("s.second")), TokenValue(Secret("s.second")))
        admin = Admin(writer=store if writer else None, **settings)
        try:
            async with (
                bridge_for(SPACE, server.address, admin=admin, times=times) as bridge,
                bridge.pod() as client,
            ):
                bridge.cluster.namespace_id = "idAAAA"
                yield client, bridge, server
        finally:
            await store.close()


async def migrate(client: Pod, migration: Migration = MIGRATION, jwt: str = "") -> Answer:
    headers = [("Authorization", f"Bearer {jwt or SPACE.admin_jwt()}")]
    return await client.ask("POST", "/migrate", headers=headers, body=migration.encode())


async def audited(bridge: Bridge, count: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(10):
        while len(bridge.lines) < count:
            await bridge.audited.wait()
            bridge.audited.clear()
    return bridge.lines


async def stores(line: Line) -> None:
    while True:
        await line.request()
        await line.say(STORED)


async def test_openbao_gets_a_first_write_under_the_second_token_and_nothing_else() -> None:
    seen = b""

    async def remembers(line: Line) -> None:
        nonlocal seen
        seen = await line.request()
        await line.say(STORED)

    async with admin_stream(remembers) as (client, bridge, _):
        answer = await migrate(client)
    assert answer.json == {"version": 1, "sha256": MIGRATION.sha256}
    head, _, body = seen.partition(b"\r\n\r\n")
    assert head.split(b"\r\n")[0] == b"POST /v1/secret/data/shop/db HTTP/1.1"
    assert b"x-vault-token: s.second" in head.lower()
    assert b"x-vault-namespace: cloudtaser/aaaaaaaa" in head.lower()
    assert json.loads(body) == {"data": {"password": CANARY}, "options": {"cas": 0}}
    assert bridge.lines[0]["version"] == 1


async def test_without_a_second_token_nothing_is_stored_and_it_says_what_to_do() -> None:
    async with admin_stream(stores, writer=False) as (client, bridge, server):
        answer = await migrate(client)
        assert not server.lines
    assert answer.status == 501
    assert "--admin-token-file" in answer.errors
    assert bridge.lines[0]["reason"] == "no_admin_token"


async def test_nothing_is_stored_while_the_audit_is_not_read() -> None:
    async with admin_stream(stores, audit_keeps_up=lambda: False) as (client, bridge, server):
        answer = await migrate(client)
        assert not server.lines
    assert answer.status == 503
    assert bridge.lines[0]["reason"] == "audit"


async def test_of_one_clusters_administrators_so_many_a_second() -> None:
    async with admin_stream(stores, rate=Buckets(Rate(0.001, 3))) as (client, bridge, _):
        assert [(await migrate(client)).status for _ in range(3)] == [200, 200, 200]
        refused = await migrate(client)
        assert refused.status == 429
        assert int(refused.headers["retry-after"]) > 100
        other = await migrate(client, jwt=SPACE.admin_jwt(service_account="x"))
        assert other.status == 403, "who is nobody costs the administrators nothing and gets no further"
    assert bridge.lines[3]["reason"] == "rate_limit"


async def test_places_are_few_and_given_back_however_a_migration_ends() -> None:
    go_on = asyncio.Event()

    async def waits(line: Line) -> None:
        await line.request()
        await go_on.wait()
        await line.say(STORED)

    async with (
        admin_stream(waits) as (_, bridge, _),
        _several(bridge, module.PLACES_PER_CLUSTER + 1) as clients,
    ):
        asked = [asyncio.create_task(migrate(client)) for client in clients[:-1]]
        admin = bridge.services.admin
        async with asyncio.timeout(10):
            while admin.taken.total() < module.PLACES_PER_CLUSTER:  # noqa: ASYNC110  # a counter has no event
                await asyncio.sleep(0.01)
        refused = await migrate(clients[-1])
        assert (refused.status, bridge.lines[-1]["reason"]) == (429, "busy")
        go_on.set()
        assert [answer.status for answer in await asyncio.gather(*asked)] == [200] * len(asked)
        assert not admin.taken
        await clients[0].ask(
            "POST", "/migrate", headers=[("Authorization", f"Bearer {SPACE.admin_jwt()}")], body=b"{"
        )
        assert not admin.taken


@asynccontextmanager
async def _several(bridge: Bridge, count: int) -> AsyncIterator[list[Pod]]:
    clients: list[Pod] = []
    for _ in range(count):
        reader, writer = await asyncio.open_connection("127.0.0.1", bridge.port)
        clients.append(Pod(reader, writer))
    try:
        yield clients
    finally:
        for client in clients:
            client.close()


async def test_a_client_that_leaves_in_the_middle_of_its_body_gives_its_place_back() -> None:
    async with admin_stream(stores) as (client, bridge, server):
        head = f"POST /migrate HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SPACE.admin_jwt()}\r\n"
        client.writer.write(f"{head}Content-Length: 1000\r\n\r\n".encode() + b"{")
        admin = bridge.services.admin
        async with asyncio.timeout(10):
            while not admin.taken:  # noqa: ASYNC110  # a counter has no event
                await asyncio.sleep(0.01)
        client.reset()
        (line,) = await audited(bridge, 1)
        assert not admin.taken
        assert not server.lines
    assert (line["status"], line["reason"], line["verdict"]) == (499, "gone", "refused")


async def test_a_write_whose_client_left_is_finished_remembered_and_audited() -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow(line: Line) -> None:
        await line.request()
        asked.set()
        await go_on.wait()
        await line.say(STORED)
        while True:
            request = await line.request()
            known = reply(200, {"data": {"current_version": 1}})
            await line.say(known if request.startswith(b"GET") else CONFLICT)

    async with admin_stream(slow) as (client, bridge, _):
        waiting = asyncio.create_task(migrate(client))
        await asked.wait()
        client.reset()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await waiting
        await audited(bridge, 1)
        go_on.set()
        left, ended = await audited(bridge, 2)
        assert (left["status"], left["reason"], left.get("version")) == (499, "gone", None)
        assert (ended["status"], ended["verdict"], ended["version"]) == (200, "allowed", 1)
        assert left["id"] == ended["id"]
        assert {left["path"], ended["path"]} == {"/v1/secret/data/shop/db"}
        assert not bridge.services.admin.taken
        async with bridge.pod() as again:
            answer = await migrate(again)
            assert answer.status == 409
            assert answer.json["sha256"] == MIGRATION.sha256
            guess = await migrate(again, Migration(MIGRATION.path, {"password": "a guess"}))
            assert "sha256" not in guess.json


async def test_an_answer_that_is_late_is_said_and_what_becomes_of_the_write_is_audited() -> None:
    go_on = asyncio.Event()

    async def slow(line: Line) -> None:
        await line.request()
        await go_on.wait()
        await line.say(STORED)

    async with admin_stream(slow, times=Times(idle=0.5, head=0.1, request=0.1)) as (client, bridge, _):
        assert (await migrate(client)).status == 504
        go_on.set()
        late, ended = await audited(bridge, 2)
    assert (late["status"], late["reason"]) == (504, "timeout")
    assert (ended["status"], ended["version"]) == (200, 1)


@pytest.mark.parametrize(
    ("answers", "status", "words"),
    [
        ([FORBIDDEN, FORBIDDEN], 503, "does not let this bridge store"),
        ([FORBIDDEN, reply(404, {"errors": []})], 503, "does not let this bridge store"),
        ([CONFLICT, reply(404, {"errors": []})], 503, "removed meanwhile"),
        ([reply(503, {"errors": ["Vault is sealed"]})], 503, "sealed"),
        ([reply(413, {"errors": ["http: request body too large"]})], 502, "too large"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"], 502, "not OpenBao"),
    ],
)
async def test_whatever_openbao_says_is_one_line_and_never_a_success(
    answers: list[bytes], status: int, words: str
) -> None:
    async def speaks(line: Line) -> None:
        for answer in answers:
            await line.request()
            await line.say(answer)

    async with admin_stream(speaks) as (client, bridge, _):
        answer = await migrate(client)
        assert not bridge.services.admin.taken
        writer = bridge.services.admin.writer
        assert writer is not None
        assert writer.outcomes == {"failed": 1}
    assert answer.status == status
    assert words in answer.errors
    assert len(answer.json["errors"]) == 1
    assert CANARY not in answer.errors


async def test_a_version_that_is_not_ours_any_more_is_not_confirmed() -> None:
    async def speaks(line: Line) -> None:
        for answer in (STORED, CONFLICT, reply(200, {"data": {"current_version": 2}})):
            await line.request()
            await line.say(answer)

    async with admin_stream(speaks) as (client, _, _):
        assert (await migrate(client)).status == 200
        again = await migrate(client)
    assert again.json["version"] == 2
    assert "sha256" not in again.json


async def test_a_suspended_cluster_migrates_nothing() -> None:
    async with admin_stream(stores) as (client, bridge, server):
        bridge.cluster.registered = replace(bridge.cluster.registered, suspended=True)
        assert (await migrate(client)).status == 403
        assert not server.lines


async def test_an_unknown_key_is_looked_for_once() -> None:
    async with admin_stream(stores) as (client, bridge, _):
        stranger = Space(SPACE.fingerprint)
        answer = await migrate(client, jwt=stranger.admin_jwt())
        assert answer.status == 403
        assert bridge.refetched == 1
        assert bridge.lines[-1]["reason"] == "unknown_key"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"service_account": "cloudtaser-operator"}, "wrong_subject"),
        ({"namespace": "shop"}, "wrong_subject"),
        ({"pod": PodReference("x", "0f0f0f0f-0000-4000-8000-000000000001")}, "wrong_subject"),
        ({"audiences": ["cloudtaser:aaaaaaaa"]}, "wrong_audience"),
        ({"audiences": ["cloudtaser-admin:aaaaaaaa", "cloudtaser:aaaaaaaa"]}, "wrong_audience"),
        ({"audiences": ["cloudtaser-admin:bbbbbbbb"]}, "wrong_audience"),
        ({"seconds": 901}, "long_lived"),
        ({"seconds": -60}, "expired"),
        ({"iat": 1}, "long_lived"),
        ({"iss": "https://elsewhere"}, "wrong_issuer"),
    ],
)
async def test_only_the_right_token_is_let_in(changes: dict[str, Any], reason: str) -> None:
    async with admin_stream(stores) as (client, bridge, server):
        answer = await migrate(client, jwt=SPACE.admin_jwt(**changes))
        assert not server.lines
    assert answer.status == 403
    assert bridge.lines[0]["reason"] == reason


@pytest.mark.parametrize(
    "path",
    ["secret/data/shop", "secret/metadata/shop/x", "transit/keys/x", "sys/raw/x/y", "secretx/data/shop/x"],
)
async def test_only_secrets_of_a_namespace_can_be_named(path: str) -> None:
    async with admin_stream(stores) as (client, bridge, server):
        assert (await migrate(client, Migration(path, {"x": CANARY}))).status == 400
        assert not server.lines
        assert not bridge.services.admin.taken
    assert bridge.lines[0]["reason"] == "migration_path"


async def test_where_the_space_is_mounts_in_the_root_the_secret_lies_under_its_prefix() -> None:
    seen = b""

    async def remembers(line: Line) -> None:
        nonlocal seen
        seen = await line.request()
        await line.say(STORED)

    async with admin_stream(remembers) as (client, bridge, _):
        bridge.cluster.registered = replace(bridge.cluster.registered, namespace="")
        assert (await migrate(client)).status == 200
        shown = await client.ask("GET", "/v1/sys/policies/acl", token="s.abcdefghijklmnopqrstuvwx")
        assert shown.status == 403, "what sys/ shows there is of all clusters"
    assert seen.startswith(b"POST /v1/cloudtaser-aaaaaaaa/secret/data/shop/db HTTP/1.1")
    assert b"x-vault-namespace" not in seen.lower()
