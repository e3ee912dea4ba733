"""The whole chain before a server without namespaces: real processes, two clusters on one bridge.

Applications, wrapper, broker, beacon and the plain client are the same as anywhere; only OpenBao's side of
the bridge differs.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cloudtaser.demo import setup
from cloudtaser.demo.apiserver import ISSUER, StandInApiServer
from cloudtaser.demo.chain import Chain, OperatorPorts
from cloudtaser.demo.postgres import PostgresServer
from cloudtaser.demo.process import PartProcess
from cloudtaser.demo.tokens import service_account_claims
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.form import Form
from cloudtaser.openbao.layout import Space
from cloudtaser.wire import names
from cloudtaser.wire.hashes import short_fingerprint
from tests.chain_attackers import administrator, raw_pod
from tests.chain_tools import delivered, eventually, run_wrapped
from tests.integration.bridge_world import Pod

pytestmark = pytest.mark.asyncio(loop_scope="session")

CANARY = "canary-of-b-5c1f0a"


@dataclass
class Other:
    """Cluster B: its own API server, operator and broker, at the chain's bridge."""

    chain: Chain
    fingerprint: str
    apiserver: StandInApiServer
    part: PartProcess
    ports: OperatorPorts
    token: str = ""

    @property
    def space(self) -> Space:
        return self.chain.layout.space(self.fingerprint)

    @asynccontextmanager
    async def pod(self) -> AsyncIterator[Pod]:
        config = self.apiserver.config_map(names.SYSTEM_NAMESPACE, names.POD_CA_CONFIGMAP)
        async with raw_pod(self.chain, broker_port=self.ports.broker, pod_ca=config["pod-ca.crt"]) as pod:
            yield pod

    def jwt(self) -> str:
        return self.apiserver.sign(
            service_account_claims(
                issuer=ISSUER,
                namespace="shop",
                service_account="web",
                service_account_uid="8a4b5c1e-0000-4000-8000-000000000001",
                audiences=[names.pod_audience(short_fingerprint(self.fingerprint))],
                issued_at=int(time.time()),
                seconds=600,
                pod=self.apiserver.add_pod("shop", "web-1", "web"),
            )
        )


async def surroundings(admin: OpenBao) -> dict[str, Any]:
    """Everything of the server that a registration could leave something in."""
    policies = await admin.list("sys/policies/acl")
    texts = {name: (await admin.find(f"sys/policies/acl/{name}") or {})["policy"] for name in policies}
    mounts = (await admin.request("GET", "sys/mounts"))["data"]
    logins = (await admin.request("GET", "sys/auth"))["data"]
    return {
        "mounts": {path: info["uuid"] for path, info in mounts.items()},
        "auth": {path: info["uuid"] for path, info in logins.items()},
        "policies": {
            name: json.loads(text) if text.startswith("{") else text for name, text in texts.items()
        },
        "token roles": await admin.list("auth/token/roles"),
        "clusters": await admin.list("cloudtaser/metadata/clusters"),
        "aliases": await admin.list("identity/entity-alias/id"),
    }


@dataclass
class World:
    """The chain of cluster A with B beside it, and the server as it was before B came."""

    chain: Chain
    b: Other
    admin: OpenBao
    before_b: dict[str, Any]

    @property
    def space(self) -> Space:
        return self.chain.space

    async def write(self, path: str, value: str) -> None:
        await setup.write_secret(self.admin, path, {"value": value}, mount=self.space.secret)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    chain = Chain(layout=Form.MOUNTS)
    other = str(uuid.uuid4())
    apiserver = StandInApiServer(tmp_path_factory.mktemp("b"), other)
    try:
        await chain.start()
        async with administrator(chain) as admin:
            before = await surroundings(admin)
            await chain.cli("source", "register", "--fingerprint", other)
            await apiserver.start()
            part, ports = chain.new_operator("--fingerprint", other, apiserver=apiserver)
            b = Other(chain, other, apiserver, part, ports)
            part.start()

            async def up() -> bool:
                return await chain.tunnels(ports) > 0

            await part.wait_until(up, "connected")
            await setup.write_secret(admin, "shop/db", {"value": CANARY}, mount=b.space.secret)
            async with b.pod() as pod:
                body = {"role": "default", "jwt": b.jwt()}
                login = await pod.ask("POST", "/v1/auth/jwt/login", body=body)
            b.token = login.json["auth"]["client_token"]
            yield World(chain, b, admin, before)
    finally:
        await apiserver.close()
        await chain.close()


