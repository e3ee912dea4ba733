"""Cluster A tries to reach cluster B through the bridge, before a real OpenBao. Nothing of B comes back.

The first half shows that OpenBao alone would have let it happen: each quirk is why the gate has its rule.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from cloudtaser.openbao.client import OpenBao
from cloudtaser.secret import Secret
from tests.integration.bridge_world import Bridge, Pod, World, bridge_for, build_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = build_world(tmp_path_factory.mktemp("openbao"))
    yield made
    made.server.stop()


@pytest.fixture
async def bridge(world: World) -> AsyncIterator[Bridge]:
    async with bridge_for(world.a, world.server.address) as made:
        yield made


async def straight(world: World, request: bytes) -> bytes:
    """What OpenBao itself answers to these bytes."""
    port = urlsplit(world.server.address).port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    await writer.wait_closed()
    return answer


def get(path: str, token: str, *namespaces: str, end: str = "\r\n") -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: x", "Connection: close", f"X-Vault-Token: {token}"]
    return (end.join([*lines, *[f"X-Vault-Namespace: {n}" for n in namespaces]]) + end + end).encode()


# What OpenBao does by itself


async def test_openbao_resolves_dots_in_the_namespace_header(world: World) -> None:
    answer = await straight(world, get("/v1/secret/data/x", world.b.token, "cloudtaser/aaaaaaaa/../bbbbbbbb"))
    assert world.b.canary.encode() in answer


async def test_openbao_takes_the_first_of_two_namespace_headers(world: World) -> None:
    answer = await straight(
        world, get("/v1/secret/data/x", world.b.token, world.b.namespace, world.a.namespace)
    )
    assert world.b.canary.encode() in answer


async def test_openbao_decodes_slashes_before_it_routes(world: World) -> None:
    answer = await straight(world, get("/v1/secret%2Fdata%2Fx", world.a.token, world.a.namespace))
    assert world.a.canary.encode() in answer


async def test_openbao_accepts_bare_line_feeds(world: World) -> None:
    answer = await straight(world, get("/v1/secret/data/x", world.a.token, world.a.namespace, end="\n"))
    assert world.a.canary.encode() in answer


async def test_openbao_lets_a_parents_token_into_its_children(world: World) -> None:
    answer = await straight(world, get("/v1/secret/data/x", world.parent_token, world.a.namespace))
    assert world.a.canary.encode() in answer


async def test_openbao_unwraps_a_token_of_one_namespace_in_another(world: World) -> None:
    token = await wrapped_by_b(world)
    async with OpenBao(world.server.address, token=Secret(world.a.token)) as client:
        answer = await client.request(
            "POST", "sys/wrapping/unwrap", namespace=world.a.namespace, body={"token": token}
        )
    assert world.b.canary in json.dumps(answer)


async def test_openbao_takes_a_childs_token_in_no_parent_so_shared_cannot_be_mapped(world: World) -> None:
    async with world.admin("cloudtaser") as admin:
        await admin.request("POST", "sys/mounts/shared", body={"type": "kv"})
        await admin.request("POST", "shared/x", body={"v": "SHARED"})
    answer = await straight(world, get("/v1/shared/x", world.a.token, "cloudtaser"))
    assert b" 403 " in answer
    assert b"SHARED" not in answer


async def wrapped_by_b(world: World) -> str:
    """A response-wrapping token that holds B's secret."""
    async with bridge_for(world.b, world.server.address) as bridge, bridge.pod() as pod:
        token = await pod.login(world.b)
        wrap = [("X-Vault-Wrap-TTL", "300")]
        answer = await pod.ask("GET", "/v1/secret/data/x", token=token, headers=wrap)
        return str(answer.json["wrap_info"]["token"])


# What comes through the bridge


