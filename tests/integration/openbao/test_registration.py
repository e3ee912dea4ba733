"""Registration against a real OpenBao: whole, idempotent, and completed after any kill."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace

import pytest

from cloudtaser.demo.openbao import DevServer
from cloudtaser.errors import CloudtaserError, NotAuthorisedError, UsageError
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.clusters import list_clusters, show
from cloudtaser.openbao.deregistration import deregister
from cloudtaser.openbao.layout import Layout
from cloudtaser.openbao.records import Initialized, Records
from cloudtaser.openbao.registration import register
from cloudtaser.secret import Secret
from cloudtaser.wire.bootstrap import derive_psk
from cloudtaser.wire.hashes import init_room
from tests.integration.openbao.support import (
    DyingClient,
    Killed,
    RegisteredCluster,
    every,
    new_fingerprint,
    new_layout,
    put_secret,
    registered_cluster,
)

INITIALIZED = Initialized("2026-01-01T00:00:00Z", "b", {"keys": []}, "iss", "ca", "sub", "00")


async def test_a_registration_records_what_the_other_parts_need(root: OpenBao, layout: Layout) -> None:
    fingerprint = new_fingerprint()
    before = time.time()
    result = await register(root, fingerprint, layout=layout)
    recorded = await Records(root, layout).registered(fingerprint)
    assert recorded is not None
    assert result.tunnel_ca is not None
    assert result.pod_ca is not None
    assert recorded.info_hash == result.info_hash == result.tunnel_ca.fingerprint
    assert recorded.init_room == init_room(fingerprint).hex() == result.init_hash
    assert (recorded.tunnel_ca, recorded.pod_ca) == (result.tunnel_ca.pem, result.pod_ca.pem)
    assert recorded.namespace == f"{layout.system_namespace}/{fingerprint[:8]}"
    assert result.bridge_pin.startswith("spki-sha256:")
    assert result.info_hash not in result.bridge_pin
    assert not recorded.lapsed(before + 23 * 3600)
    assert recorded.lapsed(before + 25 * 3600)
    space = await root.find(f"sys/namespaces/{fingerprint[:8]}", namespace=layout.system_namespace)
    assert space is not None
    assert space["custom_metadata"] == {"fingerprint": fingerprint}


async def test_a_second_run_changes_nothing_and_says_so(root: OpenBao, layout: Layout) -> None:
    fingerprint = new_fingerprint()
    first = await register(root, fingerprint, layout=layout)
    second = await register(root, fingerprint, layout=layout)
    assert (first.created, first.changed) == (True, True)
    assert (second.created, second.changed) == (False, False)
    assert second.info_hash == first.info_hash
    assert (await Records(root, layout).registered_version(fingerprint))[1] == 1


async def test_a_dry_run_names_every_write_and_makes_none(root: OpenBao, layout: Layout) -> None:
    fingerprint = new_fingerprint()
    planned = await register(root, fingerprint, layout=layout, dry_run=True)
    assert await root.find(f"sys/namespaces/{layout.system_namespace}", namespace="") is None
    done = await register(root, fingerprint, layout=layout)
    assert [(a.method, a.path) for a in planned.actions] == [(a.method, a.path) for a in done.actions]
    assert all(action.changed for action in planned.actions)


async def test_a_registration_killed_after_any_request_is_whole_after_another_run(
    server: DevServer, root: OpenBao
) -> None:
    fingerprint = new_fingerprint()
    async with DyingClient(server, dies_after=0) as counting:
        await register(counting, fingerprint, layout=new_layout())
    assert counting.requests > 40
    for last in every(counting.requests):
        layout = new_layout()
        async with DyingClient(server, dies_after=last) as dying:
            with pytest.raises(Killed):
                await register(dying, fingerprint, layout=layout)
        completed = await register(root, fingerprint, layout=layout)
        again = await register(root, fingerprint, layout=layout)
        assert not again.changed, f"killed after request {last}: {[a for a in again.actions if a.changed]}"
        assert again.info_hash == completed.info_hash
        recorded = await Records(root, layout).registered(fingerprint)
        assert recorded is not None
        assert recorded.info_hash == completed.info_hash


async def test_a_deregistration_killed_after_any_request_is_completed_by_another_run(
    server: DevServer, root: OpenBao
) -> None:
    counted = await registered_cluster(server, root)
    async with DyingClient(server, dies_after=0) as counting:
        await deregister(counting, counted.fingerprint, layout=counted.layout)
    for last in range(2, counting.requests):  # the first and the last request change nothing more
        cluster = await registered_cluster(server, root)
        async with DyingClient(server, dies_after=last) as dying:
            with pytest.raises(Killed):
                await deregister(dying, cluster.fingerprint, layout=cluster.layout)
        with contextlib.suppress(CloudtaserError):  # "no such cluster", where the last request was done
            await deregister(root, cluster.fingerprint, layout=cluster.layout)
        assert await Records(root, cluster.layout).registered(cluster.fingerprint) is None
        mounts = await root.request("GET", "sys/mounts", namespace=cluster.space.namespace)
        assert cluster.space.pki_tunnel + "/" not in mounts["data"]
        assert cluster.space.secret + "/" in mounts["data"]


async def test_a_missing_authority_is_made_anew_and_the_run_says_so(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    before = await register(root, cluster.fingerprint, layout=cluster.layout)
    await root.request("DELETE", f"{cluster.space.pki_tunnel}/root", namespace=cluster.space.namespace)
    after = await register(root, cluster.fingerprint, layout=cluster.layout)
    assert after.changed
    assert after.info_hash != before.info_hash
    assert after.pod_ca == before.pod_ca
    assert any("make the tunnel CA" in action.why for action in after.actions if action.changed)
    recorded = await Records(root, cluster.layout).registered(cluster.fingerprint)
    assert recorded is not None
    assert recorded.info_hash == after.info_hash


async def test_an_authority_that_is_not_the_recorded_one_is_made_anew_and_the_run_says_so(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    records = Records(root, cluster.layout)
    recorded, version = await records.registered_version(cluster.fingerprint)
    assert recorded is not None
    await records.write_registered(replace(recorded, pod_ca=recorded.tunnel_ca), version)
    after = await register(root, cluster.fingerprint, layout=cluster.layout)
    assert any("pod CA is not the one in the registration" in action.why for action in after.actions)
    assert after.pod_ca is not None
    assert after.pod_ca.pem != recorded.pod_ca
    assert not (await register(root, cluster.fingerprint, layout=cluster.layout)).changed


async def test_an_expired_authority_is_made_anew(root: OpenBao, cluster: RegisteredCluster) -> None:
    eleven_years = time.time() + 11 * 365 * 86400
    after = await register(root, cluster.fingerprint, layout=cluster.layout, now=eleven_years)
    assert any("tunnel CA has expired" in action.why for action in after.actions)


async def test_a_space_of_another_cluster_is_refused_and_space_is_the_way_out(
    root: OpenBao, layout: Layout
) -> None:
    mine = new_fingerprint()
    theirs = mine[:8] + new_fingerprint()[8:]
    await register(root, mine, layout=layout)
    with pytest.raises(CloudtaserError, match=f"belongs to {mine}") as refused:
        await register(root, theirs, layout=layout)
    assert "--space" in refused.value.fix
    named = await register(root, theirs, space="other", layout=layout)
    assert named.space.namespace == f"{layout.system_namespace}/other"
    assert not (await register(root, theirs, layout=layout)).changed
    with pytest.raises(UsageError, match="under the name other"):
        await register(root, theirs, space="third", layout=layout)


async def test_a_registration_begun_under_a_name_is_completed_under_it(
    server: DevServer, root: OpenBao, layout: Layout
) -> None:
    fingerprint = new_fingerprint()
    async with DyingClient(server, dies_after=30) as dying:
        with pytest.raises(Killed):
            await register(dying, fingerprint, space="named", layout=layout)
    assert (await register(root, fingerprint, layout=layout)).space.name == "named"


async def test_an_unused_registration_lapses_and_registering_again_renews_it(
    root: OpenBao, layout: Layout
) -> None:
    fingerprint = new_fingerprint()
    long_ago = time.time() - 2 * 86400
    await register(root, fingerprint, layout=layout, now=long_ago)
    assert [cluster.state for cluster in await list_clusters(root, layout=layout)] == ["lapsed"]
    renewed = await register(root, fingerprint, layout=layout)
    assert renewed.changed
    assert not renewed.created
    assert [cluster.state for cluster in await list_clusters(root, layout=layout)] == ["registered"]


async def test_of_a_join_code_only_the_derived_key_is_stored(root: OpenBao, layout: Layout) -> None:
    fingerprint = new_fingerprint()
    result = await register(root, fingerprint, join_code=True, layout=layout)
    assert len(result.join_code) == 26
    stored = await root.kv_read(
        layout.state_mount, layout.registered(fingerprint), namespace=layout.system_namespace
    )
    assert stored is not None
    assert stored.data["join_psk"] == derive_psk(fingerprint, result.join_code).hex()
    assert result.join_code not in str(stored.data)
    assert all(result.join_code not in str(action) for action in result.actions)
    kept = await register(root, fingerprint, layout=layout)
    assert not kept.changed
    again = await register(root, fingerprint, join_code=True, layout=layout)
    assert again.join_code != result.join_code


async def test_a_join_code_for_a_cluster_that_came_in_is_refused(root: OpenBao, layout: Layout) -> None:
    fingerprint = new_fingerprint()
    await register(root, fingerprint, layout=layout)
    assert await Records(root, layout).create_initialized(fingerprint, INITIALIZED)
    with pytest.raises(UsageError, match="has come in already"):
        await register(root, fingerprint, join_code=True, layout=layout)
    state = (await show(root, fingerprint, layout=layout)).state
    assert state.state == "initialised"


async def test_of_many_initialisations_one_wins(root: OpenBao, layout: Layout) -> None:
    fingerprint = new_fingerprint()
    await register(root, fingerprint, layout=layout)
    records = Records(root, layout)
    results = [await records.create_initialized(fingerprint, INITIALIZED) for _ in range(5)]
    assert results == [True, False, False, False, False]


async def test_deregistering_revokes_what_was_issued_and_keeps_the_secrets(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    await put_secret(root, cluster, "shop/db")
    where = cluster.space.namespace
    path, body = "auth/token/create/cloudtaser-pod", {"policies": ["ct-pod_shop_web"]}
    await root.request("POST", path, namespace=where, body=body)
    async with await cluster.log_in("default", cluster.token("shop", "web")) as pod:
        assert await pod.kv_read(cluster.space.secret, "shop/db") is not None
        assert len(await root.list("auth/token/accessors", namespace=where)) == 2
        await deregister(root, cluster.fingerprint, layout=cluster.layout)
        with pytest.raises(NotAuthorisedError):
            await pod.lookup_self()
    assert await root.list("auth/token/accessors", namespace=where) == []
    assert await list_clusters(root, layout=cluster.layout) == []
    kept = await root.kv_read(cluster.space.secret, "shop/db", namespace=cluster.space.namespace)
    assert kept is not None
    with pytest.raises(CloudtaserError, match="no such cluster"):
        await deregister(root, cluster.fingerprint, layout=cluster.layout)
    back = await register(root, cluster.fingerprint, layout=cluster.layout)
    assert back.created


async def test_a_purge_deletes_the_space(root: OpenBao, cluster: RegisteredCluster) -> None:
    await put_secret(root, cluster, "shop/db")
    await deregister(root, cluster.fingerprint, purge=True, layout=cluster.layout)
    assert await root.list("sys/namespaces", namespace=cluster.layout.system_namespace) == []


async def test_deregistering_dry_changes_nothing(root: OpenBao, cluster: RegisteredCluster) -> None:
    actions = await deregister(root, cluster.fingerprint, purge=True, dry_run=True, layout=cluster.layout)
    assert any(action.path.startswith("sys/namespaces/") for action in actions)
    assert not (await register(root, cluster.fingerprint, layout=cluster.layout)).changed


async def test_a_foreign_engine_in_the_space_is_not_touched(root: OpenBao, layout: Layout) -> None:
    fingerprint = new_fingerprint()
    await register(root, fingerprint, layout=layout)
    where = f"{layout.system_namespace}/{fingerprint[:8]}"
    await root.request("DELETE", "sys/mounts/secret", namespace=where)
    await root.request("POST", "sys/mounts/secret", namespace=where, body={"type": "kv"})
    with pytest.raises(CloudtaserError, match="something other than kv version 2"):
        await register(root, fingerprint, layout=layout)


async def test_a_token_without_rights_is_told_path_and_capability(server: DevServer, root: OpenBao) -> None:
    made = await root.request("POST", "auth/token/create", body={"policies": ["default"]})
    weak = Secret(made["auth"]["client_token"])
    async with OpenBao(server.address, token=weak) as client:
        with pytest.raises(NotAuthorisedError) as refused:
            await register(client, new_fingerprint())
    assert "sys/namespaces/cloudtaser" in refused.value.diagnostic()
    assert "grant read" in refused.value.diagnostic()
    assert weak.reveal_text() not in refused.value.diagnostic()
