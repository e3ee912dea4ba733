"""Two registered clusters on one bridge, each with its own API server, operator and broker: a pod of the
first reaches nothing of the second, whatever it says. Its token may do anything in its own space, so that
what keeps it out is no policy of its own."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cloudtaser.bridge.keys import AT_MOST_EVERY
from cloudtaser.demo.apiserver import ISSUER, StandInApiServer
from cloudtaser.demo.chain import Chain, OperatorPorts
from cloudtaser.demo.process import PartProcess
from cloudtaser.demo.tokens import SigningKey, service_account_claims
from cloudtaser.openbao.client import OpenBao
from cloudtaser.wire import names
from cloudtaser.wire.hashes import short_fingerprint
from tests.chain_attackers import administrator, raw_pod, space_of
from tests.chain_tools import MANY_LOGINS, eventually
from tests.integration.bridge_world import EVERYTHING, Pod
from tests.integration.test_bridge_gate import NAMESPACE_HEADERS, PATHS

pytestmark = pytest.mark.asyncio(loop_scope="session")

Headers = Sequence[tuple[str, str]]


@dataclass
class Side:
    """One cluster."""

    chain: Chain
    fingerprint: str
    apiserver: StandInApiServer
    ports: OperatorPorts
    part: PartProcess
    canary: str = ""
    token: str = ""
    """OpenBao's, for everything in this space."""
    wrapping: str = ""
    """A wrapping token around the canary."""
    lease: str = ""
    accessor: str = ""

    @property
    def fp8(self) -> str:
        return short_fingerprint(self.fingerprint)

    @property
    def namespace(self) -> str:
        return f"cloudtaser/{self.fp8}"

    @property
    def pod_ca(self) -> str:
        data = self.apiserver.config_map(names.SYSTEM_NAMESPACE, names.POD_CA_CONFIGMAP)
        return data.get("pod-ca.crt", "")

    @asynccontextmanager
    async def pod(self) -> AsyncIterator[Pod]:
        async with raw_pod(self.chain, broker_port=self.ports.broker, pod_ca=self.pod_ca) as pod:
            yield pod

    def claims(self, audience: str = "") -> dict[str, Any]:
        return service_account_claims(
            issuer=ISSUER,
            namespace="shop",
            service_account="web",
            service_account_uid="8a4b5c1e-0000-4000-8000-000000000001",
            audiences=[audience or names.pod_audience(self.fp8)],
            issued_at=int(time.time()),
            seconds=600,
            pod=self.apiserver.add_pod("shop", "web-1", "web"),
        )

    async def login(self, jwt: str, role: str = "all") -> Any:
        async with self.pod() as pod:
            return await pod.ask("POST", "/v1/auth/jwt/login", body={"role": role, "jwt": jwt})


async def furnish(side: Side, admin: OpenBao) -> None:
    """A secret, a role that may do everything, and a thing of each kind that has an id."""
    space = space_of(side.fingerprint)

    async def post(path: str, body: dict[str, Any]) -> Any:
        return await admin.request("POST", path, namespace=space.namespace, body=body)

    side.canary = f"canary-{side.fp8}-{secrets.token_hex(8)}"
    await post("secret/data/x", {"data": {"v": side.canary}})
    await post("sys/policies/acl/all", {"policy": json.dumps(EVERYTHING)})
    role = {"role_type": "jwt", "user_claim": "sub", "token_policies": ["all"], "token_ttl": "1h"}
    await post("auth/jwt/role/all", role | {"bound_audiences": [names.pod_audience(side.fp8)]})
    await post("sys/mounts/certificates", {"type": "pki"})
    await post("certificates/root/generate/internal", {"common_name": "x", "key_type": "ec", "key_bits": 256})
    leased = {"allow_any_name": True, "generate_lease": True, "ttl": "1h", "key_type": "ec", "key_bits": 256}
    await post("certificates/roles/leased", leased)
    side.lease = (await post("certificates/issue/leased", {"common_name": "canary"}))["lease_id"]


