"""A server without namespaces: the same promises, kept by mounts in the root and policies alone.

The real OpenBao has namespaces; here nobody uses them, which is all that HashiCorp Vault's community edition
differs in as far as cloudtaser is concerned.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudtaser.demo.openbao import DevServer, start_dev
from cloudtaser.errors import CloudtaserError, NotAuthorisedError, UsageError
from cloudtaser.openbao.bridge_login import make_bridge_login
from cloudtaser.openbao.bridge_token import make_bridge_token
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.clusters import list_clusters, show
from cloudtaser.openbao.deregistration import deregister
from cloudtaser.openbao.errors import OpenBaoError
from cloudtaser.openbao.form import Form
from cloudtaser.openbao.grants import allow, deny
from cloudtaser.openbao.layout import Layout
from cloudtaser.openbao.pki import PkiRole, new_key, sign
from cloudtaser.openbao.records import BridgeRecord, Initialized, Reads, Records
from cloudtaser.openbao.registration import register
from cloudtaser.openbao.spaces import find_space, give, leased_prefixes
from cloudtaser.openbao.steps import Steps
from cloudtaser.openbao.suspension import resume, suspend
from cloudtaser.secret import Secret
from cloudtaser.wire.names import bridge_uri
from tests.integration.openbao.support import (
    DyingClient,
    Killed,
    RegisteredCluster,
    may,
    new_fingerprint,
    put_secret,
    registered_cluster,
)

MOUNTS = Layout(form=Form.MOUNTS)
INITIALIZED = Initialized("2026-01-01T00:00:00Z", "b", {"keys": []}, "iss", "ca", "sub", "00")
SHARED = "secret/data/common/db"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevServer]:
    running = start_dev(Path(tmp_path_factory.mktemp("mounts")))
    yield running
    running.stop()


@pytest.fixture
async def root(server: DevServer) -> AsyncIterator[OpenBao]:
    async with OpenBao(server.address, token=server.root_token) as client:
        yield client


@pytest.fixture
async def fresh(tmp_path: Path) -> AsyncIterator[OpenBao]:
    """A server that nobody has touched."""
    running = start_dev(tmp_path / "fresh")
    async with OpenBao(running.address, token=running.root_token) as client:
        yield client
    running.stop()


@pytest.fixture
async def cluster(server: DevServer, root: OpenBao) -> RegisteredCluster:
    return await registered_cluster(server, root, MOUNTS)


async def reads(cluster: RegisteredCluster, client: OpenBao, path: str) -> bool:
    try:
        return await client.kv_read(cluster.space.secret, path) is not None
    except NotAuthorisedError:
        return False


async def surroundings(root: OpenBao) -> dict[str, Any]:
    """All of the server that a registration could leave something in."""
    policies = await root.list("sys/policies/acl")
    return {
        "mounts": await uuids(root, "sys/mounts"),
        "auth": await uuids(root, "sys/auth"),
        "policies": [
            (name, (await root.find(f"sys/policies/acl/{name}") or {})["policy"]) for name in policies
        ],
        "token roles": await root.list("auth/token/roles"),
        "entities": await root.list("identity/entity/id"),
        "aliases": await root.list("identity/entity-alias/id"),
        "clusters": await Records(root, MOUNTS).clusters(),
    }


async def uuids(root: OpenBao, path: str) -> dict[str, str]:
    return {mount: info["uuid"] for mount, info in (await root.request("GET", path))["data"].items()}


# Which layout


async def test_a_server_with_namespaces_gets_them_unless_the_first_registration_says_otherwise(
    fresh: OpenBao,
) -> None:
    assert (await Layout.detect(fresh)).form is Form.NAMESPACES
    await register(fresh, new_fingerprint(), form=Form.MOUNTS)
    assert (await Layout.detect(fresh)).form is Form.MOUNTS
    assert not (await register(fresh, (await Records(fresh, MOUNTS).clusters())[0])).changed
    with pytest.raises(UsageError, match="layout mounts already"):
        await register(fresh, new_fingerprint(), form=Form.NAMESPACES)
    await register(fresh, new_fingerprint(), form=Form.MOUNTS)


async def test_a_server_that_holds_namespaces_is_not_given_mounts(fresh: OpenBao) -> None:
    await register(fresh, new_fingerprint())
    with pytest.raises(UsageError, match="layout namespaces already") as refused:
        await register(fresh, new_fingerprint(), form=Form.MOUNTS)
    assert "--layout" in refused.value.diagnostic()
    assert await fresh.find("sys/mounts/cloudtaser") is None


async def test_something_else_mounted_in_the_records_place_is_not_touched(fresh: OpenBao) -> None:
    await fresh.request("POST", "sys/mounts/cloudtaser", body={"type": "transit"})
    with pytest.raises(CloudtaserError, match="something other than kv version 2"):
        await register(fresh, new_fingerprint())


async def test_everybody_who_holds_a_token_of_cloudtasers_tells_the_layout(
    server: DevServer, root: OpenBao, cluster: RegisteredCluster
) -> None:
    made = await make_bridge_token(root, "eu-9", clusters=[cluster.fingerprint])
    async with OpenBao(server.address, token=made.token) as bridge:
        assert (await Layout.detect(bridge)).form is Form.MOUNTS
    login = await make_bridge_login(root, "eu-8", clusters=[cluster.fingerprint])
    credentials = {"role_id": login.role_id, "secret_id": login.secret_id.reveal_text()}
    async with OpenBao(server.address) as client:
        answer = await client.request("POST", f"auth/{login.mount}/login", body=credentials)
        client.set_token(Secret(answer["auth"]["client_token"]))
        assert (await Layout.detect(client)).form is Form.MOUNTS
    operator_role = cluster.space.role("cloudtaser-operator")
    async with await cluster.log_in(operator_role, cluster.operator_token()) as operator:
        assert (await Layout.detect(operator)).form is Form.MOUNTS


async def test_in_namespaces_the_same_holds(tmp_path: Path, fresh: OpenBao) -> None:
    fingerprint = new_fingerprint()
    await register(fresh, fingerprint)
    made = await make_bridge_token(fresh, "eu-9", clusters=[fingerprint])
    async with OpenBao(fresh.address, token=made.token) as bridge:
        assert (await Layout.detect(bridge)).form is Form.NAMESPACES


# Registration


async def test_a_registration_lies_in_mounts_that_carry_the_clusters_name(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    view = await show(root, cluster.fingerprint)
    recorded, state, layout = view.registered, view.state, view.layout
    assert (layout.form, state.state) == (Form.MOUNTS, "registered")
    assert recorded.namespace == ""
    begin = f"cloudtaser-{cluster.fp8}"
    assert set(recorded.mounts) == {
        *(f"{begin}/{name}" for name in ("secret", "transit", "pki-tunnel", "pki-pod")),
        f"auth/{begin}-jwt",
    }
    stored = await root.kv_read("cloudtaser", f"clusters/{cluster.fingerprint}/registered")
    assert stored is not None
    policies = recorded.policies
    assert set(policies) == {
        f"cloudtaser-default_{cluster.fp8}",
        f"cloudtaser-operator_{cluster.fp8}",
    }
    assert await find_space(root, MOUNTS, cluster.fingerprint) == cluster.fp8
    assert not (await register(root, cluster.fingerprint)).changed


@pytest.mark.slow
async def test_a_registration_killed_after_any_request_is_whole_after_another_run(
    server: DevServer, root: OpenBao
) -> None:
    async with DyingClient(server, dies_after=0) as counting:
        await register(counting, new_fingerprint(), form=Form.MOUNTS)
    for last in range(1, counting.requests, 3):
        fingerprint = new_fingerprint()
        async with DyingClient(server, dies_after=last) as dying:
            with pytest.raises(Killed):
                await register(dying, fingerprint)
        await register(root, fingerprint)
        again = await register(root, fingerprint)
        assert not again.changed, f"killed after request {last}: {[a for a in again.actions if a.changed]}"
        await deregister(root, fingerprint, purge=True)


async def test_clusters_that_are_registered_at_once_are_all_served(root: OpenBao) -> None:
    fingerprints = [new_fingerprint() for _ in range(4)]
    await asyncio.gather(*(register(root, fingerprint) for fingerprint in fingerprints))
    policy = json.loads((await root.find("sys/policies/acl/cloudtaser-bridge") or {})["policy"])
    for fingerprint in fingerprints:
        assert MOUNTS.space(fingerprint).login_config in policy["path"]
        assert not (await register(root, fingerprint)).changed
    await asyncio.gather(*(deregister(root, fingerprint, purge=True) for fingerprint in fingerprints))
    policy = json.loads((await root.find("sys/policies/acl/cloudtaser-bridge") or {})["policy"])
    assert not any(MOUNTS.space(fingerprint).login_config in policy["path"] for fingerprint in fingerprints)


async def test_a_space_of_another_cluster_is_refused_and_space_is_the_way_out(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    other = cluster.fp8 + new_fingerprint()[8:]
    with pytest.raises(CloudtaserError, match=f"belongs to {cluster.fingerprint}"):
        await register(root, other)
    named = await register(root, other, space="named")
    assert named.space.secret == "cloudtaser-named/secret"
    assert not (await register(root, other)).changed
    await give(Steps(root), MOUNTS, named.space, cluster.fingerprint)
    assert await find_space(root, MOUNTS, other) is None


async def test_deregistering_with_purge_leaves_the_server_as_it_was(server: DevServer, root: OpenBao) -> None:
    neighbour = await registered_cluster(server, root, MOUNTS)
    before = await surroundings(root)
    cluster = await registered_cluster(server, root, MOUNTS)
    await put_secret(root, cluster, "shop/db")
    await allow(root, cluster.fingerprint, "shop", "web", [SHARED])
    await root.request("POST", f"sys/mounts/{cluster.space.path('certificates')}", body={"type": "pki"})
    pod = await cluster.log_in(cluster.space.role("default"), cluster.token("shop", "web"))
    operator = await cluster.log_in(cluster.space.role("cloudtaser-operator"), cluster.operator_token())
    body = {"policies": [cluster.space.pod_policy("shop", "web")]}
    made = await operator.request("POST", f"auth/token/create/{cluster.space.pod_token_role}", body=body)
    assert await surroundings(root) != before
    await deregister(root, cluster.fingerprint, purge=True)
    assert await surroundings(root) == before
    minted = OpenBao(server.address, token=Secret(made["auth"]["client_token"]))
    for client in (pod, operator, minted):
        async with client:
            with pytest.raises(NotAuthorisedError):
                await client.lookup_self()
    with pytest.raises(CloudtaserError, match="no such cluster"):
        await deregister(root, cluster.fingerprint)
    assert neighbour.fingerprint in [known.fingerprint for known in await list_clusters(root)]


async def test_deregistering_keeps_the_secrets_and_a_registration_finds_them_again(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    await put_secret(root, cluster, "shop/db")
    await deregister(root, cluster.fingerprint)
    assert await root.kv_read(cluster.space.secret, "shop/db") is not None
    assert (await register(root, cluster.fingerprint)).created
    assert await root.kv_read(cluster.space.secret, "shop/db") is not None


async def test_a_dry_run_names_every_write_and_makes_none(root: OpenBao, cluster: RegisteredCluster) -> None:
    fingerprint = new_fingerprint()
    before = await surroundings(root)
    planned = await register(root, fingerprint, dry_run=True)
    assert await surroundings(root) == before
    done = await register(root, fingerprint)
    assert [(a.method, a.path) for a in planned.actions] == [(a.method, a.path) for a in done.actions]
    assert all(action.namespace == "" for action in done.actions)


async def test_the_prefixes_of_a_spaces_leases_are_its_own(root: OpenBao, cluster: RegisteredCluster) -> None:
    await root.request("POST", f"sys/mounts/{cluster.space.path('database')}", body={"type": "database"})
    begin = f"cloudtaser-{cluster.fp8}"
    mounts = ("database", "pki-pod", "pki-tunnel", "secret", "transit")
    assert await leased_prefixes(root, cluster.space) == (
        f"auth/{begin}-jwt",
        f"auth/token/create/cloudtaser-pod_{cluster.fp8}",
        *(f"{begin}/{mount}" for mount in mounts),
    )


async def test_a_suspension_ends_one_clusters_tokens_and_logins_and_no_other_clusters(
    server: DevServer, root: OpenBao, cluster: RegisteredCluster
) -> None:
    theirs = await registered_cluster(server, root, MOUNTS)
    pods = [
        await each.log_in(each.space.role("default"), each.token("shop", "web")) for each in (cluster, theirs)
    ]
    operator = await cluster.log_in(cluster.space.role("cloudtaser-operator"), cluster.operator_token())
    assert (await suspend(root, cluster.fingerprint)).left == ()
    for client, lives in ((pods[0], False), (operator, False), (pods[1], True)):
        async with client:
            if lives:
                await client.lookup_self()
            else:
                with pytest.raises(NotAuthorisedError):
                    await client.lookup_self()
    with pytest.raises(OpenBaoError):
        await cluster.log_in(cluster.space.role("default"), cluster.token("shop", "web"))
    async with await theirs.log_in(theirs.space.role("default"), theirs.token("shop", "web")) as pod:
        await pod.lookup_self()
    assert not (await resume(root, cluster.fingerprint)).suspended


async def test_stored_pairs_and_notes_of_reads_go_with_the_cluster(server: DevServer, root: OpenBao) -> None:
    fingerprint = new_fingerprint()
    before = await surroundings(root)
    stored = await register(root, fingerprint, pregenerate=True)
    assert stored.created
    assert not (await register(root, fingerprint)).changed
    made = await make_bridge_token(root, "eu-3", clusters=[fingerprint])
    async with OpenBao(server.address, token=made.token) as bridge:
        pair, _ = await Records(bridge, MOUNTS).pair(fingerprint, "bridge")
        assert pair is not None
    version = await Records(root, MOUNTS).write_reads(fingerprint, Reads("eu-3"), 0)
    assert version == 1
    await deregister(root, fingerprint, purge=True)
    await root.request("DELETE", "sys/policies/acl/cloudtaser-bridge_eu-3")
    await root.request("DELETE", "auth/token/roles/cloudtaser-bridge_eu-3")
    assert await surroundings(root) == before
    assert await root.list(f"cloudtaser/metadata/clusters/{fingerprint}") == []


# Who may read what


async def test_any_pod_reads_what_lies_under_its_own_namespace_and_nothing_else(
    server: DevServer, root: OpenBao, cluster: RegisteredCluster
) -> None:
    theirs = await registered_cluster(server, root, MOUNTS)
    for path in ("shop/db", "bank/db", "db"):
        await put_secret(root, cluster, path)
        await put_secret(root, theirs, path)
    async with await cluster.log_in(cluster.space.role("default"), cluster.token("shop", "web")) as pod:
        assert await reads(cluster, pod, "shop/db")
        assert not await reads(cluster, pod, "bank/db")
        assert not await reads(cluster, pod, "db")
        assert not await reads(theirs, pod, "shop/db")
        for path in ("sys/mounts", "cloudtaser/data/clusters/x/registered", "auth/token/create"):
            assert await may(pod, path) == {"deny"}, path
        assert (await pod.lookup_self())["policies"] == [f"cloudtaser-default_{cluster.fp8}"]
    for foreign in (cluster.space.role("default"), theirs.space.role("default")):
        with pytest.raises(OpenBaoError):
            await theirs.log_in(foreign, cluster.token("shop", "web"))


async def test_a_grant_opens_one_path_in_one_cluster_and_a_denial_closes_it(
    server: DevServer, root: OpenBao, cluster: RegisteredCluster
) -> None:
    theirs = await registered_cluster(server, root, MOUNTS)
    for each in (cluster, theirs):
        await put_secret(root, each, "common/db")
        await put_secret(root, each, "common/other")
    result = await allow(root, cluster.fingerprint, "shop", "web", [SHARED])
    assert result.grant.paths == (SHARED,)
    assert not (await allow(root, cluster.fingerprint, "shop", "web", [SHARED])).changed
    async with await cluster.log_in(cluster.space.role("shop_web"), cluster.token("shop", "web")) as pod:
        assert await reads(cluster, pod, "common/db")
        assert await may(pod, f"{cluster.space.secret}/metadata/common/db") == {"read"}
        assert not await reads(cluster, pod, "common/other")
        assert not await reads(theirs, pod, "common/db")
        await deny(root, cluster.fingerprint, "shop", "web", [])
        assert not await reads(cluster, pod, "common/db")


@pytest.mark.parametrize(
    "path", ["cloudtaser/data/x", "pki-pod/issue/x", "nowhere/x", "sys/mounts", "cloudtaser-x/secret/data/y"]
)
async def test_only_a_secret_of_the_space_can_be_granted(
    root: OpenBao, cluster: RegisteredCluster, path: str
) -> None:
    with pytest.raises(UsageError):
        await allow(root, cluster.fingerprint, "shop", "web", [path])


async def test_the_operator_makes_tokens_of_its_own_clusters_pods_alone(
    server: DevServer, root: OpenBao, cluster: RegisteredCluster
) -> None:
    theirs = await registered_cluster(server, root, MOUNTS)
    for each in (cluster, theirs):
        await allow(root, each.fingerprint, "shop", "web", [SHARED])
    role = cluster.space.role("cloudtaser-operator")
    async with await cluster.log_in(role, cluster.operator_token()) as operator:
        path = f"auth/token/create/{cluster.space.pod_token_role}"
        body = {"policies": [cluster.space.pod_policy("shop", "web")]}
        made = await operator.request("POST", path, body=body)
        assert made["auth"]["policies"] == [f"ct-pod_{cluster.fp8}_shop_web"]
        for policies in ([theirs.space.pod_policy("shop", "web")], ["root"], list(cluster.space.policies)):
            with pytest.raises(OpenBaoError):
                await operator.request("POST", path, body={"policies": policies})
        with pytest.raises(NotAuthorisedError):
            await operator.request("POST", f"auth/token/create/{theirs.space.pod_token_role}", body=body)


# The bridge


async def test_a_bridge_does_its_work_for_every_registered_cluster_and_nothing_else(
    server: DevServer, root: OpenBao, cluster: RegisteredCluster
) -> None:
    made = await make_bridge_token(root, "eu-1")
    later = await registered_cluster(server, root, MOUNTS)
    await root.request("POST", "sys/auth/other-jwt", body={"type": "jwt"})
    await put_secret(root, cluster, "shop/db")
    async with OpenBao(server.address, token=made.token) as bridge:
        records = Records(bridge, await Layout.detect(bridge))
        for each in (cluster, later):
            assert each.fingerprint in await records.clusters()
            assert await records.registered(each.fingerprint) is not None
            assert await records.create_initialized(each.fingerprint, INITIALIZED)
            uri = bridge_uri(each.fingerprint, "eu-1")
            await sign(bridge, each.space, PkiRole.BRIDGE, new_key()[1], uris=[uri])
            keys = {"jwt_validation_pubkeys": [each.public_key()], "bound_issuer": "https://issuer"}
            await bridge.request("POST", each.space.login_config, body=keys)
        await records.write_bridge(BridgeRecord("eu-1", "0.1.0", "2026-01-01T00:00:00Z"))
        space = cluster.space
        for path in (
            f"{space.secret}/data/shop/db", f"{space.transit}/keys/x", space.role_path("default"),
            f"{space.pki_tunnel}/issue/bridge", f"{space.pki_tunnel}/sign-verbatim", f"{space.pki_pod}/root",
            f"auth/token/create/{space.pod_token_role}", "auth/token/create", "auth/other-jwt/config",
            "auth/token/roles/x", "sys/policies/acl/cloudtaser-bridge", "sys/mounts/x", "identity/entity",
            "cloudtaser/config", "cloudtaser/data/bridges/eu-2", "other/pki-tunnel/sign/bridge",
        ):  # fmt: skip
            for method in ("GET", "POST", "DELETE"):
                with pytest.raises(NotAuthorisedError):
                    await bridge.request(method, path, body={} if method == "POST" else None)
        await deregister(root, later.fingerprint)
        with pytest.raises(NotAuthorisedError):
            await bridge.request("POST", later.space.login_config, body={"bound_issuer": "x"})


async def test_a_bridge_for_one_cluster_cannot_touch_another(
    server: DevServer, root: OpenBao, cluster: RegisteredCluster
) -> None:
    theirs = await registered_cluster(server, root, MOUNTS)
    made = await make_bridge_token(root, "eu-2", clusters=[cluster.fingerprint])
    policy = await root.find("sys/policies/acl/cloudtaser-bridge_eu-2") or {}
    paths = [path.replace("/issuer/+/sign/", "/") for path in json.loads(policy["policy"])["path"]]
    assert not [path for path in paths if "+" in path or "*" in path]
    async with OpenBao(server.address, token=made.token) as bridge:
        records = Records(bridge, MOUNTS)
        assert await records.registered(cluster.fingerprint) is not None
        with pytest.raises(NotAuthorisedError):
            await records.registered(theirs.fingerprint)
        with pytest.raises(NotAuthorisedError):
            await bridge.request("POST", theirs.space.login_config, body={"bound_issuer": "x"})
