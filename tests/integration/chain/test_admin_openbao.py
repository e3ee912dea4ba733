"""An administrator's own OpenBao token through the admin stream: the plain API of one space, no more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cloudtaser.demo import setup
from cloudtaser.demo.chain import Chain
from cloudtaser.demo.command import CommandResult
from cloudtaser.demo.search import occurrences
from cloudtaser.errors import UnavailableError
from cloudtaser.net.admin import AdminDoor
from cloudtaser.net.dial import Address
from cloudtaser.openbao.client import OpenBao
from cloudtaser.wire.opening import Kind
from tests.chain_attackers import administrator, raw_pod, space_of
from tests.chain_tools import audited
from tests.integration.chain.test_malicious_broker import rogue_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

EVERYTHING = {
    "path": {"*": {"capabilities": ["create", "read", "update", "delete", "list", "patch", "sudo"]}}
}


async def token_in(chain: Chain, namespace: str) -> str:
    """A token that may do everything in a namespace."""
    async with administrator(chain) as root:
        body = {"policy": json.dumps(EVERYTHING)}
        await root.request("POST", "sys/policies/acl/everything", namespace=namespace, body=body)
        made = await root.request(
            "POST",
            "auth/token/create",
            namespace=namespace,
            body={"policies": ["everything"], "no_parent": True, "ttl": "1h"},
        )
    return str(made["auth"]["client_token"])


class Bao:
    """The unmodified client, pointed at the broker's admin port."""

    def __init__(self, chain: Chain, directory: Path, token: str) -> None:
        self.chain = chain
        self.token = token
        pod_ca = directory / "pod-ca.crt"
        pod_ca.write_text(chain.pod_ca())
        door = AdminDoor(Address("127.0.0.1", chain.ports.admin), chain.pod_ca())
        self.environment = {
            "BAO_ADDR": f"https://127.0.0.1:{chain.ports.admin}",
            "BAO_CACERT": str(pod_ca),
            "BAO_TLS_SERVER_NAME": door.server_name,
            "BAO_TOKEN": token,
            "HOME": str(directory),
        }

    async def __call__(self, *arguments: str) -> CommandResult:
        return await self.chain.bao(*arguments, environment=self.environment)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def bao(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bao]:
    token = await token_in(chain, space_of(chain.fingerprint).namespace)
    yield Bao(chain, tmp_path_factory.mktemp("bao"), token)


async def test_bao_keeps_secrets_through_it(bao: Bao, admin: OpenBao) -> None:
    written = await bao(
        "kv", "put", "-format=json", "-mount=secret", "shop/by-hand", "password=hunter2", "note=a b"
    )
    assert json.loads(written.output)["data"]["version"] == 1
    read = await bao("kv", "get", "-format=json", "-mount=secret", "shop/by-hand")
    assert json.loads(read.output)["data"]["data"] == {"password": "hunter2", "note": "a b"}
    await bao("kv", "patch", "-mount=secret", "shop/by-hand", "note=c")
    listed = await bao("kv", "list", "-format=json", "-mount=secret", "shop")
    assert "by-hand" in json.loads(listed.output)
    about = await bao("kv", "metadata", "get", "-format=json", "-mount=secret", "shop/by-hand")
    assert json.loads(about.output)["data"]["current_version"] == 2
    found = await admin.kv_read("secret", "shop/by-hand")
    assert found is not None
    assert found.data == {"password": "hunter2", "note": "c"}
    await bao("kv", "delete", "-mount=secret", "shop/by-hand")
    assert await admin.kv_read("secret", "shop/by-hand") is None
    await bao("kv", "undelete", "-mount=secret", "-versions=2", "shop/by-hand")
    assert await admin.kv_read("secret", "shop/by-hand") is not None
    await bao("kv", "metadata", "delete", "-mount=secret", "shop/by-hand")
    assert await admin.kv_metadata("secret", "shop/by-hand") is None


async def test_bao_sees_its_token_and_how_the_space_is_set_up(bao: Bao) -> None:
    about = json.loads((await bao("token", "lookup", "-format=json")).output)["data"]
    assert about["policies"] == ["default", "everything"]
    assert "secret/" in json.loads((await bao("secrets", "list", "-format=json")).output)
    assert "jwt/" in json.loads((await bao("auth", "list", "-format=json")).output)
    assert "cloudtaser-default" in json.loads((await bao("policy", "list", "-format=json")).output)
    assert "secret/data/" in (await bao("policy", "read", "cloudtaser-default")).output
    assert "cloudtaser-operator" in json.loads((await bao("list", "-format=json", "auth/jwt/role")).output)
    assert (
        json.loads((await bao("read", "-format=json", "sys/seal-status")).output)["data"]["sealed"] is False
    )


