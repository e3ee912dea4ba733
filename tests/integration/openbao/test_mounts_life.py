"""The life of a registration on a server without namespaces: neighbours lie beside it and notice nothing."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from cloudtaser.demo.openbao import DevServer, start_dev
from cloudtaser.errors import NotAuthorisedError
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.form import Form
from cloudtaser.openbao.grants import allow
from cloudtaser.openbao.layout import Layout
from cloudtaser.openbao.leaves import rotate_leaves
from cloudtaser.openbao.moving import move
from cloudtaser.openbao.records import Reads, Records
from cloudtaser.openbao.registration import register
from cloudtaser.openbao.reset import reset
from cloudtaser.openbao.rotation import RotationState, rotate_authorities
from cloudtaser.openbao.suspension import resume, suspend
from tests.integration.openbao.support import (
    DyingClient,
    Killed,
    RegisteredCluster,
    come_in,
    new_fingerprint,
    put_secret,
    recorded,
    registered_cluster,
)

MOUNTS = Layout(form=Form.MOUNTS)
WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})


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
async def live(server: DevServer, root: OpenBao) -> RegisteredCluster:
    return await in_use(server, root)


async def in_use(server: DevServer, root: OpenBao) -> RegisteredCluster:
    cluster = await registered_cluster(server, root, MOUNTS)
    await come_in(root, cluster)
    await put_secret(root, cluster, "shop/db")
    await allow(root, cluster.fingerprint, "shop", "web", ["secret/data/common/db"], layout=MOUNTS)
    await Records(root, MOUNTS).write_reads(cluster.fingerprint, Reads("eu-1"), 0)
    return cluster


async def pod_of(cluster: RegisteredCluster) -> OpenBao:
    return await cluster.log_in(cluster.space.role("default"), cluster.token("shop", "web"))


async def is_dead(client: OpenBao) -> bool:
    try:
        await client.lookup_self()
    except NotAuthorisedError:
        return True
    return False


async def assert_one_ca(root: OpenBao, cluster: RegisteredCluster) -> None:
    for mount in (cluster.space.pki_tunnel, cluster.space.pki_pod):
        for kind in ("issuers", "keys"):
            assert len(await root.list(f"{mount}/{kind}")) == 1


@pytest.mark.parametrize("command", ["reset", "move"])
async def test_one_clusters_tokens_and_cas_go_and_its_neighbours_stay(
    server: DevServer, root: OpenBao, live: RegisteredCluster, command: str
) -> None:
    neighbour = await in_use(server, root)
    theirs = await recorded(root, neighbour)
    before = await recorded(root, live)
    mine, other = await pod_of(live), await pod_of(neighbour)
    fingerprint = live.fingerprint
    if command == "reset":
        assert (await reset(root, fingerprint)).left == ()
    else:
        fingerprint = new_fingerprint()
        assert (await move(root, live.fingerprint, fingerprint)).left == ()
        assert await Records(root, MOUNTS).registered(live.fingerprint) is None
    async with mine, other:
        assert await is_dead(mine)
        assert not await is_dead(other)
        assert await other.kv_read(neighbour.space.secret, "shop/db") is not None
    record = await Records(root, MOUNTS).registered(fingerprint)
    assert record is not None
    assert record.space == before.space
    assert record.tunnel_ca != before.tunnel_ca
    assert record.pod_ca != before.pod_ca
    assert await Records(root, MOUNTS).initialized(fingerprint) is None
    assert "shop_web" in (await Records(root, MOUNTS).grants(fingerprint)).roles
    assert await root.kv_read(live.space.secret, "shop/db") is not None
    await assert_one_ca(root, live)
    assert not (await register(root, fingerprint)).changed
    assert await recorded(root, neighbour) == theirs
    assert not (await register(root, neighbour.fingerprint)).changed


async def test_a_moved_cluster_is_suspended_rotated_and_reset_like_any_other(
    server: DevServer, root: OpenBao, live: RegisteredCluster
) -> None:
    new = RegisteredCluster(new_fingerprint(), MOUNTS, live.space, server)
    await rotate_authorities(root, live.fingerprint)
    await move(root, live.fingerprint, new.fingerprint)  # in the middle of a rotation
    await come_in(root, new)
    assert (await suspend(root, new.fingerprint)).left == ()
    assert (await rotate_authorities(root, new.fingerprint)).state is RotationState.STARTED
    waiting = await rotate_authorities(root, new.fingerprint)
    assert (waiting.state, "suspended" in waiting.waiting[0]) == (RotationState.WAITING, True)
    await resume(root, new.fingerprint)
    async with await pod_of(new) as pod:
        assert not await is_dead(pod)
    await rotate_leaves(root, new.fingerprint)
    await reset(root, new.fingerprint)  # in the middle of it as well
    await assert_one_ca(root, new)
    assert not (await register(root, new.fingerprint)).changed


async def killed_everywhere(
    server: DevServer,
    prepare: Callable[[], Awaitable[str]],
    run: Callable[[OpenBao, str], Awaitable[object]],
    *,
    every: int,
) -> AsyncIterator[str]:
    """A cluster as a kill leaves it right after the n-th write of `run`, for every n-th of that many."""
    for last in itertools.count(1, every):
        subject = await prepare()
        async with DyingClient(server, dies_after=last, counts=WRITES) as dying:
            try:
                await run(dying, subject)
            except Killed:
                yield subject
            else:
                return


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_reset_killed_after_any_write_is_completed_by_another_run(
    server: DevServer, root: OpenBao, live: RegisteredCluster
) -> None:
    async def prepare() -> str:
        if await Records(root, MOUNTS).initialized(live.fingerprint) is None:
            await come_in(root, live)
        return live.fingerprint

    async def run(client: OpenBao, fingerprint: str) -> None:
        await reset(client, fingerprint)

    async for fingerprint in killed_everywhere(server, prepare, run, every=2):
        await reset(root, fingerprint)
        assert await Records(root, MOUNTS).initialized(fingerprint) is None
        await assert_one_ca(root, live)
        assert not (await register(root, fingerprint)).changed


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_move_killed_after_any_write_is_completed_by_another_run(
    server: DevServer, root: OpenBao, live: RegisteredCluster
) -> None:
    records, at = Records(root, MOUNTS), [live.fingerprint]

    async def prepare() -> str:
        if await records.registered(at[-1]) is None:
            at.pop()
        here = RegisteredCluster(at[-1], MOUNTS, live.space, server)
        if await records.initialized(at[-1]) is None:
            await come_in(root, here)
        at.append(new_fingerprint())
        return at[-2]

    async def run(client: OpenBao, old: str) -> None:
        await move(client, old, at[-1])

    async for old in killed_everywhere(server, prepare, run, every=3):
        if await records.registered(old) is not None:
            await move(root, old, at[-1])
        assert at[-1] in await records.clusters()
        assert await records.registered(old) is None
        assert old not in await records.clusters()
        await assert_one_ca(root, live)
        assert "shop_web" in (await records.grants(at[-1])).roles
        assert not (await register(root, at[-1])).changed


async def test_two_moves_at_once_of_one_space_leave_one_cluster_with_it(
    server: DevServer, root: OpenBao, live: RegisteredCluster
) -> None:
    new = new_fingerprint()
    done = await asyncio.gather(
        *(move(root, live.fingerprint, new) for _ in range(2)), return_exceptions=True
    )
    assert any(not isinstance(one, BaseException) for one in done), done
    again = (
        await move(root, live.fingerprint, new)
        if await Records(root, MOUNTS).registered(live.fingerprint)
        else None
    )
    assert again is None or again.changed
    assert await Records(root, MOUNTS).registered(new) is not None
    assert not (await register(root, new)).changed
