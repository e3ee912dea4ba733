"""Migrating through the whole chain: stored once, never overwritten, for nobody but cloudtaser-admin."""

from __future__ import annotations

import asyncio
import base64
import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloudtaser.demo.chain import Chain
from cloudtaser.demo.exposition import fetch, sum_metric
from cloudtaser.demo.search import occurrences
from cloudtaser.demo.tokens import PodReference, SigningKey, service_account_claims
from cloudtaser.errors import NotAuthorisedError, RefusedError
from cloudtaser.kube.client import KubeApi
from cloudtaser.kube.errors import KubeForbiddenError
from cloudtaser.net.admin import AdminDoor
from cloudtaser.net.dial import Address
from cloudtaser.openbao.client import OpenBao
from cloudtaser.secret import Secret
from cloudtaser.wire import names
from cloudtaser.wire.hashes import short_fingerprint
from cloudtaser.wire.migration import Migration
from tests.chain_attackers import raw_pod
from tests.chain_tools import audited, delivered, eventually, whole_lines

pytestmark = pytest.mark.asyncio(loop_scope="session")

CANARY = "canary-3e9d5a1c77f0"


def door(chain: Chain) -> AdminDoor:
    return AdminDoor(Address("127.0.0.1", chain.ports.admin), chain.pod_ca())


def fresh(**data: str) -> Migration:
    """A secret of a name that no other test uses."""
    return Migration(f"secret/data/shop/m-{uuid.uuid4().hex[:12]}", data or {"password": CANARY})


def audit(chain: Chain, path: str) -> list[dict[str, Any]]:
    """The first bridge's audit lines about a path."""
    assert chain.bridge is not None
    lines = (json.loads(line) for line in whole_lines(chain.bridge.log) if '"seq":' in line)
    return [line for line in lines if line.get("path") == f"/v1/{path}"]


async def stored(admin: OpenBao, migration: Migration) -> tuple[dict[str, Any], int] | None:
    found = await admin.kv_read("secret", migration.path.removeprefix("secret/data/"))
    return None if found is None else (found.data, found.version)


async def test_a_secret_is_stored_once_and_delivered_to_pods(chain: Chain, admin: OpenBao) -> None:
    migration = fresh(password=CANARY, note="two\nlines — ü")
    outcome = await door(chain).migrate(Secret(chain.admin_token()), migration)
    assert (outcome.created, outcome.version, outcome.sha256) == (True, 1, migration.sha256)
    assert await stored(admin, migration) == (dict(migration.data), 1)
    assert (await delivered(chain, migration.path, "password=P"))["P"] == CANARY
    await audited(chain, migration.path, count=2)  # stored, and read by a pod
    (line,) = [line for line in audit(chain, migration.path) if line.get("via") == "migrate"]
    assert (line["namespace"], line["serviceaccount"]) == ("cloudtaser-system", "cloudtaser-admin")
    assert (line["method"], line["verdict"], line["status"], line["version"]) == ("POST", "allowed", 200, 1)


async def test_repeated_it_is_recognised_and_nothing_is_written(chain: Chain, admin: OpenBao) -> None:
    migration, token = fresh(), Secret(chain.admin_token())
    await door(chain).migrate(token, migration)
    for _ in range(2):
        again = await door(chain).migrate(token, migration)
        assert (again.created, again.version, again.sha256) == (False, 1, migration.sha256)
    other = await door(chain).migrate(token, Migration(migration.path, {"password": "another"}))
    assert (other.created, other.version, other.sha256) == (False, 1, "")
    assert await stored(admin, migration) == ({"password": CANARY}, 1)
    await audited(chain, migration.path, count=4)
    lines = [line for line in audit(chain, migration.path) if line.get("via") == "migrate"]
    assert [line["status"] for line in lines] == [200, 409, 409, 409]
    assert {line["reason"] for line in lines[1:]} == {"exists"}


async def test_what_somebody_else_stored_is_never_overwritten_nor_shown(chain: Chain, admin: OpenBao) -> None:
    migration = fresh()
    name = migration.path.removeprefix("secret/data/")
    for number in (1, 2):
        await admin.kv_write("secret", name, {"password": f"theirs-{number}"})
    outcome = await door(chain).migrate(Secret(chain.admin_token()), migration)
    assert (outcome.created, outcome.version, outcome.sha256) == (False, 2, "")
    same = Migration(migration.path, {"password": "theirs-2"})
    assert (await door(chain).migrate(Secret(chain.admin_token()), same)).sha256 == ""
    await admin.request("DELETE", migration.path)
    assert not (await door(chain).migrate(Secret(chain.admin_token()), migration)).created
    about = await admin.kv_metadata("secret", name)
    assert about is not None
    assert about["current_version"] == 2


