"""Accepting keys against a real OpenBao: exactly the set that a person has seen, and never by itself."""

from __future__ import annotations

import json

import pytest
from joserfc.jwk import ECKey

from cloudtaser.cli.app import main
from cloudtaser.demo.openbao import DevServer
from cloudtaser.errors import CloudtaserError, DiffersError, UsageError
from cloudtaser.openbao.accepting import accept_keys
from cloudtaser.openbao.client import CasConflict, OpenBao
from cloudtaser.openbao.jwks import Jwks, digest
from cloudtaser.openbao.layout import Layout
from cloudtaser.openbao.records import Keys, Records
from tests.integration.openbao.support import (
    InterruptedClient,
    RegisteredCluster,
    Run,
    come_in,
    each_kill,
    new_fingerprint,
    registered_cluster,
)

AT = "2026-01-01T00:00:00Z"


def key_set(*kids: str) -> Jwks:
    return {"keys": [dict(ECKey.generate_key("P-256").as_dict(private=False, kid=kid)) for kid in kids]}


async def waiting(root: OpenBao, cluster: RegisteredCluster, pending: Jwks | None) -> Jwks:
    """A cluster whose bridge has put a set aside; the set that counts."""
    records = Records(root, cluster.layout)
    if await records.initialized(cluster.fingerprint) is None:
        await come_in(root, cluster)
    _, version = await records.keys(cluster.fingerprint)
    old = key_set("old")
    record = Keys(old, AT, "eu-1", pending, AT if pending else "")
    await records.write_keys(cluster.fingerprint, record, version)
    return old


async def test_the_set_that_waits_counts_once_a_person_says_so(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    pending = key_set("a", "b")
    await waiting(root, cluster, pending)
    result = await accept_keys(root, cluster.fingerprint, layout=cluster.layout)
    assert ([key.kid for key in result.old], [key.kid for key in result.new]) == (["old"], ["a", "b"])
    record, _ = await Records(root, cluster.layout).keys(cluster.fingerprint)
    assert record is not None
    assert (record.jwks, record.pending, record.pending_at) == (pending, None, "")
    again = await accept_keys(root, cluster.fingerprint, layout=cluster.layout)
    assert not again.changed


async def test_keys_are_shown_with_their_thumbprints(root: OpenBao, cluster: RegisteredCluster) -> None:
    pending = key_set("a")
    await waiting(root, cluster, pending)
    shown = await accept_keys(root, cluster.fingerprint, layout=cluster.layout, dry_run=True)
    assert [key.thumbprint for key in shown.new] == [ECKey.import_key(pending["keys"][0]).thumbprint()]
    record, _ = await Records(root, cluster.layout).keys(cluster.fingerprint)
    assert record is not None
    assert record.pending == pending


async def test_with_a_digest_no_other_set_is_accepted(root: OpenBao, cluster: RegisteredCluster) -> None:
    seen, other = key_set("a"), key_set("a")
    await waiting(root, cluster, other)
    with pytest.raises(DiffersError, match="another set of keys is waiting"):
        await accept_keys(root, cluster.fingerprint, only=digest(seen), layout=cluster.layout)
    await waiting(root, cluster, seen)
    for changed in (True, False):  # the second time it counts already
        result = await accept_keys(root, cluster.fingerprint, only=digest(seen), layout=cluster.layout)
        assert result.changed is changed
    with pytest.raises(DiffersError, match="no such set"):
        await accept_keys(root, cluster.fingerprint, only=digest(other), layout=cluster.layout)
    with pytest.raises(UsageError):
        await accept_keys(root, cluster.fingerprint, only="abc", layout=cluster.layout)


async def test_a_set_that_a_bridge_puts_aside_meanwhile_is_not_accepted_unseen(
    server: DevServer, root: OpenBao, cluster: RegisteredCluster
) -> None:
    await waiting(root, cluster, key_set("a"))
    later = key_set("b")

    async def interrupt() -> None:
        await waiting(root, cluster, later)

    for after in range(3, 9):
        await waiting(root, cluster, key_set("a"))
        async with InterruptedClient(server, interrupt, after=after) as client:
            try:
                result = await accept_keys(client, cluster.fingerprint, layout=cluster.layout)
            except CasConflict:
                continue
        record, _ = await Records(root, cluster.layout).keys(cluster.fingerprint)
        assert record is not None
        counts = record.jwks == later
        assert counts is (digest(later) == result.digest)


async def test_killed_after_any_request_it_is_completed_by_another_run(
    server: DevServer, root: OpenBao
) -> None:
    cluster = await registered_cluster(server, root)
    pending = key_set("a")

    async def prepare() -> None:
        await waiting(root, cluster, pending)

    async def run(client: OpenBao, _: None) -> None:
        await accept_keys(client, cluster.fingerprint, layout=cluster.layout)

    async for _ in each_kill(server, prepare, run):
        await accept_keys(root, cluster.fingerprint, layout=cluster.layout)
        record, _version = await Records(root, cluster.layout).keys(cluster.fingerprint)
        assert record is not None
        assert (record.jwks, record.pending) == (pending, None)


async def test_a_cluster_unknown_or_not_come_in_gets_one_clear_line(
    root: OpenBao, layout: Layout, cluster: RegisteredCluster
) -> None:
    with pytest.raises(CloudtaserError, match="not registered"):
        await accept_keys(root, new_fingerprint(), layout=layout)
    with pytest.raises(CloudtaserError, match="not come in yet"):
        await accept_keys(root, cluster.fingerprint, layout=cluster.layout)


async def test_the_command_shows_both_sets_and_takes_the_digest_that_it_shows(
    run: Run, server: DevServer, root: OpenBao, capsys: pytest.CaptureFixture[str]
) -> None:
    import asyncio

    cluster = await registered_cluster(server, root, Layout())
    await waiting(root, cluster, key_set("a"))

    def call(*arguments: str) -> tuple[int, str]:
        code = main(["source", "accept-keys", cluster.fingerprint, *arguments])
        return code, capsys.readouterr().out

    code, out = await asyncio.to_thread(call, "--dry-run", "-o", "json")
    shown = json.loads(out)
    assert (code, [key["kid"] for key in shown["old"]], [key["kid"] for key in shown["new"]]) == (
        0,
        ["old"],
        ["a"],
    )
    assert (await asyncio.to_thread(call, "--digest", "sha256:00"))[0] == 3
    code, out = await asyncio.to_thread(call, "--digest", shown["digest"])
    assert (code, "Accepted the keys" in out) == (0, True)
    assert "No keys are waiting" in (await asyncio.to_thread(call))[1]
