"""Rotation of the leaves against a real OpenBao: what was out is listed, what is new is not."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest

from cloudtaser.demo.openbao import DevServer
from cloudtaser.errors import CloudtaserError
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.layout import Layout
from cloudtaser.openbao.leaves import GRACE_SECONDS, rotate_leaves
from cloudtaser.openbao.pki import PkiRole, new_key, sign
from cloudtaser.openbao.records import Records, Revoked, seconds
from cloudtaser.openbao.registration import register
from cloudtaser.openbao.rotation import rotate_authorities
from cloudtaser.wire.names import bridge_uri, broker_uri
from tests.integration.openbao.support import (
    RegisteredCluster,
    Run,
    each_kill,
    new_fingerprint,
    recorded,
    registered_cluster,
)


async def leaf(root: OpenBao, cluster: RegisteredCluster, role: PkiRole = PkiRole.BROKER) -> str:
    """The serial of a new certificate."""
    uri = (broker_uri if role is PkiRole.BROKER else bridge_uri)(cluster.fingerprint, "one")
    return (await sign(root, cluster.space, role, new_key()[1], uris=(uri,))).serial


async def revoked(root: OpenBao, cluster: RegisteredCluster) -> Revoked:
    return await Records(root, cluster.layout).revoked(cluster.fingerprint)


def number(serial: str) -> int:
    return int(serial.replace(":", ""), 16)


async def test_what_is_out_counts_for_90_seconds_more_and_what_comes_then_stays(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    out = {await leaf(root, cluster), await leaf(root, cluster, PkiRole.BRIDGE)}
    result = await rotate_leaves(root, cluster.fingerprint, layout=cluster.layout)
    assert set(result.pending) == out
    assert (await recorded(root, cluster)).rotated_at == result.rotated_at
    record = await revoked(root, cluster)
    begun = seconds(result.rotated_at)
    assert record.numbers(begun + GRACE_SECONDS - 1) == frozenset()
    assert record.numbers(begun + GRACE_SECONDS) == {number(serial) for serial in out}


async def test_a_certificate_of_the_same_second_is_older_than_the_rotation(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    serial = await leaf(root, cluster)
    behind = time.time() - 30  # a clock that is late
    result = await rotate_leaves(root, cluster.fingerprint, layout=cluster.layout, now=behind)
    assert result.pending == (serial,)
    assert seconds(result.rotated_at) > behind


async def test_run_again_it_completes_and_begins_nothing(root: OpenBao, cluster: RegisteredCluster) -> None:
    await leaf(root, cluster)
    first = await rotate_leaves(root, cluster.fingerprint, layout=cluster.layout)
    again = await rotate_leaves(root, cluster.fingerprint, layout=cluster.layout)
    assert (again.rotated_at, again.pending, again.changed) == (first.rotated_at, first.pending, False)


async def test_run_again_it_leaves_alone_what_was_made_since(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    old = await leaf(root, cluster)
    long_ago = time.time() - GRACE_SECONDS + 20
    begun = await rotate_leaves(root, cluster.fingerprint, layout=cluster.layout, now=long_ago - 3600)
    records = Records(root, cluster.layout)
    record, version = await records.registered_version(cluster.fingerprint)
    assert record is not None
    # as it is when a run was killed between its two writes, and bridges came since
    await records.forget(cluster.layout.revoked(cluster.fingerprint))
    later = seconds(begun.rotated_at) + 5
    result = await rotate_leaves(root, cluster.fingerprint, layout=cluster.layout, now=later)
    assert result.rotated_at == begun.rotated_at
    assert result.pending == (old,)
    assert (await records.registered_version(cluster.fingerprint))[1] == version


async def test_at_once_is_at_once_also_for_what_was_waiting(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    serial = await leaf(root, cluster)
    await rotate_leaves(root, cluster.fingerprint, layout=cluster.layout)
    result = await rotate_leaves(root, cluster.fingerprint, at_once=True, layout=cluster.layout)
    assert (result.revoked, result.pending) == ((serial,), ())
    assert (await revoked(root, cluster)).numbers(0) == {number(serial)}
    assert not (await rotate_leaves(root, cluster.fingerprint, at_once=True, layout=cluster.layout)).changed


async def test_what_was_waiting_moves_on_and_what_has_expired_is_forgotten(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    first = await leaf(root, cluster)
    await rotate_leaves(root, cluster.fingerprint, layout=cluster.layout)
    second = await leaf(root, cluster)
    later = time.time() + 2 * GRACE_SECONDS
    result = await rotate_leaves(root, cluster.fingerprint, layout=cluster.layout, now=later)
    assert (result.revoked, result.pending) == ((first,), (second,))
    tomorrow = later + 25 * 3600
    result = await rotate_leaves(root, cluster.fingerprint, layout=cluster.layout, now=tomorrow)
    assert (result.revoked, result.pending) == ((), ())


async def test_no_ca_and_no_endorsement_is_ever_listed(root: OpenBao, cluster: RegisteredCluster) -> None:
    await rotate_authorities(root, cluster.fingerprint, layout=cluster.layout)
    result = await rotate_leaves(root, cluster.fingerprint, layout=cluster.layout)
    assert (result.revoked, result.pending) == ((), ())


async def test_pairs_that_are_stored_are_made_anew(root: OpenBao, layout: Layout) -> None:
    fingerprint = new_fingerprint()
    await register(root, fingerprint, pregenerate=True, layout=layout)
    later = time.time() + 60
    result = await rotate_leaves(root, fingerprint, layout=layout, now=later)
    assert len(result.pairs) == 3
    assert len(result.pending) == 2
    assert not (await rotate_leaves(root, fingerprint, layout=layout, now=later + 1)).changed
    assert not (await register(root, fingerprint, layout=layout)).changed
    rotated = await rotate_authorities(root, fingerprint, layout=layout)
    assert len([action for action in rotated.actions if "make it, of one year" in action.why]) == 3
    again = await register(root, fingerprint, layout=layout)
    assert [action.why for action in again.actions if action.changed] == []


async def test_a_dry_run_writes_nothing(root: OpenBao, cluster: RegisteredCluster) -> None:
    await leaf(root, cluster)
    planned = await rotate_leaves(root, cluster.fingerprint, layout=cluster.layout, dry_run=True)
    assert (await recorded(root, cluster)).rotated_at == ""
    assert await revoked(root, cluster) == Revoked()
    done = await rotate_leaves(root, cluster.fingerprint, layout=cluster.layout)
    assert [a.why for a in planned.actions] == [a.why for a in done.actions]


@pytest.mark.slow
async def test_killed_after_any_request_it_is_completed_by_another_run(
    server: DevServer, root: OpenBao
) -> None:
    cluster = await registered_cluster(server, root)
    records = Records(root, cluster.layout)

    async def prepare() -> str:
        await records.forget(cluster.layout.revoked(cluster.fingerprint))
        record, version = await records.registered_version(cluster.fingerprint)
        assert record is not None
        await records.write_registered(replace(record, rotated_at=""), version)
        return await leaf(root, cluster)

    async def run(client: OpenBao, _: str) -> None:
        await rotate_leaves(client, cluster.fingerprint, layout=cluster.layout)

    async for last, _, serial in each_kill(server, prepare, run):
        await rotate_leaves(root, cluster.fingerprint, layout=cluster.layout)
        record = await revoked(root, cluster)
        assert serial in record.pending, f"killed after request {last}"
        assert seconds(record.pending_from) - seconds((await recorded(root, cluster)).rotated_at) == 90


async def test_an_unknown_cluster_gets_one_clear_line(root: OpenBao, layout: Layout) -> None:
    with pytest.raises(CloudtaserError, match="not registered"):
        await rotate_leaves(root, new_fingerprint(), layout=layout)


def test_rotate_says_from_when_on_the_former_count_no_more(run: Run) -> None:
    fingerprint = new_fingerprint()
    run("register", "--fingerprint", fingerprint)
    code, out, _ = run("rotate", fingerprint)
    assert (code, "made anew" in out) == (0, True)
    assert "nothing changed" in run("rotate", fingerprint)[1]
    assert json.loads(run("rotate", fingerprint, "--now", "-o", "json")[1])["revoked"] == []
    assert run("rotate", fingerprint, "--now", "--ca")[0] == 2
