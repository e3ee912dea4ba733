"""The ledger: what is written is there, and many writes at once are few requests."""

from __future__ import annotations

import asyncio

import pytest

from cloudtaser.kube.errors import KubeUnavailableError
from cloudtaser.operator.tokens.ledger import NAMES, Ledger, shard_of
from tests.unit.operator.tokens.fakes import ClusterInMemory, entry


async def test_what_was_added_is_found_and_what_was_removed_is_not() -> None:
    ledger = Ledger(cluster := ClusterInMemory())
    ours, theirs = entry("a"), entry("b", accessor="two")
    await asyncio.gather(ledger.add(ours), ledger.add(theirs))
    assert sorted(await ledger.entries(), key=repr) == [ours, theirs]
    assert await ledger.of_pod("a") == [ours]
    await ledger.remove(ours)
    assert await ledger.entries() == [theirs]
    assert set(cluster.maps) <= set(NAMES)


async def test_hundreds_of_pods_at_once_are_a_few_requests() -> None:
    ledger = Ledger(cluster := ClusterInMemory())
    many = [entry(f"pod-{number}", accessor=f"token-{number}") for number in range(400)]
    await asyncio.gather(*(ledger.add(one) for one in many))
    assert len(await ledger.entries()) == 400
    assert len(cluster.writes) <= 3 * len(NAMES)


async def test_a_write_that_failed_is_told_to_all_who_waited_for_it_and_to_nobody_else() -> None:
    ledger = Ledger(cluster := ClusterInMemory())
    uids = [uid for uid in map(str, range(100)) if shard_of(uid) == shard_of("0")][:3]
    cluster.failures.append(KubeUnavailableError("the API server is not ready"))
    results = await asyncio.gather(*(ledger.add(entry(uid)) for uid in uids), return_exceptions=True)
    assert any(isinstance(result, KubeUnavailableError) for result in results)
    await ledger.add(entry(uids[0]))
    assert await ledger.of_pod(uids[0]) == [entry(uids[0])]


async def test_who_waits_at_the_end_does_not_wait_for_ever() -> None:
    ledger = Ledger(ClusterInMemory())
    waiting = asyncio.ensure_future(ledger.add(entry()))
    await asyncio.sleep(0)
    await ledger.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
