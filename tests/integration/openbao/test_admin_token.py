"""A bridge's second token, tried against a real OpenBao: it stores what nobody stored, and nothing else."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from cloudtaser.demo.openbao import DevServer
from cloudtaser.errors import CloudtaserError, NotAuthorisedError, UsageError
from cloudtaser.openbao.admin_token import make_admin_token
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.errors import CasConflict, OpenBaoError
from cloudtaser.openbao.layout import Layout
from tests.integration.openbao.support import (
    RegisteredCluster,
    new_fingerprint,
    put_secret,
    registered_cluster,
)

CANARY = "canary-5b1f0c77"


async def patch(client: OpenBao, path: str, body: dict[str, Any]) -> int:
    """The status of a PATCH, which wants a content type of its own."""
    assert client._token is not None
    headers = {
        "X-Vault-Token": client._token.reveal_text(),
        "X-Vault-Namespace": client.namespace,
        "Content-Type": "application/merge-patch+json",
    }
    async with (
        aiohttp.ClientSession() as session,
        session.patch(f"{client.address}/v1/{path}", headers=headers, json=body) as answer,
    ):
        return answer.status


async def admin_client(root: OpenBao, cluster: RegisteredCluster, *clusters: str) -> OpenBao:
    made = await make_admin_token(root, "eu-1", clusters=clusters, layout=cluster.layout)
    return OpenBao(root.address, token=made.token, namespace=cluster.space.namespace)


@pytest.mark.parametrize("limited", [False, True])
async def test_it_stores_a_new_secret_and_sees_its_version(
    root: OpenBao, cluster: RegisteredCluster, limited: bool
) -> None:
    clusters = (cluster.fingerprint,) if limited else ()
    async with await admin_client(root, cluster, *clusters) as admin:
        assert await admin.kv_write("secret", "shop/db", {"password": CANARY}, cas=0) == 1
        about = await admin.kv_metadata("secret", "shop/db")
        assert about is not None
        assert about["current_version"] == 1
        assert CANARY not in str(about)
        assert await admin.kv_metadata("secret", "shop/none") is None
    stored = await root.kv_read("secret", "shop/db", namespace=cluster.space.namespace)
    assert stored is not None
    assert stored.data == {"password": CANARY}


@pytest.mark.parametrize("limited", [False, True])
async def test_it_reads_no_value_and_changes_none(
    root: OpenBao, cluster: RegisteredCluster, limited: bool
) -> None:
    await put_secret(root, cluster, "shop/db")
    before = await root.kv_read("secret", "shop/db", namespace=cluster.space.namespace)
    assert before is not None
    other: dict[str, Any] = {"data": {"password": "overwritten"}}
    tries: list[tuple[str, str, dict[str, Any] | None]] = [
        ("GET", "secret/data/shop/db", None),
        ("GET", "secret/subkeys/shop/db", None),
        ("POST", "secret/data/shop/db", other),
        ("PUT", "secret/data/shop/db", other),
        ("POST", "secret/data/shop/db", other | {"options": {"cas": 0}}),
        ("POST", "secret/data/shop/db", other | {"options": {"cas": before.version}}),
        ("DELETE", "secret/data/shop/db", None),
        ("POST", "secret/delete/shop/db", {"versions": [before.version]}),
        ("POST", "secret/undelete/shop/db", {"versions": [before.version]}),
        ("POST", "secret/destroy/shop/db", {"versions": [before.version]}),
        ("POST", "secret/metadata/shop/db", {"max_versions": 1}),
        ("DELETE", "secret/metadata/shop/db", None),
        ("LIST", "secret/metadata/shop", None),
        ("GET", "secret/config", None),
        ("POST", "secret/config", {"max_versions": 1}),
    ]
    clusters = (cluster.fingerprint,) if limited else ()
    async with await admin_client(root, cluster, *clusters) as admin:
        for method, path, body in tries:
            with pytest.raises(OpenBaoError) as caught:
                await admin.request(method, path, body=body)
            assert isinstance(caught.value, NotAuthorisedError | CasConflict), (method, path, caught.value)
        assert await patch(admin, "secret/data/shop/db", other) == 403
    after = await root.kv_read("secret", "shop/db", namespace=cluster.space.namespace)
    assert after == before


@pytest.mark.parametrize(
    "path",
    [
        "transit/keys/x",
        "transit/decrypt/x",
        "pki-pod/sign/bridge-pod",
        "pki-tunnel/sign/broker",
        "auth/jwt/config",
        "auth/jwt/role/default",
        "auth/token/create",
        "sys/policies/acl/evil",
        "sys/mounts/evil",
        "identity/entity",
        "database/config/x",
    ],
)
async def test_it_reaches_nothing_but_the_secrets_engine(
    root: OpenBao, cluster: RegisteredCluster, path: str
) -> None:
    async with await admin_client(root, cluster) as admin:
        for method in ("GET", "POST", "DELETE"):
            with pytest.raises(NotAuthorisedError):
                await admin.request(method, path, body={} if method == "POST" else None)


async def test_the_records_are_not_in_its_reach(root: OpenBao, cluster: RegisteredCluster) -> None:
    layout = cluster.layout
    async with await admin_client(root, cluster) as admin:
        for record in (*layout.cluster_records(cluster.fingerprint), layout.bridge("eu-1")):
            for method in ("GET", "POST"):
                with pytest.raises(NotAuthorisedError):
                    await admin.request(
                        method,
                        f"{layout.state_mount}/data/{record}",
                        namespace=layout.system_namespace,
                        body={"data": {}} if method == "POST" else None,
                    )


async def test_limited_to_one_cluster_it_stores_nothing_in_another(server: DevServer, root: OpenBao) -> None:
    mine = await registered_cluster(server, root)
    theirs = await registered_cluster(server, root, mine.layout)
    async with await admin_client(root, mine, mine.fingerprint) as admin:
        await admin.kv_write("secret", "shop/a", {"v": "1"}, cas=0)
        with pytest.raises(NotAuthorisedError):
            await admin.kv_write("secret", "shop/a", {"v": "1"}, cas=0, namespace=theirs.space.namespace)


async def test_it_is_a_periodic_orphan_with_this_one_policy(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    made = await make_admin_token(root, "eu-1", layout=cluster.layout, cidrs=["127.0.0.0/8"])
    async with OpenBao(root.address, token=made.token) as admin:
        about = await admin.lookup_self()
    assert about["orphan"]
    assert about["renewable"]
    assert about["creation_ttl"] == 3600
    assert about["policies"] == ["cloudtaser-admin-proxy"]
    assert about["bound_cidrs"] == ["127.0.0.0/8"]


async def test_made_again_it_changes_no_policy_and_dry_it_makes_none(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    dry = await make_admin_token(root, "eu-1", layout=cluster.layout, dry_run=True)
    assert not dry.token
    first = await make_admin_token(root, "eu-1", layout=cluster.layout)
    second = await make_admin_token(root, "eu-1", layout=cluster.layout)
    assert first.token != second.token
    assert [action.why for action in second.actions if action.changed] == ["make the admin token"]


async def test_bad_names_and_clusters_are_refused(root: OpenBao, layout: Layout) -> None:
    with pytest.raises(UsageError, match="not a name for a bridge"):
        await make_admin_token(root, "EU 1", layout=layout)
    with pytest.raises(CloudtaserError, match="not registered"):
        await make_admin_token(root, "eu-1", clusters=[new_fingerprint()], layout=layout)