async def test_of_two_at_once_one_stores(chain: Chain, admin: OpenBao) -> None:
    path = fresh().path
    token = Secret(chain.admin_token())
    tries = [Migration(path, {"who": str(number)}) for number in range(4)]
    outcomes = await asyncio.gather(*(door(chain).migrate(token, migration) for migration in tries))
    winners = [migration for migration, outcome in zip(tries, outcomes, strict=True) if outcome.created]
    assert len(winners) == 1
    assert await stored(admin, winners[0]) == (dict(winners[0].data), 1)


@pytest.mark.parametrize(
    "path",
    [
        "secret/data/shop",
        "secret/metadata/shop/x",
        "secret/destroy/shop/x",
        "transit/keys/x",
        "state/data/clusters/x",
        "sys/policies/acl/x",
        "pki-pod/sign/bridge-pod",
        "cloudtaser/data/shop/x",
    ],
)
async def test_no_other_place_can_be_named(chain: Chain, path: str) -> None:
    with pytest.raises(RefusedError, match="must be secret/data/<namespace>/<name>"):
        await door(chain).migrate(Secret(chain.admin_token()), Migration(path, {"x": CANARY}))


def claims(chain: Chain, **changes: Any) -> dict[str, Any]:
    """Of the right token, with `changes` to arguments or to claims themselves (None removes one)."""
    arguments: dict[str, Any] = {
        "issuer": "https://kubernetes.default.svc.cluster.local",
        "namespace": names.SYSTEM_NAMESPACE,
        "service_account": names.ADMIN_SERVICE_ACCOUNT,
        "service_account_uid": "u",
        "audiences": [names.admin_audience(short_fingerprint(chain.fingerprint))],
        "issued_at": int(time.time()),
        "seconds": 600,
    }
    for name in list(arguments):
        if name in changes:
            arguments[name] = changes.pop(name)
    if "pod" in changes:
        arguments["pod"] = changes.pop("pod")
    made = service_account_claims(**arguments)
    return {name: value for name, value in (made | changes).items() if value is not None}


FOREIGN = SigningKey()
Forge = Callable[[Chain], str]


def signed(**changes: Any) -> Forge:
    return lambda chain: chain.apiserver.sign(claims(chain, **changes))


def with_audience(*kinds: str) -> Forge:
    def forge(chain: Chain) -> str:
        fp8 = short_fingerprint(chain.fingerprint)
        return chain.apiserver.sign(claims(chain, audiences=[f"{kind}:{fp8}" for kind in kinds]))

    return forge


def past(seconds: int, lifetime: int) -> Forge:
    return lambda chain: chain.apiserver.sign(
        claims(chain, issued_at=int(time.time()) - seconds, seconds=lifetime)
    )


def pod_token(chain: Chain) -> str:
    return chain.pod("shop").token_file.read_text()


