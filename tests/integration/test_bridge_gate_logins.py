"""Logins, roles, hints, health and the operator's stream, before a real OpenBao, over the pods' TLS."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudtaser.bridge.session import pod_protocol
from cloudtaser.bridge.tokens import KeySet
from cloudtaser.demo.certificates import write_server_certificate
from cloudtaser.demo.openbao import bao_binary
from cloudtaser.demo.tokens import SigningKey
from cloudtaser.errors import UnavailableError
from cloudtaser.net.tls import Identity, pod_client, pod_server
from cloudtaser.openbao.pki import new_key
from cloudtaser.secret import Secret
from cloudtaser.wire.names import BRIDGE_NAME
from cloudtaser.wire.opening import Kind as OpeningKind
from cloudtaser.wire.opening import Opening
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


@pytest.fixture
async def operator(world: World) -> AsyncIterator[Bridge]:
    async with bridge_for(world.a, world.server.address, operator=True) as made:
        yield made


async def test_a_pod_logs_in_reads_and_is_named_in_the_audit(world: World, bridge: Bridge) -> None:
    async with bridge.pod() as pod:
        token = await pod.login(world.a, role="default")
        answer = await pod.ask("GET", "/v1/secret/data/shop/db", token=token)
        assert answer.json["data"]["data"]["password"] == world.a.canary
    assert bridge.cluster.namespace_id == world.a.namespace_id
    for line in bridge.lines:
        assert (line["namespace"], line["serviceaccount"], line["pod"]) == ("shop", "web", "web-5c9f")
        assert (line["verdict"], line["peer"]) == ("allowed", "10.0.0.7:51324")
    assert [line["path"] for line in bridge.lines] == ["/v1/auth/jwt/login", "/v1/secret/data/shop/db"]


async def test_the_default_role_becomes_the_granted_one(world: World, bridge: Bridge) -> None:
    async with bridge.pod() as pod:
        answer = await pod.ask("POST", "/v1/auth/jwt/login", body={"jwt": world.a.jwt()})
        assert answer.json["auth"]["metadata"]["role"] == "shop_web"
        answer = await pod.ask(
            "POST", "/v1/auth/jwt/login", body={"jwt": world.a.jwt(service_account="other")}
        )
        assert answer.json["auth"]["metadata"]["role"] == "default"


async def test_a_denied_read_names_path_and_command(world: World, bridge: Bridge) -> None:
    async with bridge.pod() as pod:
        token = await pod.login(world.a, role="default")
        answer = await pod.ask("GET", "/v1/secret/data/billing/card", token=token)
    assert answer.status == 403
    assert "permission denied" in answer.json["errors"][0]
    assert answer.json["errors"][1].endswith(
        f"cloudtaser-cli source allow {world.a.fingerprint} --namespace shop --serviceaccount web"
        " --path secret/data/billing/card"
    )
    assert (bridge.lines[-1]["verdict"], bridge.lines[-1]["reason"]) == ("allowed", "policy")


async def test_a_denied_write_and_a_missing_path_pass_as_they_are(world: World, bridge: Bridge) -> None:
    async with bridge.pod() as pod:
        token = await pod.login(world.a, role="default")
        answer = await pod.ask("POST", "/v1/secret/data/shop/db", token=token, body={"data": {}})
        assert (answer.status, "source allow" in answer.errors) == (403, False)
        answer = await pod.ask("GET", "/v1/secret/data/shop/nothing", token=token)
        assert (answer.status, answer.json) == (404, {"errors": []})


async def test_a_login_refused_for_its_role_names_the_command(world: World, bridge: Bridge) -> None:
    async with bridge.pod() as pod:
        answer = await pod.ask("POST", "/v1/auth/jwt/login", body={"role": "nobody", "jwt": world.a.jwt()})
    assert answer.status == 400
    assert "role" in answer.json["errors"][0]
    assert f"source allow {world.a.fingerprint} --namespace shop --serviceaccount web" in answer.errors
    assert bridge.lines[0]["reason"] == "role"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"audiences": ["cloudtaser:ffffffff"]}, "wrong_audience"),
        ({"issuer": "https://evil"}, "wrong_issuer"),
        ({"issued_at": int(time.time()) - 3600}, "expired"),
        ({"issued_at": int(time.time()) + 3600}, "not_yet_valid"),
        ({"pod": None}, "missing_claim"),
        ({"sub": "system:serviceaccount:shop:admin"}, "wrong_subject"),
    ],
)
async def test_a_bad_token_is_refused_by_the_bridge_and_logged_without_it(
    world: World, bridge: Bridge, changes: dict[str, Any], reason: str
) -> None:
    jwt = world.a.jwt(**changes)
    async with bridge.pod() as pod:
        answer = await pod.ask("POST", "/v1/auth/jwt/login", body={"jwt": jwt})
    assert answer.status == 403
    assert jwt not in answer.body.decode() + json.dumps(bridge.lines)
    assert (bridge.lines[0]["verdict"], bridge.lines[0]["reason"]) == ("refused", reason)


async def test_alg_none_is_refused(world: World, bridge: Bridge) -> None:
    _, claims, _ = world.a.jwt().split(".")
    for signature in ("", "AA"):
        jwt = f"eyJhbGciOiJub25lIiwia2lkIjoieCJ9.{claims}.{signature}"
        async with bridge.pod() as pod:
            answer = await pod.ask("POST", "/v1/auth/jwt/login", body={"jwt": jwt})
        assert answer.status in (400, 403)


async def test_a_new_signing_key_is_looked_for_once(world: World, bridge: Bridge) -> None:
    old = world.a.key
    new = SigningKey()

    async def refetch(_: object) -> None:
        bridge.refetched += 1
        bridge.cluster.keys = KeySet.from_jwks({"keys": [old.public_jwk(), new.public_jwk()]})

    bridge.services.refetch_keys = refetch
    claims = {**_claims(world.a.jwt()), "sub": "system:serviceaccount:shop:web"}
    async with bridge.pod() as pod:
        answer = await pod.ask("POST", "/v1/auth/jwt/login", body={"jwt": new.sign(claims)})
        assert bridge.refetched == 1
        assert answer.status == 400, "the bridge believes it; OpenBao was not told of the key in this test"
        unknown = SigningKey().sign(claims)
        assert (await pod.ask("POST", "/v1/auth/jwt/login", body={"jwt": unknown})).status == 403
        assert bridge.refetched == 2


def _claims(jwt: str) -> dict[str, Any]:
    payload = jwt.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))))


async def test_the_operator_hands_over_the_reviewers_token_on_its_own_stream(
    world: World, bridge: Bridge, operator: Bridge
) -> None:
    bearer = [("Authorization", f"Bearer {world.a.operator_jwt()}")]
    body = {"token": "reviewer.token.here"}
    other_account = world.a.jwt(audiences=[f"cloudtaser-operator:{world.a.fp8}"])
    async with operator.pod() as stream:
        assert (await stream.ask("PUT", "/v1/cloudtaser/reviewer", headers=bearer, body=body)).status == 204
        assert [token.reveal_text() for token in operator.reviewer_tokens] == ["reviewer.token.here"]
        for headers, sent in (
            ([], body),
            ([("Authorization", f"Bearer {world.a.jwt()}")], body),
            ([("Authorization", f"Bearer {world.b.operator_jwt()}")], body),
            ([("Authorization", f"Bearer {other_account}")], body),
            ([("X-Vault-Token", world.a.token)], body),
            (bearer, {"token": ""}),
            (bearer, {"token": "x", "extra": 1}),
            (bearer, {}),
        ):
            answer = await stream.ask("PUT", "/v1/cloudtaser/reviewer", headers=headers, body=sent)
            assert answer.status in (400, 401, 403), answer.body
    async with bridge.pod() as pod:
        assert (await pod.ask("PUT", "/v1/cloudtaser/reviewer", headers=bearer, body=body)).status == 404
    assert len(operator.reviewer_tokens) == 1
    assert bridge.reviewer_tokens == []
    assert "reviewer.token.here" not in json.dumps(operator.lines)


async def test_the_operators_certificates_are_signed_for_the_operator_alone(
    world: World, bridge: Bridge, operator: Bridge
) -> None:
    bearer = [("Authorization", f"Bearer {world.a.operator_jwt()}")]
    (_, server), (_, seal) = new_key(), new_key()
    body, path = {"server": server, "seal": seal}, "/v1/cloudtaser/operator-certificates"
    async with operator.pod() as stream:
        assert (await stream.ask("POST", path, headers=bearer, body=body)).status == 200
        (certified,) = operator.certified
        assert (certified.server.pem, certified.seal.pem) == (server, seal)
        for headers, sent in (
            ([], body),
            ([("Authorization", f"Bearer {world.a.jwt()}")], body),
            ([("Authorization", f"Bearer {world.b.operator_jwt()}")], body),
            (bearer, {"server": server}),
            (bearer, body | {"names": ["bridge.cloudtaser.internal"]}),
        ):
            answer = await stream.ask("POST", path, headers=headers, body=sent)
            assert answer.status in (400, 401, 403), answer.body
    async with bridge.pod() as pod:
        assert (await pod.ask("POST", path, headers=bearer, body=body)).status == 404
    assert len(operator.certified) == 1


async def test_the_operators_role_is_had_on_its_own_stream_only(
    world: World, bridge: Bridge, operator: Bridge
) -> None:
    login = {"role": "cloudtaser-operator", "jwt": world.a.operator_jwt()}
    async with operator.pod() as stream:
        assert (await stream.ask("POST", "/v1/auth/jwt/login", body=login)).status == 200
    async with bridge.pod() as pod:
        assert (await pod.ask("POST", "/v1/auth/jwt/login", body=login)).status == 403


async def test_health_is_the_bridges_own_answer(world: World, bridge: Bridge) -> None:
    async with bridge.pod() as pod:
        health = await pod.ask("GET", "/v1/sys/health?standbyok=true&sealedcode=200", token="anything")
        seal = await pod.ask("GET", "/v1/sys/seal-status")
    assert (health.status, seal.status) == (200, 200)
    assert health.json["initialized"] is True
    assert health.json["sealed"] is False
    assert seal.json["sealed"] is False
    assert not {"cluster_name", "cluster_id", "storage_type"} & (health.json.keys() | seal.json.keys())


async def test_a_sealed_openbao_is_told_as_such(tmp_path: Path) -> None:
    sealed = await asyncio.to_thread(build_world, tmp_path)
    try:
        async with bridge_for(sealed.a, sealed.server.address) as bridge, bridge.pod() as pod:
            token = await pod.login(sealed.a)
            async with sealed.admin() as admin:
                await admin.request("PUT", "sys/seal")
            answer = await pod.ask("GET", "/v1/secret/data/x", token=token)
            assert (answer.status, "sealed" in answer.errors) == (503, True)
            assert (await pod.ask("GET", "/v1/sys/health")).status == 503
            assert (await pod.ask("GET", "/v1/sys/seal-status")).json["sealed"] is True
            sealed.server.kill()
            answer = await pod.ask("GET", "/v1/secret/data/x", token=token)
            assert answer.status == 503
    finally:
        sealed.server.kill()


async def test_large_and_odd_values_come_back_as_they_went_in(world: World, bridge: Bridge) -> None:
    values = {
        "large": "x" * 65536,
        "binary": "".join(map(chr, range(256))),
        "unicode": "пароль 密码 🔑",
        "empty": "",
        **{
            f"field{number}": str(number) for number in range(480)
        },  # OpenBao refuses JSON of more than 1,000 strings
        "not a name": "1",
    }
    async with bridge.pod() as pod:
        token = await pod.login(world.a)
        written = await pod.ask("POST", "/v1/secret/data/odd%20%C3%A9", token=token, body={"data": values})
        assert written.status == 200
        read = await pod.ask("GET", "/v1/secret/data/odd%20%C3%A9", token=token)
        assert read.json["data"]["data"] == values
        listed = await pod.ask("GET", "/v1/secret/metadata/?list=true", token=token)
        assert "odd é" in listed.json["data"]["keys"]
        assert (await pod.ask("SCAN", "/v1/secret/metadata", token=token)).status == 200


async def test_an_unmodified_bao_client_reads_through_the_gate(world: World, bridge: Bridge) -> None:
    async with bridge.pod() as pod:
        token = await pod.login(world.a)
    environment = {
        "BAO_ADDR": f"http://127.0.0.1:{bridge.port}",
        "BAO_TOKEN": token,
        "HOME": "/nonexistent",
        "PATH": "",
    }
    for arguments in (
        ["kv", "get", "-field=password", "secret/shop/db"],
        ["kv", "get", "-mount=secret", "-field=password", "shop/db"],
        ["read", "-field=data", "secret/data/shop/db"],
        ["kv", "list", "secret/"],
        ["token", "lookup"],
        ["token", "renew"],
        ["kv", "put", "secret/shop/other", "a=b"],
    ):
        done = await asyncio.to_thread(
            subprocess.run,
            [bao_binary(), *arguments],
            env=environment,
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        if "-field=password" in arguments:
            assert done.stdout.decode().strip() == world.a.canary


async def test_the_pods_tls_ends_in_the_bridge(world: World, bridge: Bridge, tmp_path: Path) -> None:
    name = f"0ad50c05.{BRIDGE_NAME}"
    files = write_server_certificate(tmp_path, "pods", [name])
    identity = Identity(files.certificate.read_bytes(), Secret(files.key.read_bytes()))
    bridge.cluster.pod_context = pod_server(identity)
    opening = Opening(OpeningKind.POD, "10.0.0.8:4000", "7ab1e")
    listener = await asyncio.get_running_loop().create_server(
        lambda: pod_protocol(bridge.cluster, opening, bridge.services), "127.0.0.1", 0
    )
    port = listener.sockets[0].getsockname()[1]
    context = pod_client(files.ca.read_bytes())
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    pod = Pod(reader, writer)
    token = await pod.login(world.a, role="default")
    answer = await pod.ask("GET", "/v1/secret/data/shop/db", token=token)
    assert answer.json["data"]["data"]["password"] == world.a.canary
    assert answer.headers["x-correlation-id"] == "7ab1e.2"
    assert bridge.lines[-1]["peer"] == "10.0.0.8:4000"
    closing = await pod.ask("GET", "/v1/sys/seal-status", headers=[("Connection", "close")])
    assert closing.status == 200
    assert await pod.rest() == b"", "closed in order, with TLS's own goodbye"
    listener.close()
    pod.close()


async def test_a_stream_before_the_first_certificate_is_refused(bridge: Bridge) -> None:
    with pytest.raises(UnavailableError):
        pod_protocol(bridge.cluster, Opening(OpeningKind.POD), bridge.services)