NAMESPACE_HEADERS = [
    [("X-Vault-Namespace", "cloudtaser/bbbbbbbb")],
    [("X-Vault-Namespace", "cloudtaser/aaaaaaaa/../bbbbbbbb")],
    [("X-Vault-Namespace", "../bbbbbbbb")],
    [("X-Vault-Namespace", "cloudtaser/bbbbbbbb"), ("X-Vault-Namespace", "cloudtaser/aaaaaaaa")],
    [("X-Vault-Namespace", "cloudtaser/aaaaaaaa"), ("X-Vault-Namespace", "cloudtaser/bbbbbbbb")],
    [("x-vault-namespace", "cloudtaser/bbbbbbbb"), ("X-VAULT-NAMESPACE", "cloudtaser/bbbbbbbb")],
    [("X-Vault-Namespace", "")],
    [("X-Vault-Namespace", "root")],
    [("X_Vault_Namespace", "cloudtaser/bbbbbbbb")],
    [("Connection", "X-Vault-Namespace"), ("X-Vault-Namespace", "cloudtaser/bbbbbbbb")],
]
PATHS = [
    "/v1/secret/data/x",
    "/v1/../bbbbbbbb/secret/data/x",
    "/v1/%2e%2e/bbbbbbbb/secret/data/x",
    "/v1/..%2Fbbbbbbbb%2Fsecret%2Fdata%2Fx",
    "/v1/%252e%252e/bbbbbbbb/secret/data/x",
    "/v1/bbbbbbbb/secret/data/x",
    "/v1/cloudtaser/bbbbbbbb/secret/data/x",
    "/v1/cloudtaser%2Fbbbbbbbb%2Fsecret%2Fdata%2Fx",
    "/v1//cloudtaser/bbbbbbbb/secret/data/x",
    "/v1/root/cloudtaser/bbbbbbbb/secret/data/x",
    "/v1/secret/../../bbbbbbbb/secret/data/x",
    "/v1/secret/data/..\\..\\bbbbbbbb\\x",
    "/v1/secret/data/x?namespace=cloudtaser/bbbbbbbb",
    "/v1/secret/data/x;/../bbbbbbbb",
    "http://localhost/v1/cloudtaser/bbbbbbbb/secret/data/x",
    "//localhost/v1/secret/data/x",
    "/v1/secret/data/%00../x",
    "/v1/sys/namespaces/bbbbbbbb",
    "/v1/sys/mounts",
    "/v1/sys/policies/acl/all",
    "/v1/sys/auth",
    "/v1/sys/raw/logical",
    "/v1/sys/internal/ui/namespaces",
    "/v1/sys/internal/ui/mounts/../../../namespaces",
    "/v1/sys/internal/counters/entities",
    "/v1/sys/storage/raft/snapshot",
    "/v1/sys/leases/lookup/certificates",
    "/v1/sys/host-info",
    "/v1/sys/metrics",
    "/v1/sys/pprof/heap",
    "/v1/%73ys/mounts",
    "/v1/identity/entity/name",
    "/v1/identity/lookup/entity",
    "/v1/cubbyhole/response",
    "/v1/pki-tunnel/ca",
    "/v1/auth/token/accessors",
    "/v1/auth/jwt/config",
]


@pytest.mark.parametrize("headers", NAMESPACE_HEADERS)
@pytest.mark.parametrize("whose", ["a", "b", "parent", "none"])
async def test_no_header_reaches_another_space(
    world: World, bridge: Bridge, headers: list[tuple[str, str]], whose: str
) -> None:
    async with bridge.pod() as pod:
        own = await pod.login(world.a)
        token = {"a": own, "b": world.b.token, "parent": world.parent_token, "none": ""}[whose]
        answer = await pod.ask("GET", "/v1/secret/data/x", token=token, headers=headers)
    assert world.b.canary.encode() not in answer.body
    assert (answer.status == 200) == (whose == "a"), (
        "A's own token reads A's own secret, whatever the header says"
    )
    assert (world.a.canary.encode() in answer.body) == (whose == "a")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "LIST", "POST", "DELETE"])