WRONG: dict[str, tuple[Forge, str]] = {
    "a pod's": (pod_token, "wrong_audience"),
    "the operator's": (
        lambda chain: chain.apiserver.issue(
            names.SYSTEM_NAMESPACE,
            names.OPERATOR_SERVICE_ACCOUNT,
            [names.operator_audience(short_fingerprint(chain.fingerprint))],
        ),
        "wrong_audience",
    ),
    "the operator's, for administrators": (
        signed(service_account=names.OPERATOR_SERVICE_ACCOUNT), "wrong_subject",
    ),
    "another ServiceAccount of the namespace": (signed(service_account="cloudtaser-admin2"), "wrong_subject"),
    "the same name in another namespace": (signed(namespace="shop"), "wrong_subject"),
    "a subject that its claims do not bear out": (
        signed(sub="system:serviceaccount:shop:x"), "wrong_subject",
    ),
    "two audiences": (with_audience("cloudtaser-admin", "cloudtaser"), "wrong_audience"),
    "a pod's audience": (with_audience("cloudtaser"), "wrong_audience"),
    "the API server's audience": (
        signed(audiences=["https://kubernetes.default.svc.cluster.local"]), "wrong_audience",
    ),
    "another cluster's audience": (signed(audiences=["cloudtaser-admin:ffffffff"]), "wrong_audience"),
    "no audience": (signed(aud=None), "wrong_audience"),
    "expired": (past(700, 600), "expired"),
    "not valid yet": (past(-300, 600), "not_yet_valid"),
    "an hour long": (signed(seconds=3600), "long_lived"),
    "a second too long": (signed(seconds=901), "long_lived"),
    "without a beginning": (signed(iat=None), "missing_claim"),
    "without an end": (signed(exp=None), "missing_claim"),
    "another issuer": (signed(issuer="https://elsewhere"), "wrong_issuer"),
    "another cluster's key": (lambda chain: FOREIGN.sign(claims(chain)), "unknown_key"),
    "a key that says it is this cluster's": (
        lambda chain: FOREIGN.sign(
            claims(chain), header={"kid": chain.apiserver.jwks()["keys"][0]["kid"]}
        ),
        "bad_signature",
    ),
    "bound to a pod": (signed(pod=PodReference("x", "0f0f0f0f-0000-4000-8000-00000001")), "wrong_subject"),
    "without Kubernetes' claims": (signed(**{"kubernetes.io": None}), "missing_claim"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
async def test_a_token_that_is_not_exactly_the_right_one_stores_nothing(
    chain: Chain, admin: OpenBao, name: str
) -> None:
    forge, reason = WRONG[name]
    migration, token = fresh(), forge(chain)
    before = len(audit(chain, "migrate"))
    with pytest.raises((NotAuthorisedError, RefusedError)):
        await door(chain).migrate(Secret(token), migration)
    assert await stored(admin, migration) is None

    expected = ("refused", reason, "migrate")

    async def written() -> bool:
        """Lines are written beside the answers: one of an earlier test's request may come first."""
        later = audit(chain, "migrate")[before:]
        return expected in [(line["verdict"], line["reason"], line["via"]) for line in later]

    await eventually(written, "the refusal is in the audit")


async def test_the_right_token_passes_the_same_way(chain: Chain) -> None:
    """What the table above shows is the table's doing."""
    token = signed()(chain)
    assert (await door(chain).migrate(Secret(token), fresh())).created
    longest = signed(seconds=900)(chain)
    assert (await door(chain).migrate(Secret(longest), fresh())).created


@pytest.mark.parametrize("token", ["", "eyJhbGciOiJub25lIn0.e30.", "s.abcdefghijklmnopqrstuvwx", "a.b.c"])
async def test_no_token_stores_nothing(chain: Chain, token: str) -> None:
    with pytest.raises((NotAuthorisedError, RefusedError)):
        await door(chain).migrate(Secret(token), fresh())


async def test_an_unsigned_token_and_one_signed_with_the_public_key_are_refused(chain: Chain) -> None:
    def encoded(header: dict[str, Any], signature: bytes) -> str:
        parts = (json.dumps(header).encode(), json.dumps(claims(chain)).encode(), signature)
        return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)

    kid = chain.apiserver.jwks()["keys"][0]["kid"]
    for algorithm in ("none", "HS256", "RS256", "ES256", "PS256"):
        token = encoded({"alg": algorithm, "kid": kid}, b"x" * 256)
        with pytest.raises((NotAuthorisedError, RefusedError)):
            await door(chain).migrate(Secret(token), fresh())


async def test_on_a_pods_stream_there_is_no_migration(chain: Chain, admin: OpenBao) -> None:
    migration = fresh()
    headers = [("Authorization", f"Bearer {chain.admin_token()}")]
    async with raw_pod(chain) as pod:
        for target in ("/migrate", "/v1/migrate", "/v1/cloudtaser/migrate"):
            answer = await pod.ask("POST", target, headers=headers, body=migration.encode())
            assert answer.status in (403, 404)
    assert await stored(admin, migration) is None


async def test_an_admin_token_opens_nothing_else(chain: Chain) -> None:
    """Whoever steals it stores new secrets for some minutes; it is no token of OpenBao's and no pod's."""
    token = chain.admin_token()
    async with raw_pod(chain, broker_port=chain.ports.admin) as client:
        for method, target in (("GET", "/v1/secret/data/shop/x"), ("LIST", "/v1/secret/metadata/shop")):
            answer = await client.ask(method, target, headers=[("Authorization", f"Bearer {token}")])
            assert answer.status == 403
        for role in ("default", "cloudtaser-operator"):
            answer = await client.ask("POST", "/v1/auth/jwt/login", body={"role": role, "jwt": token})
            assert answer.status == 403
    async with raw_pod(chain) as pod:
        for role in ("default", "cloudtaser-operator"):
            answer = await pod.ask("POST", "/v1/auth/jwt/login", body={"role": role, "jwt": token})
            assert answer.status == 403


async def test_a_broken_body_is_one_line_and_its_values_are_nowhere(chain: Chain) -> None:
    headers = [("Authorization", f"Bearer {chain.admin_token()}")]
    bodies = [
        b"",
        b"{}",
        b'{"path":"secret/data/shop/x","data":{"x":"%s","x":"2"}}' % CANARY.encode(),
        b'{"path":"secret/data/shop/x","data":{"x":{"y":"%s"}}}' % CANARY.encode(),
        b'{"path":"secret/data/shop/x","data":{"x":"%s"},"options":{"cas":1}}' % CANARY.encode(),
        b'{"path":"secret/data/shop/x","data":{"x":"%s"}' % CANARY.encode(),
        b'{"path":"secret/data/shop/../../x","data":{"x":"%s"}}' % CANARY.encode(),
    ]
    async with raw_pod(chain, broker_port=chain.ports.admin) as client:
        for body in bodies:
            answer = await client.ask("POST", "/migrate", headers=headers, body=body)
            assert answer.status == 400, answer
            assert len(answer.json["errors"]) == 1
            assert CANARY not in answer.errors


async def test_too_long_a_body_is_refused_before_it_is_read(chain: Chain) -> None:
    async with raw_pod(chain, broker_port=chain.ports.admin) as client:
        head = f"POST /migrate HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {chain.admin_token()}\r\n"
        answer = await client.say(f"{head}Content-Length: 99999999\r\n\r\n".encode())
        assert answer.status == 413


async def test_a_stranger_cannot_make_the_bridge_read_a_body(chain: Chain) -> None:
    async with raw_pod(chain, broker_port=chain.ports.admin) as client:
        head = f"POST /migrate HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {pod_token(chain)}\r\n"
        answer = await client.say(f"{head}Content-Length: 1000000\r\nExpect: 100-continue\r\n\r\n".encode())
        assert answer.status == 403, "refused on its head, not asked to go on"


async def test_a_full_secret_of_kubernetes_passes(chain: Chain, admin: OpenBao) -> None:
    migration = fresh(**{f"key-{number}": 'line "one"\n' * 700 for number in range(64)})
    outcome = await door(chain).migrate(Secret(chain.admin_token()), migration)
    assert (outcome.created, outcome.sha256) == (True, migration.sha256)
    found = await stored(admin, migration)
    assert found is not None
    assert found[0] == migration.data


async def test_migrations_are_counted_and_no_value_or_token_is_in_a_log(chain: Chain) -> None:
    migration, token = fresh(), chain.admin_token()
    await door(chain).migrate(Secret(token), migration)
    wanted = {
        "value": CANARY.encode(),
        "token": token.encode(),
        "digest": migration.sha256.encode(),
        "second token": (chain.directory / "bridge-1.admin.token").read_bytes(),
    }
    for log in sorted(chain.logs.iterdir()):
        assert occurrences(log.read_bytes(), wanted) == [], log.name
    assert chain.bridge is not None
    assert occurrences(Path(f"/proc/{chain.bridge.pid}/cmdline").read_bytes(), wanted) == []
    exposition = await fetch(chain.ports.metrics, "/metrics")
    assert sum_metric(exposition, "cloudtaser_broker_admin_connections_total") > 0
    assert occurrences(exposition.encode(), wanted) == []


async def test_the_operator_itself_cannot_have_an_admin_token_made(chain: Chain) -> None:
    """In the stand-in as in the chart: RBAC decides who migrates, and the operator is nobody."""
    audience = names.admin_audience(short_fingerprint(chain.fingerprint))
    arguments = (names.SYSTEM_NAMESPACE, names.ADMIN_SERVICE_ACCOUNT, [audience], 600)
    server = chain.apiserver
    operator, admin = str(server.operator_token_file), str(server.admin_token_file)
    async with KubeApi(server.url, ca_file=str(server.ca_file), token_file=operator) as api:
        with pytest.raises(KubeForbiddenError):
            await api.token_request(*arguments)
    async with KubeApi(server.url, ca_file=str(server.ca_file), token_file=admin) as api:
        made = await api.token_request(*arguments)
    assert (await door(chain).migrate(made.token, fresh())).created