@pytest.mark.parametrize(
    "command",
    [
        ["policy", "write", "evil", "-"],
        ["policy", "delete", "cloudtaser-default"],
        ["secrets", "enable", "-path=evil", "kv"],
        ["secrets", "disable", "secret"],
        ["auth", "enable", "userpass"],
        ["auth", "disable", "jwt"],
        ["token", "create"],
        ["operator", "seal"],
        ["namespace", "list"],
        ["namespace", "create", "evil"],
        ["list", "identity/entity/id"],
        ["read", "cubbyhole/x"],
        ["write", "-f", "pki-pod/root/generate/internal"],
        ["read", "pki-tunnel/cert/ca"],
        ["read", "auth/jwt/config"],
        ["write", "auth/jwt/config", "jwt_validation_pubkeys="],
        ["audit", "list"],
        ["read", "sys/plugins/catalog"],
        ["lease", "revoke", "-prefix", "auth/"],
        ["write", "sys/tools/random", "bytes=1"],
    ],
    ids=" ".join,
)
async def test_a_token_that_may_do_everything_cannot_do_this_from_here(bao: Bao, command: list[str]) -> None:
    with pytest.raises(UnavailableError, match=r"403|405|not let|400|404"):
        await bao(*command)
    async with administrator(bao.chain) as root:
        mounts = await root.request("GET", "sys/mounts", namespace=space_of(bao.chain.fingerprint).namespace)
    assert "secret/" in mounts["data"]
    assert "evil/" not in mounts["data"]


async def test_only_tokens_of_the_clusters_own_space_pass(chain: Chain, admin: OpenBao) -> None:
    await setup.write_secret(admin, "shop/own", {"value": "only for the space"})
    wider = {
        "root": chain.openbao.root_token.reveal_text(),
        "the namespace above": await token_in(chain, "cloudtaser"),
        "the root namespace": await token_in(chain, ""),
        "the bridge's": (chain.directory / "bridge-1.token").read_text(),
        "the bridge's second": (chain.directory / "bridge-1.admin.token").read_text(),
    }
    async with raw_pod(chain, broker_port=chain.ports.admin) as client:
        for whose, token in wider.items():
            for namespace in ("", "root", "cloudtaser", f"cloudtaser/{chain.fingerprint[:8]}"):
                headers = [("X-Vault-Namespace", namespace)] if namespace else []
                answer = await client.ask("GET", "/v1/secret/data/shop/own", token=token, headers=headers)
                assert answer.status == 403, (whose, namespace)
                assert b"only for the space" not in answer.body
        own = await token_in(chain, space_of(chain.fingerprint).namespace)
        answer = await client.ask(
            "GET", "/v1/secret/data/shop/own", token=own, headers=[("X-Vault-Namespace", "root")]
        )
        assert answer.status == 200


async def test_what_is_done_and_what_is_refused_is_in_the_audit_without_the_token(
    chain: Chain, bao: Bao
) -> None:
    assert chain.bridge is not None
    before = chain.bridge.log.stat().st_size
    async with raw_pod(chain, broker_port=chain.ports.admin) as client:
        await client.ask("GET", "/v1/sys/raw/core", token=bao.token)
        await client.ask("GET", "/v1/sys/auth", token=bao.token)
    log = (await audited(chain, '"path":"/v1/sys/auth"', after=before)).encode()
    lines: list[dict[str, Any]] = [json.loads(line) for line in log.splitlines() if b'"seq":' in line]
    (refused,) = [line for line in lines if line["path"] == "/v1/sys/raw/core"]
    assert (refused["verdict"], refused["via"], refused["status"]) == ("refused", "admin", 403)
    assert [line for line in lines if line["path"] == "/v1/sys/auth" and line["verdict"] == "allowed"]
    assert occurrences(log, {"token": bao.token.encode()}) == []


async def test_a_broker_that_opens_admin_streams_itself_gains_nothing(chain: Chain, admin: OpenBao) -> None:
    """It can start TLS like anybody, and is then somebody without a token."""
    rogue = await rogue_of(chain, "admin-rogue")
    stream = rogue.open(Kind.ADMIN, b"POST /migrate HTTP/1.1\r\nHost: x\r\n\r\n", peer="10.0.0.1:1")
    async with asyncio.timeout(20):
        await stream.ended
    assert b"HTTP/1.1" not in stream.data, "nothing is said before TLS is up"
    rogue.tunnel.abort()
    async with raw_pod(chain, broker_port=chain.ports.admin) as client:
        for method, target in (
            ("POST", "/migrate"),
            ("GET", "/v1/secret/data/shop/own"),
            ("GET", "/v1/sys/mounts"),
        ):
            assert (await client.ask(method, target)).status in (400, 401, 403)
