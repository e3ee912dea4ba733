"""A space changes hands, against a real OpenBao: secrets and grants stay, what was the old cluster's goes."""

from __future__ import annotations

import json

import pytest

from cloudtaser.demo.openbao import DevServer
from cloudtaser.errors import CloudtaserError, NotAuthorisedError, UsageError
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.clusters import list_clusters
from cloudtaser.openbao.grants import allow
from cloudtaser.openbao.layout import Layout
from cloudtaser.openbao.moving import move
from cloudtaser.openbao.pki import PkiRole, new_key, sign
from cloudtaser.openbao.records import Reads, Records
from cloudtaser.openbao.registration import register
from cloudtaser.wire.bootstrap import derive_psk
from cloudtaser.wire.names import bridge_uri
from tests.integration.openbao.support import (
    RegisteredCluster,
    Run,
    accessors,
    come_in,
    each_kill,
    logs_in,
    new_fingerprint,
    put_secret,
    recorded,
    registered_cluster,
)


async def in_use(root: OpenBao, cluster: RegisteredCluster) -> RegisteredCluster:
    await come_in(root, cluster)
    await put_secret(root, cluster, "shop/db")
    await allow(root, cluster.fingerprint, "shop", "web", ["secret/data/common/db"], layout=cluster.layout)
    await Records(root, cluster.layout).write_reads(cluster.fingerprint, Reads("eu-1"), 0)
    return cluster


@pytest.fixture
async def old(root: OpenBao, cluster: RegisteredCluster) -> RegisteredCluster:
    return await in_use(root, cluster)


def successor(old: RegisteredCluster, fingerprint: str) -> RegisteredCluster:
    return RegisteredCluster(fingerprint, old.layout, old.space, old.server)


async def assert_moved(
    root: OpenBao, old: RegisteredCluster, new: str, tunnel_ca: str, *, whole: bool = True
) -> None:
    records = Records(root, old.layout)
    clusters = await list_clusters(root, layout=old.layout)
    assert [(cluster.fingerprint, cluster.state) for cluster in clusters] == [(new, "registered")]
    assert await records.clusters() == [new]
    record = await records.registered(new)
    assert record is not None
    assert record.space == old.space.name
    assert record.tunnel_ca != tunnel_ca
    assert "shop_web" in (await records.grants(new)).roles
    kept = await root.kv_read(old.space.secret, "shop/db", namespace=old.space.namespace)
    assert kept is not None
    assert await accessors(root, old) == []
    for mount in (old.space.pki_tunnel, old.space.pki_pod):
        for kind in ("issuers", "keys"):
            assert len(await root.list(f"{mount}/{kind}", namespace=old.space.namespace)) == 1
    if whole:
        assert not (await register(root, new, layout=old.layout)).changed


async def test_secrets_and_grants_are_the_new_clusters_and_nothing_of_the_old_one_is_left(
    root: OpenBao, old: RegisteredCluster
) -> None:
    new = new_fingerprint()
    before = await recorded(root, old)
    async with await old.log_in("default", old.token("shop", "web")) as pod:
        result = await move(root, old.fingerprint, new, layout=old.layout)
        with pytest.raises(NotAuthorisedError):
            await pod.lookup_self()
    assert result.changed
    await assert_moved(root, old, new, before.tunnel_ca)
    assert not await logs_in(old)


async def test_only_pods_of_the_new_cluster_log_in(root: OpenBao, old: RegisteredCluster) -> None:
    new = successor(old, new_fingerprint())
    await move(root, old.fingerprint, new.fingerprint, layout=old.layout)
    # as a bridge does at first initialisation; even with the same key the old audience is refused
    keys = [new.public_key(), old.public_key()]
    body = {"jwt_validation_pubkeys": keys}
    await root.request("POST", "auth/jwt/config", namespace=old.space.namespace, body=body)
    assert not await logs_in(old)
    async with await new.log_in("shop_web", new.token("shop", "web")) as pod:
        assert await pod.kv_read(old.space.secret, "shop/db") is not None


async def test_certificates_name_the_new_cluster_alone(root: OpenBao, old: RegisteredCluster) -> None:
    new = new_fingerprint()
    await move(root, old.fingerprint, new, layout=old.layout)
    await sign(root, old.space, PkiRole.BRIDGE, new_key()[1], uris=[bridge_uri(new, "b")])
    with pytest.raises(CloudtaserError):
        await sign(root, old.space, PkiRole.BRIDGE, new_key()[1], uris=[bridge_uri(old.fingerprint, "b")])


