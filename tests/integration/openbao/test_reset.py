"""Reset against a real OpenBao: whoever came first is out, and what he could read is told."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from cloudtaser.demo.openbao import DevServer
from cloudtaser.errors import CloudtaserError, NotAuthorisedError
from cloudtaser.openbao.authorities import recorded_issuer
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.clusters import show
from cloudtaser.openbao.grants import allow
from cloudtaser.openbao.layout import Layout
from cloudtaser.openbao.records import Keys, PathRead, Reads, Records, Revoked, seconds
from cloudtaser.openbao.registration import register
from cloudtaser.openbao.reset import forget_reads, reset
from cloudtaser.openbao.rotation import rotate_authorities
from cloudtaser.openbao.steps import Steps
from cloudtaser.wire.bootstrap import derive_psk
from tests.chain_tools import eventually
from tests.integration.openbao.support import (
    InterruptedClient,
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
    report,
)

AT, LATER = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


@pytest.fixture
async def live(root: OpenBao, cluster: RegisteredCluster) -> RegisteredCluster:
    return await in_use(root, cluster)


async def in_use(root: OpenBao, cluster: RegisteredCluster) -> RegisteredCluster:
    """A cluster that somebody came in for and that was read from through two bridges."""
    records = Records(root, cluster.layout)
    await come_in(root, cluster)
    await records.write_keys(cluster.fingerprint, Keys(cluster.jwks(), AT, "eu-1"), 0)
    await records.write_revoked(cluster.fingerprint, Revoked(("0a",)), 0)
    await put_secret(root, cluster, "shop/db")
    one = Reads("eu-1", {"secret/data/shop/db": PathRead(AT, AT, 2)})
    both = {"secret/data/shop/db": PathRead(AT, LATER, 1), "secret/data/a": PathRead(LATER, LATER, 5)}
    await records.write_reads(cluster.fingerprint, one, 0)
    await records.write_reads(cluster.fingerprint, Reads("eu-2", both, dropped=3), 0)
    return cluster


async def assert_new(root: OpenBao, cluster: RegisteredCluster, former: tuple[str, str]) -> None:
    """Nobody has come in, nothing of before is left, and everything needed to come in is there."""
    records = Records(root, cluster.layout)
    record = await recorded(root, cluster)
    assert record.tunnel_ca not in former
    assert record.pod_ca not in former
    assert (record.former_tunnel_ca, record.former_pod_cas, record.endorsement) == (None, (), "")
    assert await records.initialized(cluster.fingerprint) is None
    assert await records.keys(cluster.fingerprint) == (None, 0)
    assert await records.revoked(cluster.fingerprint) == Revoked()
    assert await accessors(root, cluster) == []
    assert not await logs_in(cluster)
    for mount in (cluster.space.pki_tunnel, cluster.space.pki_pod):
        for kind in ("issuers", "keys"):
            assert len(await root.list(f"{mount}/{kind}", namespace=cluster.space.namespace)) == 1
    assert not (await register(root, cluster.fingerprint, layout=cluster.layout)).changed


async def test_a_reset_cluster_is_as_new_and_keeps_secrets_and_grants(
    root: OpenBao, live: RegisteredCluster
) -> None:
    await allow(root, live.fingerprint, "shop", "web", ["secret/data/common/db"], layout=live.layout)
    before = await recorded(root, live)
    started = time.time()
    async with await live.log_in("default", live.token("shop", "web")) as pod:
        result = await reset(root, live.fingerprint, layout=live.layout)
        with pytest.raises(NotAuthorisedError):
            await pod.lookup_self()
    await assert_new(root, live, (before.tunnel_ca, before.pod_ca))
    record = await recorded(root, live)
    assert (record.created_at, record.space) == (before.created_at, before.space)
    assert started + 23 * 3600 < seconds(record.expires_at) < started + 25 * 3600
    assert (await show(root, live.fingerprint, layout=live.layout)).state.state == "registered"
    kept = await root.kv_read(live.space.secret, "shop/db", namespace=live.space.namespace)
    assert kept is not None
    assert "shop_web" in (await Records(root, live.layout).grants(live.fingerprint)).roles
    assert result.tunnel_ca is not None
    assert result.tunnel_ca.fingerprint == record.info_hash


async def test_it_tells_what_was_read_through_all_bridges_and_forgets_it_once_that_is_told(
    root: OpenBao, live: RegisteredCluster
) -> None:
    result = await reset(root, live.fingerprint, layout=live.layout)
    assert result.paths == {
        "secret/data/a": PathRead(LATER, LATER, 5),
        "secret/data/shop/db": PathRead(AT, LATER, 3),
    }
    assert result.dropped == 3
    assert len(await Records(root, live.layout).reads(live.fingerprint)) == 2
    await forget_reads(root, live.fingerprint, layout=live.layout)
    assert await Records(root, live.layout).reads(live.fingerprint) == []


async def test_what_bridges_note_while_they_close_is_told_too(root: OpenBao, live: RegisteredCluster) -> None:
    await report(root, live)
    result = await reset(root, live.fingerprint, layout=live.layout, wait=0.2)
    assert len(result.paths) == 2


async def test_a_cluster_that_asked_for_a_code_gets_a_new_one(root: OpenBao, layout: Layout) -> None:
    fingerprint = new_fingerprint()
    first = await register(root, fingerprint, join_code=True, layout=layout)
    second = await reset(root, fingerprint, layout=layout)
    assert len(second.join_code) == 26
    assert second.join_code != first.join_code
    assert second.registered.join_psk == derive_psk(fingerprint, second.join_code).hex()
    assert all(second.join_code not in str(action) for action in second.actions)
    plain = new_fingerprint()
    await register(root, plain, layout=layout)
    assert (await reset(root, plain, layout=layout)).join_code == ""
    assert (await reset(root, plain, join_code=True, layout=layout)).join_code != ""


async def test_a_code_lapses_with_its_registration(root: OpenBao, layout: Layout) -> None:
    fingerprint = new_fingerprint()
    long_ago = time.time() - 2 * 86400
    first = await register(root, fingerprint, join_code=True, layout=layout, now=long_ago)
    renewed = await register(root, fingerprint, layout=layout)
    assert renewed.join_code not in ("", first.join_code)
    record = await Records(root, layout).registered(fingerprint)
    assert record is not None
    assert record.join_psk == derive_psk(fingerprint, renewed.join_code).hex()


async def test_keys_that_a_bridge_puts_back_meanwhile_open_nothing(
    server: DevServer, root: OpenBao, live: RegisteredCluster
) -> None:
    async def put_back() -> None:
        body = {"jwt_validation_pubkeys": [live.public_key()]}
        await root.request("POST", live.space.login_config, namespace=live.space.namespace, body=body)
        assert await logs_in(live)

    async with InterruptedClient(server, put_back, after=25) as client:
        await reset(client, live.fingerprint, layout=live.layout)
        assert client.requests > 25
    assert not await logs_in(live)


async def test_whoever_logs_in_with_keys_that_a_bridge_put_back_is_out_too(
    server: DevServer, root: OpenBao, live: RegisteredCluster
) -> None:
    let_in: list[OpenBao] = []

    async def put_back() -> None:
        body = {"jwt_validation_pubkeys": [live.public_key()]}
        await root.request("POST", live.space.login_config, namespace=live.space.namespace, body=body)
        let_in.append(await live.log_in("default", live.token("shop", "web")))

    class Overtaken(OpenBao):
        async def request(self, method: str, path: str, **options: Any) -> Any:
            answer = await super().request(method, path, **options)
            if method == "DELETE" and "/issuer/" in path and not let_in:
                await put_back()
            return answer

    async with Overtaken(server.address, token=server.root_token) as client:
        assert (await reset(client, live.fingerprint, layout=live.layout)).left == ()
    async with let_in.pop() as pod:
        with pytest.raises(NotAuthorisedError):
            await pod.lookup_self()
    assert not await logs_in(live)


@pytest.mark.parametrize("other", ["reset", "rotate"])
async def test_another_run_that_begins_while_bridges_close_keeps_its_cas_and_what_came_in(
    root: OpenBao, live: RegisteredCluster, other: str
) -> None:
    await report(root, live)
    before = await recorded(root, live)
    first = asyncio.create_task(reset(root, live.fingerprint, layout=live.layout, wait=1.5))

    async def made_anew() -> bool:
        return (await recorded(root, live)).tunnel_ca != before.tunnel_ca

    await eventually(made_anew, "the first run has recorded its CAs")
    if other == "reset":
        await reset(root, live.fingerprint, layout=live.layout, wait=0)
        await come_in(root, live)
    else:
        for _ in range(2):  # the first finds what the reset has not deleted yet, and does
            await rotate_authorities(root, live.fingerprint, layout=live.layout)
    now = await recorded(root, live)
    with pytest.raises(CloudtaserError, match="somebody else changed the registration"):
        await first
    assert await recorded(root, live) == now
    assert await Records(root, live.layout).initialized(live.fingerprint) is not None
    for mount, pem in ((live.space.pki_tunnel, now.tunnel_ca), (live.space.pki_pod, now.pod_ca)):
        issuer = await recorded_issuer(Steps(root), live.space.namespace, mount, "CA", pem)
        assert issuer.default


async def test_no_bridge_can_keep_a_reset_from_its_end(root: OpenBao, live: RegisteredCluster) -> None:
    layout = live.layout
    for path in (layout.reads(live.fingerprint, "eu-2"), layout.bridge("eu-2")):
        _, version = await Records(root, layout)._read(path, Reads)
        await root.kv_write(
            layout.state_mount, path, {"x": []}, namespace=layout.system_namespace, cas=version
        )
    result = await reset(root, live.fingerprint, layout=layout, wait=0)
    assert (list(result.paths), result.unreadable) == (["secret/data/shop/db"], ("eu-2",))


async def test_a_rotation_under_way_ends_with_it(root: OpenBao, live: RegisteredCluster) -> None:
    before = await recorded(root, live)
    await rotate_authorities(root, live.fingerprint, layout=live.layout)
    during = await recorded(root, live)
    await reset(root, live.fingerprint, layout=live.layout)
    await assert_new(root, live, (before.tunnel_ca, during.pod_ca))


async def test_a_dry_run_tells_the_paths_and_changes_nothing(root: OpenBao, live: RegisteredCluster) -> None:
    before = await Records(root, live.layout).registered_version(live.fingerprint)
    result = await reset(root, live.fingerprint, layout=live.layout, dry_run=True)
    assert len(result.paths) == 2
    assert await Records(root, live.layout).registered_version(live.fingerprint) == before
    assert await logs_in(live)
    done = await reset(root, live.fingerprint, layout=live.layout)
    planned = {action.why for action in result.actions if action.changed}
    assert planned >= {action.why for action in done.actions if action.changed} - {KEY}


KEY = "nothing is signed under the former CA any more: its key"


@pytest.mark.slow
async def test_killed_after_any_request_it_is_completed_by_another_run(
    server: DevServer, root: OpenBao
) -> None:
    cluster = await registered_cluster(server, root)

    async def prepare() -> tuple[str, str]:
        if await Records(root, cluster.layout).initialized(cluster.fingerprint) is None:
            await come_in(root, cluster)
        record = await recorded(root, cluster)
        return record.tunnel_ca, record.pod_ca

    async def run(client: OpenBao, _: tuple[str, str]) -> None:
        await reset(client, cluster.fingerprint, layout=cluster.layout)

    async for _, _, former in each_kill(server, prepare, run):
        await reset(root, cluster.fingerprint, layout=cluster.layout)
        await assert_new(root, cluster, former)


async def test_an_unknown_cluster_gets_one_clear_line(root: OpenBao, layout: Layout) -> None:
    with pytest.raises(CloudtaserError, match="not registered"):
        await reset(root, new_fingerprint(), layout=layout)


def test_reset_prints_the_pin_and_what_to_do_in_the_cluster(run: Run) -> None:
    fingerprint = new_fingerprint()
    run("register", "--fingerprint", fingerprint)
    assert run("reset", fingerprint, "--dry-run")[0] == 0
    code, out, err = run("reset", fingerprint)
    assert (code, "Reset the registration" in out) == (0, True)
    assert "spki-sha256:" in out
    assert "cloudtaser-trust" in err
    assert run("reset", fingerprint, "-q")[1].startswith("spki-sha256:")
    assert json.loads(run("reset", fingerprint, "-o", "json")[1])["paths_read"] == []
