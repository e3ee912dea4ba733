"""Who may read what, asked of a real OpenBao: logins with ServiceAccount tokens, grants, and the operator."""

from __future__ import annotations

from typing import TypedDict

import pytest

from cloudtaser.demo.openbao import DevServer
from cloudtaser.errors import CloudtaserError, NotAuthorisedError, UsageError
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.errors import OpenBaoError
from cloudtaser.openbao.grants import allow, deny, granted
from cloudtaser.openbao.layout import Layout
from cloudtaser.openbao.records import Grant, Records
from cloudtaser.openbao.registration import register
from cloudtaser.secret import Secret
from tests.integration.openbao.support import (
    DyingClient,
    Killed,
    RegisteredCluster,
    every,
    may,
    new_fingerprint,
    put_secret,
    registered_cluster,
)

SHARED = "secret/data/common/db"


class Options(TypedDict):
    layout: Layout


async def reads(cluster: RegisteredCluster, client: OpenBao, path: str) -> bool:
    """Whether the client gets that entry of `secret`."""
    try:
        return await client.kv_read(cluster.space.secret, path) is not None
    except NotAuthorisedError:
        return False


async def test_any_pod_reads_what_lies_under_its_own_namespace_and_nothing_else(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    for path in ("shop/db", "bank/db", "shopping/db", "db"):
        await put_secret(root, cluster, path)
    async with await cluster.log_in("default", cluster.token("shop", "web")) as pod:
        assert await reads(cluster, pod, "shop/db")
        assert not await reads(cluster, pod, "bank/db")
        assert not await reads(cluster, pod, "shopping/db")
        assert not await reads(cluster, pod, "db")
        assert await may(pod, "secret/data/shop/db") == {"read"}
        assert await may(pod, "secret/metadata/shop/db") == {"read"}
        assert await may(pod, "secret/metadata/shop") == {"deny"}
        assert await may(pod, "transit/keys/x") == {"deny"}
        assert await may(pod, "auth/token/create") == {"deny"}
        about = await pod.lookup_self()
        assert about["policies"] == ["cloudtaser-default"]
        assert about["period"] == 3600
        assert about["renewable"]


async def test_a_pods_token_opens_no_other_space(server: DevServer, root: OpenBao) -> None:
    mine, theirs = await registered_cluster(server, root), await registered_cluster(server, root)
    await put_secret(root, theirs, "shop/db")
    async with await mine.log_in("default", mine.token("shop", "web")) as pod:
        with pytest.raises(NotAuthorisedError):
            await pod.kv_read("secret", "shop/db", namespace=theirs.space.namespace)
    with pytest.raises(OpenBaoError):
        await theirs.log_in("default", mine.token("shop", "web"))


@pytest.mark.parametrize("audience", ["cloudtaser:00000000", "https://kubernetes.default.svc", "cloudtaser"])
async def test_a_token_for_somebody_else_logs_nobody_in(cluster: RegisteredCluster, audience: str) -> None:
    with pytest.raises(OpenBaoError, match="audience"):
        await cluster.log_in("default", cluster.token("shop", "web", audience=audience))


async def test_a_grant_opens_one_path_to_one_service_account(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    for path in ("common/db", "common/other", "shop/own"):
        await put_secret(root, cluster, path)
    result = await allow(root, cluster.fingerprint, "shop", "web", [SHARED], layout=cluster.layout)
    assert result.changed
    async with await cluster.log_in("shop_web", cluster.token("shop", "web")) as pod:
        assert await reads(cluster, pod, "common/db")
        assert await reads(cluster, pod, "shop/own")
        assert not await reads(cluster, pod, "common/other")
    with pytest.raises(OpenBaoError, match="claim"):
        await cluster.log_in("shop_web", cluster.token("shop", "job"))
    with pytest.raises(OpenBaoError, match="claim"):
        await cluster.log_in("shop_web", cluster.token("bank", "web"))


async def test_a_grant_to_a_namespace_reaches_every_service_account_of_it(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    await put_secret(root, cluster, "common/db")
    await put_secret(root, cluster, "common/web")
    await allow(root, cluster.fingerprint, "shop", "web", ["secret/data/common/web"], layout=cluster.layout)
    await allow(root, cluster.fingerprint, "shop", "", [SHARED], layout=cluster.layout)
    async with await cluster.log_in("shop_", cluster.token("shop", "job")) as pod:
        assert await reads(cluster, pod, "common/db")
        assert not await reads(cluster, pod, "common/web")
    async with await cluster.log_in("shop_web", cluster.token("shop", "web")) as pod:
        assert await reads(cluster, pod, "common/db")
        assert await reads(cluster, pod, "common/web")
    with pytest.raises(OpenBaoError, match="claim"):
        await cluster.log_in("shop_", cluster.token("bank", "job"))


async def test_allowing_twice_changes_nothing_and_paths_add_up(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    options = Options(layout=cluster.layout)
    await allow(root, cluster.fingerprint, "shop", "web", [SHARED], **options)
    assert not (await allow(root, cluster.fingerprint, "shop", "web", [SHARED], **options)).changed
    more = await allow(root, cluster.fingerprint, "shop", "web", ["transit/decrypt/shop"], **options)
    assert more.grant.paths == (SHARED, "transit/decrypt/shop")
    _, record = await granted(root, cluster.fingerprint, layout=cluster.layout)
    assert record.roles == {"shop_web": Grant("shop", "web", (SHARED, "transit/decrypt/shop"))}


async def test_a_denial_reaches_a_pod_that_runs(root: OpenBao, cluster: RegisteredCluster) -> None:
    options = Options(layout=cluster.layout)
    await put_secret(root, cluster, "common/db")
    await put_secret(root, cluster, "common/b")
    await allow(root, cluster.fingerprint, "shop", "web", [SHARED, "secret/data/common/b"], **options)
    async with await cluster.log_in("shop_web", cluster.token("shop", "web")) as pod:
        await deny(root, cluster.fingerprint, "shop", "web", [SHARED], **options)
        assert not await reads(cluster, pod, "common/db")
        assert await reads(cluster, pod, "common/b")
        await deny(root, cluster.fingerprint, "shop", "web", [], **options)
        assert not await reads(cluster, pod, "common/b")
    assert not (await deny(root, cluster.fingerprint, "shop", "web", [], **options)).changed
    assert (await granted(root, cluster.fingerprint, **options))[1].roles == {}
    with pytest.raises(OpenBaoError, match="role"):
        await cluster.log_in("shop_web", cluster.token("shop", "web"))


async def test_registering_again_restores_the_logins_of_recorded_grants(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    await put_secret(root, cluster, "common/db")
    await allow(root, cluster.fingerprint, "shop", "web", [SHARED], layout=cluster.layout)
    where = cluster.space.namespace
    await root.request("DELETE", "sys/auth/jwt", namespace=where)
    await root.request("DELETE", "sys/policies/acl/ct-pod_shop_web", namespace=where)
    assert (await register(root, cluster.fingerprint, layout=cluster.layout)).changed
    body = {"jwt_validation_pubkeys": [cluster.public_key()]}
    await root.request("POST", "auth/jwt/config", namespace=where, body=body)
    async with await cluster.log_in("shop_web", cluster.token("shop", "web")) as pod:
        assert await reads(cluster, pod, "common/db")


async def test_a_grant_killed_after_any_request_is_completed_by_another_run(
    server: DevServer, root: OpenBao, cluster: RegisteredCluster
) -> None:
    async with DyingClient(server, dies_after=0) as counting:
        await allow(counting, cluster.fingerprint, "n0", "a", [SHARED], layout=cluster.layout)
    for last in every(counting.requests):
        who = (cluster.fingerprint, f"n{last}", "a", [SHARED])
        async with DyingClient(server, dies_after=last) as dying:
            with pytest.raises(Killed):
                await allow(dying, *who, layout=cluster.layout)
        await allow(root, *who, layout=cluster.layout)
        assert not (await allow(root, *who, layout=cluster.layout)).changed
        async with DyingClient(server, dies_after=last) as dying:
            with pytest.raises(Killed):
                await deny(dying, *who, layout=cluster.layout)
        await deny(root, *who, layout=cluster.layout)
        assert not (await deny(root, *who, layout=cluster.layout)).changed


async def test_a_dry_run_of_a_grant_shows_the_policy_and_grants_nothing(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    planned = await allow(
        root, cluster.fingerprint, "shop", "web", [SHARED], dry_run=True, layout=cluster.layout
    )
    assert any("secret/data/common/db" in str(action.body) for action in planned.actions)
    assert await Records(root, cluster.layout).grants_version(cluster.fingerprint) == (
        (await granted(root, cluster.fingerprint, layout=cluster.layout))[1],
        0,
    )


@pytest.mark.parametrize(
    "path",
    ["secret/common/db", "secret/metadata/common/db", "sys/mounts", "auth/token/create", "identity/entity",
     "cubbyhole/x", "pki-tunnel/sign/bridge", "pki-pod/issue/bridge-pod", "nowhere/x", "secret/data"],
)  # fmt: skip
async def test_only_a_secret_of_the_space_can_be_granted(
    root: OpenBao, cluster: RegisteredCluster, path: str
) -> None:
    with pytest.raises(UsageError):
        await allow(root, cluster.fingerprint, "shop", "web", [path], layout=cluster.layout)


async def test_nothing_is_granted_to_a_cluster_that_nobody_registered(root: OpenBao) -> None:
    with pytest.raises(CloudtaserError, match="source register --fingerprint"):
        await allow(root, new_fingerprint(), "shop", "web", [SHARED])


async def test_the_operator_makes_pod_tokens_and_nothing_else(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    await allow(root, cluster.fingerprint, "shop", "web", [SHARED], layout=cluster.layout)
    await put_secret(root, cluster, "common/db")
    async with await cluster.log_in("cloudtaser-operator", cluster.operator_token()) as operator:
        made = await operator.request(
            "POST", "auth/token/create/cloudtaser-pod", body={"policies": ["ct-pod_shop_web"]}
        )
        async with OpenBao(
            cluster.server.address,
            token=Secret(made["auth"]["client_token"]),
            namespace=cluster.space.namespace,
        ) as pod:
            assert await reads(cluster, pod, "common/db")
            about = await pod.lookup_self()
            assert (about["orphan"], about["creation_ttl"], about["explicit_max_ttl"]) == (True, 3600, 0)
            assert about["policies"] == ["ct-pod_shop_web"]
            body = {"accessor": made["auth"]["accessor"]}
            await operator.request("POST", "auth/token/revoke-accessor", body=body)
            assert not await reads(cluster, pod, "common/db")
        for policies in (["cloudtaser-operator"], ["root"], ["cloudtaser-default"], ["default"]):
            with pytest.raises(OpenBaoError):
                await operator.request(
                    "POST", "auth/token/create/cloudtaser-pod", body={"policies": policies}
                )
        powerless = await operator.request("POST", "auth/token/create/cloudtaser-pod", body={})
        assert powerless["auth"]["policies"] == []
        for path in ("secret/data/common/db", "sys/policies/acl/x", "auth/jwt/role/x", "auth/jwt/config",
                     "auth/token/create", "auth/token/create-orphan", "pki-pod/sign/bridge-pod"):  # fmt: skip
            assert await may_not(operator, path), path


async def may_not(client: OpenBao, path: str) -> bool:
    """Whether a read and a write are both refused, by trying."""
    for method in ("GET", "POST"):
        try:
            await client.request(method, path, body=None if method == "GET" else {})
        except NotAuthorisedError:
            continue
        except OpenBaoError:
            return False
        return False
    return True


async def test_the_operators_role_takes_its_own_subject_and_audience_only(cluster: RegisteredCluster) -> None:
    other = "system:serviceaccount:cloudtaser-system:default"
    with pytest.raises(OpenBaoError, match="sub"):
        await cluster.log_in("cloudtaser-operator", cluster.operator_token(subject=other))
    token = cluster.operator_token(audience=f"cloudtaser:{cluster.fp8}")
    with pytest.raises(OpenBaoError, match="audience"):
        await cluster.log_in("cloudtaser-operator", token)