async def test_no_path_reaches_another_space_or_openbao_itself(
    world: World, bridge: Bridge, path: str, method: str
) -> None:
    async with bridge.pod() as pod:
        own = await pod.login(world.a)
        tokens = [world.b.token, world.parent_token, "root", world.server.root_token.reveal_text()]
        for token in tokens if path == "/v1/secret/data/x" else [own, *tokens]:
            async with bridge.pod() as other:
                answer = await other.ask(method, path, token=token, body={} if method == "POST" else None)
            assert world.b.canary.encode() not in answer.body
            assert answer.status >= 400, answer.body
    async with world.admin(world.b.namespace) as admin:
        assert (await admin.request("GET", "secret/data/x"))["data"]["data"]["v"] == world.b.canary


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET /v1/secret/data/x HTTP/1.1\nHost: x\n\n",
        b"GET /v1/secret/data/x HTTP/1.1\r\nHost: x\nX-Vault-Namespace: cloudtaser/bbbbbbbb\r\n\r\n",
        b"GET /v1/secret/data/x HTTP/1.1\r\nHost: x\r\nX-Vault-Token: a\r\n b\r\n\r\n",
        b"GET /v1/secret/data/x HTTP/1.1\r\nHost: x\r\nX-Vault-Namespace : cloudtaser/bbbbbbbb\r\n\r\n",
        b"PUT /v1/secret/x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        b"POST /v1/secret/data/x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"POST /v1/secret/data/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\n\r\n{}",
        b"GET /v1/secret/data/x HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
        b"GET  /v1/secret/data/x HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT openbao:8200 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x00\xa5\x01\x00\x00",
    ],
)
async def test_http_that_two_parsers_could_read_differently_ends_the_stream(
    world: World, bridge: Bridge, request_head: bytes
) -> None:
    async with bridge.pod() as pod:
        await pod.login(world.a)
        smuggled = get("/v1/secret/data/x", world.b.token, world.b.namespace)
        pod.writer.write(request_head + smuggled)
        answer = await pod.rest()
    assert world.b.canary.encode() not in answer
    assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")), answer
    assert len(re.findall(rb"HTTP/1\.1 \d", answer)) == 1, "what follows is read by nobody"


async def test_a_wrapped_secret_of_another_space_stays_wrapped(world: World, bridge: Bridge) -> None:
    token = await wrapped_by_b(world)
    async with bridge.pod() as pod:
        own = await pod.login(world.a)
        for attempt in (
            {"token": own, "body": {"token": token}},
            {"token": own, "body": {"token": token.rpartition(".")[0]}},
            {"token": own, "body": {"token": f"{token.rpartition('.')[0]}.{world.a.namespace_id}"}},
            {"token": own, "body": {"token": f"{token}.{world.a.namespace_id}"}},
            {"token": token, "body": {}},
            {"token": own, "body": f'{{"token":"{own}","token":"{token}"}}'.encode()},
            {"token": own, "body": f"token={token}".encode()},
            {"token": own, "body": f'{{"token":"{token}"'.encode() + b',"x":"\\u0000"}'},
        ):
            for path in ("/v1/sys/wrapping/unwrap", "/v1/sys/wrapping/lookup"):
                answer = await pod.ask("POST", path, **attempt)
                assert answer.status >= 400
                assert world.b.canary.encode() not in answer.body
        assert (await pod.ask("GET", f"/v1/sys/wrapping/lookup?token={token}", token=own)).status >= 400
    async with OpenBao(world.server.address, token=Secret(world.b.token)) as client:
        kept = await client.request(
            "POST", "sys/wrapping/unwrap", namespace=world.b.namespace, body={"token": token}
        )
    assert world.b.canary in json.dumps(kept), "and B can still unwrap it"