async def test_done_again_it_changes_nothing(root: OpenBao, old: RegisteredCluster) -> None:
    new = new_fingerprint()
    first = await move(root, old.fingerprint, new, layout=old.layout)
    again = await move(root, old.fingerprint, new, layout=old.layout)
    assert (again.changed, again.tunnel_ca) == (False, first.tunnel_ca)


async def test_a_cluster_with_a_space_of_its_own_is_refused(
    server: DevServer, root: OpenBao, old: RegisteredCluster
) -> None:
    other = await registered_cluster(server, root, old.layout)
    with pytest.raises(UsageError, match="has a space of its own already"):
        await move(root, old.fingerprint, other.fingerprint, layout=old.layout)
    with pytest.raises(UsageError, match="are the same"):
        await move(root, old.fingerprint, old.fingerprint, layout=old.layout)
    with pytest.raises(UsageError, match="not a cluster fingerprint"):
        await move(root, old.fingerprint, "x", layout=old.layout)
    with pytest.raises(CloudtaserError, match="not registered"):
        await move(root, new_fingerprint(), other.fingerprint, layout=old.layout)
    assert await logs_in(old)


async def test_a_space_that_is_half_moved_to_one_cluster_is_not_moved_to_another(
    server: DevServer, root: OpenBao, old: RegisteredCluster
) -> None:
    new = new_fingerprint()
    before = await recorded(root, old)
    await move(root, old.fingerprint, new, layout=old.layout)
    # as a run leaves it that was killed before the old registration was gone
    await Records(root, old.layout).write_registered(before, 0)
    with pytest.raises(CloudtaserError, match=f"being moved to {new} already"):
        await move(root, old.fingerprint, new_fingerprint(), layout=old.layout)
    await move(root, old.fingerprint, new, layout=old.layout)
    await assert_moved(root, old, new, before.tunnel_ca)


async def test_a_cluster_that_asked_for_a_code_asks_for_a_new_one(root: OpenBao, layout: Layout) -> None:
    old, new = new_fingerprint(), new_fingerprint()
    await register(root, old, join_code=True, layout=layout)
    moved = await move(root, old, new, layout=layout)
    record = await Records(root, layout).registered(new)
    assert record is not None
    assert record.join_psk == derive_psk(new, moved.join_code).hex()


async def test_a_dry_run_says_it_all_and_does_nothing(root: OpenBao, old: RegisteredCluster) -> None:
    new = new_fingerprint()
    planned = await move(root, old.fingerprint, new, layout=old.layout, dry_run=True)
    assert any(f"cloudtaser:{new[:8]}" in str(action.body) for action in planned.actions)
    assert await logs_in(old)
    assert [cluster.fingerprint for cluster in await list_clusters(root, layout=old.layout)] == [
        old.fingerprint
    ]


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_killed_after_any_request_it_is_completed_by_another_run(
    server: DevServer, root: OpenBao
) -> None:
    cluster = await in_use(root, await registered_cluster(server, root))
    at = [cluster.fingerprint]

    async def prepare() -> tuple[str, str]:
        """The cluster that the space belongs to now, in use, and the one that it is to move to."""
        here = successor(cluster, at[-1])
        if await Records(root, cluster.layout).initialized(here.fingerprint) is None:
            await come_in(root, here)
            if len(at) > 1:
                await Records(root, cluster.layout).write_reads(here.fingerprint, Reads("eu-1"), 0)
        at.append(new_fingerprint())
        return at[-2], at[-1]

    async def run(client: OpenBao, subject: tuple[str, str]) -> None:
        await move(client, *subject, layout=cluster.layout)

    async for last, count, (old, new) in each_kill(server, prepare, run):
        if last < count:  # else it was done, and the name of the space does not tell
            await move(root, old, new, layout=cluster.layout)
        await assert_moved(root, successor(cluster, old), new, "", whole=last % 4 == 0)


def test_move_prints_the_pin_and_says_what_comes_next(run: Run) -> None:
    old, new = new_fingerprint(), new_fingerprint()
    run("register", "--fingerprint", old)
    assert run("move", old, new, "--dry-run")[0] == 0
    code, out, err = run("move", old, new)
    assert (code, "Moved the space" in out, "spki-sha256:" in out) == (0, True, True)
    assert "24 hours" in err
    assert json.loads(run("move", old, new, "-o", "json")[1])["changed"] is False
    assert run("show", old)[0] == 1
    assert run("show", new, "-q")[1] == "registered\n"