async def test_a_secret_is_delivered_to_a_program_that_knows_nothing_of_it(world: World) -> None:
    await world.write("shop/app", "for A's own")
    found = await delivered(world.chain, "secret/data/shop/app", "value=VALUE")
    assert found["VALUE"] == "for A's own"


async def test_a_refusal_names_the_path_asked_for_and_the_grant_that_opens_it(world: World) -> None:
    chain = world.chain
    await world.write("bank/rates", "4 %")
    environment = {"CLOUDTASER_SECRET_PATHS": "secret/data/bank/rates", "CLOUDTASER_ENV_MAP": "value=RATE"}
    refused = await run_wrapped(chain.pod("shop", "cashier"), ["/bin/true"], environment)
    assert refused.status == 77
    assert "--path secret/data/bank/rates" in refused.errors
    assert "cloudtaser-" + short_fingerprint(chain.fingerprint) not in refused.errors
    grant = [chain.fingerprint, "--namespace", "shop", "--serviceaccount", "cashier"]
    await chain.cli("source", "allow", *grant, "--path", "secret/data/bank/rates")

    async def reads() -> bool:
        result = await run_wrapped(chain.pod("shop", "cashier"), ["/usr/bin/printenv", "RATE"], environment)
        return (result.status, result.output) == (0, "4 %\n")

    await eventually(reads, "the bridge sees the grant at its next poll")
    assert (await run_wrapped(chain.pod("shop", "web"), ["/bin/true"], environment)).status == 77
    await chain.cli("source", "deny", *grant)
    assert (await run_wrapped(chain.pod("shop", "cashier"), ["/bin/true"], environment)).status == 77


async def test_the_unmodified_client_reads_writes_and_lists(world: World, tmp_path: Path) -> None:
    chain, space = world.chain, world.space
    await world.write("shop/bao", "through the chain")
    pod_ca = tmp_path / "pod-ca.crt"
    pod_ca.write_text(chain.pod_ca())
    environment = {
        "BAO_ADDR": f"https://{chain.broker_address}",
        "BAO_CACERT": str(pod_ca),
        "BAO_TLS_SERVER_NAME": names.BRIDGE_NAME,
        "HOME": str(tmp_path),
    }

    async def bao(*arguments: str) -> str:
        return (await chain.bao(*arguments, environment=environment)).output.strip()

    jwt = f"jwt=@{chain.pod('shop').token_file}"
    environment["BAO_TOKEN"] = await bao("write", "-field=token", "auth/jwt/login", "role=default", jwt)
    assert await bao("kv", "get", "-field=value", "-mount=secret", "shop/bao") == "through the chain"
    assert await bao("kv", "get", "-field=value", "secret/shop/bao") == "through the chain"
    assert await bao("token", "capabilities", "secret/data/shop/bao") == "read"
    # an administrator's token for this space, with a policy of his own
    rights = {f"{space.secret}/*": {"capabilities": ["create", "read", "update", "list"]}}
    rights |= {"auth/token/lookup-self": {"capabilities": ["read"]}}
    body: dict[str, Any] = {"policy": json.dumps({"path": rights})}
    await world.admin.request("POST", "sys/policies/acl/clerk", body=body)
    meta = {"cloudtaser-space": space.name}
    body = {"policies": ["clerk"], "meta": meta, "no_parent": True}
    made = await world.admin.request("POST", "auth/token/create", body=body)
    environment["BAO_TOKEN"] = made["auth"]["client_token"]
    await bao("kv", "put", "-mount=secret", "desk/one", "value=1")
    await bao("kv", "put", "-mount=secret", "desk/two", "value=2")
    assert json.loads(await bao("kv", "list", "-format=json", "-mount=secret", "desk")) == ["one", "two"]
    assert await bao("kv", "get", "-field=value", "-mount=secret", "desk/two") == "2"
    stored = await world.admin.kv_read(space.secret, "desk/two")
    assert stored is not None
    wrapped = await bao("read", "-wrap-ttl=60", "-field=wrapping_token", "secret/data/desk/one")
    unwrapped = json.loads(await bao("unwrap", "-format=json", wrapped))
    assert unwrapped["data"]["data"] == {"value": "1"}
    await world.admin.request("DELETE", "sys/policies/acl/clerk")