async def test_leases_tokens_and_accessors_of_another_space_are_out_of_reach(
    world: World, bridge: Bridge
) -> None:
    async with world.admin(world.b.namespace) as admin:
        lease = (await admin.request("POST", "certificates/issue/leased", body={"common_name": "canary"}))[
            "lease_id"
        ]
        b_client = OpenBao(world.server.address, token=Secret(world.b.token), namespace=world.b.namespace)
        async with b_client:
            accessor = (await b_client.request("GET", "auth/token/lookup-self"))["data"]["accessor"]
        attempts: list[tuple[str, dict[str, Any]]] = [
            ("sys/leases/lookup", {"lease_id": lease}),
            ("sys/leases/renew", {"lease_id": lease, "increment": 1}),
            ("auth/token/revoke-accessor", {"accessor": accessor}),
            ("auth/token/renew-self", {"token": world.b.token}),
            ("auth/token/revoke-self", {"token": world.b.token}),
            ("sys/leases/revoke", {"lease_id": lease}),
            ("sys/revoke", {"lease_id": lease}),
        ]
        async with bridge.pod() as pod:
            own = await pod.login(world.a)
            for path, body in attempts:
                answer = await pod.ask("POST", f"/v1/{path}", token=own, body=body)
                assert answer.status in (400, 403), (path, answer.body)
                answer = await pod.ask("POST", f"/v1/{path}", token=world.b.token, body=body)
                assert answer.status == 403, (path, answer.body)
            assert (await pod.ask("GET", "/v1/auth/token/lookup-self", token=world.b.token)).status == 403
            assert (await pod.ask("GET", "/v1/auth/token/lookup-self", token=own)).status == 200
        kept = await admin.request("POST", "sys/leases/lookup", body={"lease_id": lease})
        assert kept["data"]["id"] == lease


async def test_a_space_may_renew_and_look_up_what_is_its_own(world: World, bridge: Bridge) -> None:
    async with bridge.pod() as pod:
        own = await pod.login(world.a)
        issued = await pod.ask(
            "PUT", "/v1/certificates/issue/leased", token=own, body={"common_name": "mine"}
        )
        lease = issued.json["lease_id"]
        looked_up = await pod.ask("PUT", "/v1/sys/leases/lookup", token=own, body={"lease_id": lease})
        assert looked_up.json["data"]["id"] == lease
        wrap = [("X-Vault-Wrap-TTL", "60s")]
        wrapped = await pod.ask("GET", "/v1/secret/data/x", token=own, headers=wrap)
        token = wrapped.json["wrap_info"]["token"]
        unwrapped = await pod.ask("PUT", "/v1/sys/wrapping/unwrap", token=token, body={})
        assert world.a.canary.encode() in unwrapped.body
        assert (
            await pod.ask("PUT", "/v1/auth/token/renew-self", token=own, body={"increment": "1h"})
        ).status == 200
        assert (await pod.ask("GET", "/v1/sys/internal/ui/mounts/secret/x", token=own)).status == 200
        capabilities = await pod.ask(
            "POST", "/v1/sys/capabilities-self", token=own, body={"paths": ["secret/x"]}
        )
        assert "sudo" in capabilities.json["secret/x"]
        assert (await pod.ask("PUT", "/v1/auth/token/revoke-self", token=own, body={})).status == 204
        assert (await pod.ask("GET", "/v1/secret/data/x", token=own)).status == 403


@pytest.mark.parametrize(
    "body",
    [
        {"namespace": "cloudtaser/bbbbbbbb"},
        {"path": "../bbbbbbbb/secret"},
    ],
)
async def test_a_namespace_in_a_body_changes_nothing(
    world: World, bridge: Bridge, body: dict[str, str]
) -> None:
    async with bridge.pod() as pod:
        login = {"role": "all", "jwt": world.a.jwt()} | body
        assert (await pod.ask("POST", "/v1/auth/jwt/login", body=login)).status == 400
        own = await pod.login(world.a)
        answer = await pod.ask("POST", "/v1/secret/data/new", token=own, body={"data": {"v": "1"}} | body)
        assert answer.status == 200
    async with world.admin(world.b.namespace) as admin:
        assert await admin.find("secret/data/new") is None
    async with world.admin(world.a.namespace) as admin:
        assert await admin.find("secret/data/new") is not None