async def settle(side: Side) -> None:
    """Log in through the chain, and wrap a secret."""
    answer = await side.login(side.apiserver.sign(side.claims()))
    assert answer.status == 200, answer.body
    side.token, side.accessor = answer.json["auth"]["client_token"], answer.json["auth"]["accessor"]
    async with side.pod() as pod:
        wrap = [("X-Vault-Wrap-TTL", "300")]
        wrapped = await pod.ask("GET", "/v1/secret/data/x", token=side.token, headers=wrap)
    side.wrapping = wrapped.json["wrap_info"]["token"]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def sides(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Side, Side]]:
    """Cluster A, the attacker, and cluster B."""
    chain = Chain()
    other = str(uuid.uuid4())
    apiserver = StandInApiServer(tmp_path_factory.mktemp("b"), other)
    try:
        await chain.start_openbao()
        await chain.register()
        await chain.cli("source", "register", "--fingerprint", other)
        await apiserver.start()
        await asyncio.gather(chain.start_beacon(), chain.start_bridge(*MANY_LOGINS), chain.start_apiserver())
        part, ports = chain.new_operator("--fingerprint", other, apiserver=apiserver)
        a = Side(chain, chain.fingerprint, chain.apiserver, chain.ports, chain.operator)
        b = Side(chain, other, apiserver, ports, part)
        for side in (a, b):
            side.part.start()
            await side.part.wait_until(lambda side=side: up(side), "connected")  # type: ignore[misc]  # bound
        async with administrator(chain) as admin:
            for side in (a, b):
                await furnish(side, admin)
        for side in (a, b):
            await settle(side)
        yield a, b
    finally:
        await apiserver.close()
        await chain.close()


async def up(side: Side) -> bool:
    return await side.chain.tunnels(side.ports) > 0


def renamed(text: str, a: Side, b: Side) -> str:
    """The lists of the gate's tests are about clusters aaaaaaaa and bbbbbbbb."""
    return text.replace("aaaaaaaa", a.fp8).replace("bbbbbbbb", b.fp8)


async def still_there(b: Side) -> None:
    """B is as it was: its secret is read through its own chain."""
    async with b.pod() as pod:
        answer = await pod.ask("GET", "/v1/secret/data/x", token=b.token)
    assert answer.json["data"]["data"] == {"v": b.canary}
    assert b.chain.bridge is not None
    assert '"reason":"rate_limit"' not in b.chain.bridge.log.read_text(), "what refuses is never the rate"


async def test_each_cluster_reads_its_own(sides: tuple[Side, Side]) -> None:
    for side in sides:
        await still_there(side)
    assert sides[0].pod_ca != sides[1].pod_ca


async def test_no_header_reaches_the_other_cluster(sides: tuple[Side, Side]) -> None:
    a, b = sides
    for headers in NAMESPACE_HEADERS:
        spelled = [(name, renamed(value, a, b)) for name, value in headers]
        for token in (a.token, b.token, ""):
            async with a.pod() as pod:
                answer = await pod.ask("GET", "/v1/secret/data/x", token=token, headers=spelled)
            assert b.canary.encode() not in answer.body
            assert (answer.status == 200) == (token == a.token), (spelled, answer.body)
    for name in ("Authorization", "Cookie", "X-Forwarded-For", "X-Original-URL", "X-Vault-Index"):
        async with a.pod() as pod:
            value = f"Bearer {b.token}" if name == "Authorization" else f"/v1/{b.namespace}/secret/data/x"
            answer = await pod.ask("GET", "/v1/secret/data/x", token="", headers=[(name, value)])
        assert b.canary.encode() not in answer.body
    await still_there(b)


async def test_no_path_or_encoding_reaches_the_other_cluster(sides: tuple[Side, Side]) -> None:
    a, b = sides
    own = "/v1/secret/data/x"
    spellings = [renamed(path, a, b) for path in PATHS if path != own]
    spellings += [
        f"/v1/%63loudtaser/{b.fp8}/secret/data/x",
        f"/v1/secret/data/x%3Fnamespace={b.namespace}",
        f"/v1/{b.fp8}%2Fsecret/data/x",
        f"/v1/secret/data/%C0%AE%C0%AE/{b.fp8}",
        f"/v1/secret/data/\uff0e\uff0e/{b.fp8}".encode().decode("latin-1"),
        f"/v1/ns/{b.namespace}/secret/data/x",
    ]
    for path in spellings:
        for method in ("GET", "LIST", "PUT", "DELETE"):
            async with a.pod() as pod:
                body: dict[str, Any] | None = {} if method == "PUT" else None
                answer = await pod.ask(method, path, token=a.token, body=body)
            assert b.canary.encode() not in answer.body, path
            assert answer.status >= 400 or a.fp8 in path, (method, path, answer.body)
    async with a.pod() as pod:
        assert (await pod.ask("GET", own, token=b.token)).status == 403
    await still_there(b)


