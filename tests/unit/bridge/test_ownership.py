"""Whose a token, an accessor or a wrapped answer is: what OpenBao says of it, and nothing else (scripted)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cloudtaser.openbao.records import Grants, Registered
from cloudtaser.wire.names import OPERATOR_SUBJECT
from tests.integration.bridge_world import Bridge, Pod, bridge_for
from tests.integration.mounts_world import RootSpace
from tests.unit.bridge.scripted import Line, scripted

TOKEN = "s.0123456789abcdefghijklmn"
OTHER = "s.9876543210abcdefghijklmn"
OWN = {"path": "auth/cloudtaser-aaaaaaaa-jwt/login", "meta": None}
FOREIGN = {"path": "auth/cloudtaser-bbbbbbbb-jwt/login", "meta": {"cloudtaser-space": "aaaaaaaa"}}


class Server:
    """An OpenBao that answers lookups as it is told, and everything else with nothing."""

    def __init__(self, **lookups: Any) -> None:
        self.lookups = {name.replace("_", "-"): said for name, said in lookups.items()}
        self.seen: list[tuple[str, bytes]] = []

    async def __call__(self, line: Line) -> None:
        while True:
            request = await line.request()
            path = request.split()[1].decode().removeprefix("/v1/")
            self.seen.append((path, request))
            said = self.lookups.get(path.rpartition("/")[2], {}) if "lookup" in path else {}
            status, body = said if isinstance(said, tuple) else (200, json.dumps({"data": said}).encode())
            await line.say(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.seen]


@asynccontextmanager
async def stream(server: Server, *, operator: bool = False) -> AsyncIterator[tuple[Pod, Bridge]]:
    space = RootSpace("aaaaaaaa-0000-4000-8000-00000000000a", grants=Grants())
    space.registered = Registered(
        space.fingerprint, "2026-01-01T00:00:00Z", "test", "2099-01-01T00:00:00Z", "", "", "", "",
        space.fp8, "", OPERATOR_SUBJECT, mounts=space.corner.mounts,
    )  # fmt: skip
    async with (
        scripted(server) as running,
        bridge_for(space, running.address, operator=operator) as bridge,
        bridge.pod() as pod,
    ):
        yield pod, bridge


async def test_a_token_is_looked_up_once_and_under_itself() -> None:
    server = Server(lookup_self=OWN)
    async with stream(server) as (pod, bridge):
        for _ in range(3):
            assert (await pod.ask("GET", "/v1/secret/data/x", token=TOKEN)).status == 200
        assert len(bridge.services.holders) == 1
    assert server.paths == ["auth/token/lookup-self", *["cloudtaser-aaaaaaaa/secret/data/x"] * 3]
    assert b"x-vault-token: " + TOKEN.encode() in server.seen[0][1]
    assert not any(b"x-vault-namespace" in request for _, request in server.seen)


async def test_what_is_not_the_clusters_reaches_openbao_with_nothing_but_the_question() -> None:
    server = Server(lookup_self=FOREIGN)
    async with stream(server) as (pod, bridge):
        for method, path in (("GET", "secret/data/x"), ("POST", "auth/token/revoke-self")):
            body: dict[str, Any] | None = {} if method == "POST" else None
            assert (await pod.ask(method, f"/v1/{path}", token=TOKEN, body=body)).status == 403
        assert len(bridge.services.holders) == 0
    assert set(server.paths) == {"auth/token/lookup-self"}


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ((403, b'{"errors":["permission denied"]}'), 403),
        ((404, b"{}"), 403),
        ((503, b'{"errors":["Vault is sealed"]}'), 503),
        ((500, b"{}"), 503),
        ((429, b"{}"), 503),
        ((200, b"<html>"), 502),
        ((200, b'{"data":null}'), 502),
        ((200, b'{"data":{}}'), 403),
        ((200, b'{"data":{"path":["auth/cloudtaser-aaaaaaaa-jwt/login"],"meta":7}}'), 403),
    ],
)
async def test_only_a_clear_word_lets_a_token_through(said: tuple[int, bytes], status: int) -> None:
    server = Server(lookup_self=said)
    async with stream(server) as (pod, bridge):
        answer = await pod.ask("GET", "/v1/secret/data/x", token=TOKEN)
        assert answer.status == status
        assert answer.errors
        assert len(bridge.services.holders) == 0
    assert server.paths == ["auth/token/lookup-self"]


async def test_a_wrapping_token_is_looked_at_by_name_and_never_used() -> None:
    server = Server(lookup={"creation_path": "cloudtaser-aaaaaaaa/secret/data/x"}, lookup_self=OWN)
    async with stream(server) as (pod, _):
        unwrap = "/v1/sys/wrapping/unwrap"
        assert (await pod.ask("POST", unwrap, token=TOKEN, body={})).status == 200
        assert server.paths == ["sys/wrapping/lookup", "sys/wrapping/unwrap"]
        assert b"x-vault-token" not in server.seen[0][1], "or it would be used up"
        assert (await pod.ask("POST", unwrap, token=OTHER, body={"token": TOKEN})).status == 200
    assert server.paths[2:] == ["sys/wrapping/lookup", "auth/token/lookup-self", "sys/wrapping/unwrap"]


async def test_a_wrapped_answer_of_another_cluster_stays_closed() -> None:
    server = Server(lookup={"creation_path": "cloudtaser-bbbbbbbb/secret/data/x"}, lookup_self=OWN)
    async with stream(server) as (pod, _):
        for path in ("unwrap", "lookup"):
            body = {"token": OTHER}
            assert (await pod.ask("POST", f"/v1/sys/wrapping/{path}", token=TOKEN, body=body)).status == 403
    assert set(server.paths) == {"sys/wrapping/lookup"}


@pytest.mark.parametrize(("origin", "status"), [(OWN, 200), (FOREIGN, 403), ((403, b"{}"), 403)])
async def test_an_accessor_is_looked_up_before_it_is_revoked(origin: Any, status: int) -> None:
    server = Server(lookup_self=OWN, lookup_accessor=origin)
    async with stream(server, operator=True) as (pod, _):
        body = {"accessor": "MFdxt48DWtwEuJ9A4RpG2Z7W"}
        answer = await pod.ask("POST", "/v1/auth/token/revoke-accessor", token=TOKEN, body=body)
        assert answer.status == status
    assert server.paths[:2] == ["auth/token/lookup-self", "auth/token/lookup-accessor"]
    assert ("auth/token/revoke-accessor" in server.paths) == (status == 200)


async def test_a_body_names_no_other_token_than_the_callers() -> None:
    server = Server(lookup_self=OWN)
    async with stream(server) as (pod, _):
        path = "/v1/auth/token/renew-self"
        assert (await pod.ask("POST", path, token=TOKEN, body={"token": TOKEN})).status == 200
        assert (await pod.ask("POST", path, token=TOKEN, body={"token": OTHER})).status == 403
    assert server.paths.count("auth/token/renew-self") == 1