async def test_a_jwt_of_another_cluster_opens_nothing(world: World, bridge: Bridge) -> None:
    async with bridge.pod() as pod:
        for jwt in (
            world.b.jwt(),
            world.b.jwt(audiences=["cloudtaser:aaaaaaaa"]),
            world.b.key.sign({"aud": ["cloudtaser:aaaaaaaa"]}, header={"kid": world.a.key.kid}),
        ):
            answer = await pod.ask("POST", "/v1/auth/jwt/login", body={"role": "all", "jwt": jwt})
            assert answer.status == 403
            assert jwt not in answer.body.decode()
    assert bridge.refetched == 2, "the two with an unknown kid were looked for, once each"


async def test_tokens_from_before_the_bridge_started_are_proven_first(world: World, bridge: Bridge) -> None:
    async with bridge.pod() as pod:
        assert bridge.cluster.namespace_id is None
        for token in (
            world.b.token,
            world.parent_token,
            f"s.AAAAAAAAAAAAAAAAAAAAAAAA.{world.b.namespace_id}",
        ):
            assert (await pod.ask("GET", "/v1/secret/data/x", token=token)).status == 403
            assert bridge.cluster.namespace_id is None
        unwrap = await pod.ask("POST", "/v1/sys/wrapping/unwrap", token=world.b.token, body={})
        assert unwrap.status == 503, "proving it would use a wrapping token up"
        answer = await pod.ask("GET", "/v1/secret/data/x", token=world.a.token)
        assert answer.status == 200
        assert bridge.cluster.namespace_id == world.a.namespace_id


async def test_no_token_or_body_is_in_the_audit(world: World, bridge: Bridge) -> None:
    async with bridge.pod() as pod:
        jwt = world.a.jwt()
        answer = await pod.ask("POST", "/v1/auth/jwt/login", body={"role": "all", "jwt": jwt})
        own = answer.json["auth"]["client_token"]
        await pod.ask("GET", "/v1/secret/data/x", token=own)
        await pod.ask("GET", f"/v1/secret/data/x?token={own}", token=own)
        await pod.ask("POST", "/v1/sys/wrapping/unwrap", token=own, body={"token": world.b.token})
        await pod.ask("GET", "/v1/secret/data/x", token=world.b.token)
    text = json.dumps(bridge.lines)
    for secret in (jwt, own, world.b.token, world.a.canary, world.b.canary):
        assert secret not in text
    assert [line["seq"] for line in bridge.lines] == [1, 2, 3, 4, 5]
    assert [line["verdict"] for line in bridge.lines] == [
        "allowed",
        "allowed",
        "refused",
        "refused",
        "refused",
    ]


async def pods_reading(world: World, bridge: Bridge, count: int) -> list[bytes]:
    async def one() -> bytes:
        async with bridge.pod() as pod:
            token = await Pod.login(pod, world.a)
            return (await pod.ask("GET", "/v1/secret/data/x", token=token)).body

    return await asyncio.gather(*(one() for _ in range(count)))


async def test_two_clusters_at_once_never_see_each_others_answers(world: World) -> None:
    async with (
        bridge_for(world.a, world.server.address) as first,
        bridge_for(world.b, world.server.address, upstream=first.services.upstream) as second,
    ):

        async def read(bridge: Bridge, token: str, canary: str) -> None:
            async with bridge.pod() as pod:
                for _ in range(25):
                    answer = await pod.ask("GET", "/v1/secret/data/x", token=token)
                    assert canary.encode() in answer.body

        await asyncio.gather(
            *(read(first, world.a.token, world.a.canary) for _ in range(8)),
            *(read(second, world.b.token, world.b.canary) for _ in range(8)),
        )