@pytest.mark.slow
async def test_a_database_account_lives_as_long_as_its_lease_is_renewed(world: World, tmp_path: Path) -> None:
    chain, admin, mount = world.chain, world.admin, world.space.path("database")
    directory = chain.directory / "postgres"
    directory.mkdir()
    postgres = PostgresServer(directory)
    await asyncio.to_thread(postgres.start)
    wrapper = None
    try:
        await setup.offer_database(admin, postgres, mount=mount, lease_seconds=3)
        grant = [chain.fingerprint, "--namespace", "shop", "--serviceaccount", "ledger"]
        await chain.cli("source", "allow", *grant, "--path", "database/creds/shop")
        environment = {
            "CLOUDTASER_SECRET_PATHS": "database/creds/shop",
            "CLOUDTASER_ENV_MAP": "username=PGUSER,password=PGPASSWORD",
        }

        async def granted() -> bool:
            pod = chain.pod("shop", "ledger")
            return (await run_wrapped(pod, ["/usr/bin/printenv", "PGUSER"], environment)).status == 0

        await eventually(granted, "the bridge sees the grant")
        found = tmp_path / "account"
        script = f'echo "$PGUSER" > {found}.new; mv {found}.new {found}; exec sleep 300'
        wrapper = chain.wrap(chain.pod("shop", "ledger"), ["/bin/sh", "-c", script], environment)
        wrapper.start()

        async def renewed() -> bool:
            for key in await admin.list(f"sys/leases/lookup/{mount}/creds/shop"):
                body = {"lease_id": f"{mount}/creds/shop/{key}"}
                lease = (await admin.request("POST", "sys/leases/lookup", body=body))["data"]
                if lease["last_renewal"]:
                    return True
            return False

        await eventually(renewed, "the wrapper renews by the lease id that it was given")
        account = found.read_text().strip()
        assert account in await asyncio.to_thread(postgres.run, "select rolname from pg_roles")
    finally:
        if wrapper is not None:
            await wrapper.stop()
        await chain.cli("source", "deny", chain.fingerprint, "-n", "shop", "--serviceaccount", "ledger")
        await admin.request("DELETE", f"sys/mounts/{mount}")
        await asyncio.to_thread(postgres.stop)


async def test_a_pods_token_outlives_the_bridge_that_gave_it(world: World) -> None:
    chain = world.chain
    await world.write("shop/kept", "kept")
    async with raw_pod(chain) as pod:
        body = {"role": "default", "jwt": chain.pod("shop").token_file.read_text()}
        token = (await pod.ask("POST", "/v1/auth/jwt/login", body=body)).json["auth"]["client_token"]
    assert chain.bridge is not None
    await chain.bridge.kill()
    chain.bridge.start()

    async def served() -> bool:
        return await chain.tunnels() > 0 and await chain.tunnels(world.b.ports) > 0

    await eventually(served, "the bridge is back")
    async with raw_pod(chain) as pod:
        answer = await pod.ask("GET", "/v1/secret/data/shop/kept", token=token)
    assert answer.json["data"]["data"] == {"value": "kept"}