async def test_no_smuggled_request_reaches_the_other_cluster(sides: tuple[Side, Side]) -> None:
    a, b = sides
    inner = (
        f"GET /v1/secret/data/x HTTP/1.1\r\nHost: x\r\nX-Vault-Token: {b.token}\r\n"
        f"X-Vault-Namespace: {b.namespace}\r\n\r\n"
    ).encode()
    length = f"Content-Length: {len(inner)}\r\n".encode()
    head = b"POST /v1/secret/data/y HTTP/1.1\r\nHost: x\r\nX-Vault-Token: " + a.token.encode() + b"\r\n"
    outers = [
        head + length + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner,
        head + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + inner,
        head + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + inner,
        head + b"Transfer-Encoding: chunked\r\n\r\n0;x=\n\r\n\r\n" + inner,
        head + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n" + inner,
        head + b"Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n" + inner,
        head + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX-Vault-Namespace: " + inner,
        head + b"Content-Length: +0\r\n\r\n" + inner,
        head + b"Content-Length: 0, 0\r\n\r\n" + inner,
        head + b"Content-Length: 0\nX: y\r\n\r\n" + inner,
        head + length + b"Content-Length: 0\r\n\r\n" + inner,
        head + length + b"\r\n" + inner,
    ]
    for outer in outers:
        async with a.pod() as pod:
            pod.writer.write(outer + b"GET /v1/sys/nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            said = await pod.rest()
        assert b.canary.encode() not in said, outer
        assert re.match(rb"HTTP/1\.1 [45]", said), (outer, said)
    await still_there(b)


async def test_nothing_of_the_other_cluster_is_unwrapped_renewed_or_revoked(sides: tuple[Side, Side]) -> None:
    a, b = sides
    suffix = a.token.rpartition(".")[2]
    stem = b.wrapping.rpartition(".")[0]
    bodies: list[tuple[str, dict[str, Any]]] = []
    for token in (
        b.wrapping,
        stem,
        f"{stem}.{suffix}",
        f"{b.wrapping}.{suffix}",
        f"{b.wrapping}/../{suffix}",
    ):
        bodies += [(f"sys/wrapping/{verb}", {"token": token}) for verb in ("unwrap", "lookup", "rewrap")]
    bodies += [
        ("sys/leases/lookup", {"lease_id": b.lease}),
        ("sys/leases/renew", {"lease_id": b.lease, "increment": 1}),
        ("sys/leases/revoke", {"lease_id": b.lease}),
        ("auth/token/revoke-accessor", {"accessor": b.accessor}),
        ("auth/token/lookup-accessor", {"accessor": b.accessor}),
        ("auth/token/renew-self", {"token": b.token}),
        ("auth/token/revoke-self", {"token": b.token}),
        ("auth/token/lookup", {"token": b.token}),
    ]
    for path, body in bodies:
        for token in (a.token, b.token, b.wrapping):
            async with a.pod() as pod:
                answer = await pod.ask("POST", f"/v1/{path}", token=token, body=body)
            assert answer.status >= 400, (path, answer.body)
            assert b.canary.encode() not in answer.body
            for secret in (b.token, b.wrapping, a.token):
                assert secret.encode() not in answer.body
    await still_there(b)
    async with administrator(b.chain) as admin:
        kept = await admin.request(
            "POST", "sys/leases/lookup", namespace=b.namespace, body={"lease_id": b.lease}
        )
        assert kept["data"]["id"] == b.lease
    async with b.pod() as pod:
        unwrapped = await pod.ask(
            "POST", "/v1/sys/wrapping/unwrap", token=b.token, body={"token": b.wrapping}
        )
    assert b.canary.encode() in unwrapped.body, "B itself still can"


async def test_a_token_signed_by_the_other_clusters_key_logs_nobody_in(sides: tuple[Side, Side]) -> None:
    """The key is recorded, at another cluster: that must not help."""
    a, b = sides
    assert a.chain.bridge is not None
    kid = a.apiserver.jwks()["keys"][0]["kid"]
    tokens = {
        "as it is": b.apiserver.sign(b.claims()),
        "for A's audience": b.apiserver.sign(b.claims(names.pod_audience(a.fp8))),
        "for both": b.apiserver.sign(b.claims() | {"aud": [names.pod_audience(side.fp8) for side in (a, b)]}),
        "under A's kid": b.apiserver.sign(b.claims(names.pod_audience(a.fp8)), header={"kid": kid}),
        "A's own for B": a.apiserver.sign(a.claims(names.pod_audience(b.fp8))),
    }
    before = len(a.chain.bridge.log.read_text())
    for how, token in tokens.items():
        answer = await a.login(token)
        assert answer.status == 403, (how, answer.body)
        assert token.encode() not in answer.body
    log = a.chain.bridge.log

    async def audited() -> bool:
        return log.read_text()[before:].count('"verdict":"refused"') == len(tokens)

    await eventually(audited, "each refusal is in the audit, which is written beside the answers")
    logged = log.read_text()[before:]
    for token in tokens.values():
        assert token not in logged
        assert token.rpartition(".")[2] not in logged
    assert (await b.login(tokens["as it is"])).status == 200, "at its own cluster it is good"


async def test_an_unknown_key_at_one_cluster_never_makes_the_bridge_ask_another(
    sides: tuple[Side, Side],
) -> None:
    a, _ = sides
    asked = [sum("/openid/v1/jwks" in line for line in side.apiserver.audit) for side in sides]
    began = time.monotonic()
    for _ in range(10):
        answer = await a.login(SigningKey().sign(a.claims()))
        assert answer.status == 403
    now = [sum("/openid/v1/jwks" in line for line in side.apiserver.audit) for side in sides]
    windows = 2 + (time.monotonic() - began) // AT_MOST_EVERY
    assert now[0] - asked[0] <= windows, "and its own not without end"
    assert now[1] == asked[1]


async def test_an_operator_cannot_come_back_as_another_cluster(
    sides: tuple[Side, Side], tmp_path: Path
) -> None:
    """A's API server signs whatever it likes; with B's public tunnel CA it knows B's return room too."""
    a, b = sides
    thief_server = StandInApiServer(tmp_path, b.fingerprint)
    thief_server._keys = a.apiserver._keys
    await thief_server.start()
    for name in (names.TRUST_CONFIGMAP, names.POD_CA_CONFIGMAP):
        thief_server.put_config_map(
            names.SYSTEM_NAMESPACE, name, b.apiserver.config_map(names.SYSTEM_NAMESPACE, name)
        )
    try:
        thief, ports = a.chain.new_operator("--fingerprint", b.fingerprint, apiserver=thief_server)
        thief.start()

        async def denied() -> bool:
            return "denied" in thief.log.read_text()

        await eventually(denied, "the bridge refuses")
        assert await a.chain.tunnels(ports) == 0
        await thief.stop()
    finally:
        await thief_server.close()


async def test_deregistering_one_cluster_leaves_the_other_alone(sides: tuple[Side, Side]) -> None:
    """Last in this file: it ends A."""
    a, b = sides
    async with b.pod() as pod:
        assert (await pod.ask("GET", "/v1/secret/data/x", token=b.token)).status == 200
        await a.chain.cli("source", "deregister", "--fingerprint", a.fingerprint)

        async def closed() -> bool:
            return await a.chain.tunnels(a.ports) == 0

        await eventually(closed, "A's tunnels close")
        answer = await pod.ask("GET", "/v1/secret/data/x", token=b.token)
        assert answer.json["data"]["data"] == {"v": b.canary}, "on the same connection as before"