async def test_nothing_of_one_cluster_opens_to_the_other(world: World) -> None:
    chain, b = world.chain, world.b
    fp8 = short_fingerprint(b.fingerprint)
    async with b.pod() as pod:
        wrap = [("X-Vault-Wrap-TTL", "120")]
        wrapped = await pod.ask("GET", "/v1/secret/data/shop/db", token=b.token, headers=wrap)
        inner = wrapped.json["wrap_info"]["token"]
    async with raw_pod(chain) as pod:
        body = {"role": "default", "jwt": chain.pod("shop").token_file.read_text()}
        own = (await pod.ask("POST", "/v1/auth/jwt/login", body=body)).json["auth"]["client_token"]
    lease = f"cloudtaser-{fp8}/database/creds/shop/{'a' * 24}"
    attempts: list[tuple[str, str, str, dict[str, Any] | None]] = [
        ("GET", "secret/data/shop/db", b.token, None),
        ("GET", "auth/token/lookup-self", b.token, None),
        ("POST", "auth/token/revoke-self", b.token, {}),
        ("POST", "auth/token/renew-self", own, {"token": b.token}),
        ("GET", f"cloudtaser-{fp8}/secret/data/shop/db", own, None),
        ("GET", f"cloudtaser-{fp8}/secret/data/shop/db", b.token, None),
        ("POST", f"auth/cloudtaser-{fp8}-jwt/login", "", {"role": "default", "jwt": b.jwt()}),
        ("POST", "auth/jwt/login", "", {"role": "default", "jwt": b.jwt()}),
        ("POST", "sys/leases/renew", own, {"lease_id": lease}),
        ("POST", "sys/leases/lookup", own, {"lease_id": lease}),
        ("POST", "sys/wrapping/lookup", own, {"token": inner}),
        ("POST", "sys/wrapping/unwrap", own, {"token": inner}),
        ("POST", "sys/wrapping/unwrap", inner, {}),
    ]
    for method, path, token, sent in attempts:
        async with raw_pod(chain) as pod:
            answer = await pod.ask(method, f"/v1/{path}", token=token, body=sent)
        assert answer.status == 403, (path, answer.body)
        assert CANARY.encode() not in answer.body
        assert answer.json["errors"][0]
    async with b.pod() as pod:
        kept = await pod.ask("POST", "/v1/sys/wrapping/unwrap", token=inner, body={})
        assert kept.json["data"]["data"] == {"value": CANARY}, "B itself still can"
        assert (await pod.ask("GET", "/v1/secret/data/shop/db", token=b.token)).status == 200


async def test_a_deregistered_cluster_leaves_nothing_on_the_server(world: World) -> None:
    """Last in this file: it ends B."""
    chain, b = world.chain, world.b
    before = world.before_b
    await chain.cli("source", "deregister", "--fingerprint", b.fingerprint, "--purge")

    async def closed() -> bool:
        return await chain.tunnels(b.ports) == 0

    await eventually(closed, "B's tunnels close")
    after = await surroundings(world.admin)
    gone, left = set(before["aliases"]), set(after["aliases"])
    accessors = {
        (await world.admin.find(f"identity/entity-alias/id/{alias}") or {}).get("mount_accessor")
        for alias in left - gone
    }
    own = await world.admin.find(f"sys/auth/{world.space.jwt}")
    assert own is not None
    assert accessors <= {own["accessor"]}, "of those who logged in meanwhile only A's are known"
    assert {name: value for name, value in after.items() if name != "aliases"} == {
        name: value for name, value in before.items() if name != "aliases"
    }
    async with raw_pod(chain) as pod:
        assert (await pod.ask("GET", "/v1/sys/health")).status == 200, "and A goes on"
