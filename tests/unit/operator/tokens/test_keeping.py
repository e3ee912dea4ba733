"""Keeping: what the leader does for the tokens that are out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from prometheus_client import CollectorRegistry

from cloudtaser.errors import UnavailableError
from cloudtaser.operator.tokens.keeping import Keeping
from cloudtaser.operator.tokens.ledger import NAMES, Entry, Ledger
from cloudtaser.operator.tokens.metrics import TokenMetrics
from cloudtaser.operator.tokens.vault import Vault
from tests.chain_tools import eventually
from tests.unit.operator.tokens.fakes import ClusterInMemory, VaultInMemory, entry, live


@dataclass
class Scene:
    cluster: ClusterInMemory = field(default_factory=ClusterInMemory)
    vault: VaultInMemory = field(default_factory=VaultInMemory)
    now: float = 100_000.0
    sweep_every: float = 60.0

    def put(self, *entries: Entry) -> None:
        for one in entries:
            self.cluster.maps.setdefault(one.shard, {})[one.key] = one.value
            self.vault.live[one.accessor] = one.ttl

    @property
    def written(self) -> set[str]:
        return {value.split()[0] for data in self.cluster.maps.values() for value in data.values()}

    @asynccontextmanager
    async def led(self) -> AsyncIterator[Keeping]:
        metrics = TokenMetrics(CollectorRegistry())
        keeping = Keeping(
            self.cluster, cast(Vault, self.vault), Ledger(self.cluster), metrics,
            clock=asyncio.get_running_loop().time, wall=lambda: self.now, sweep_every=self.sweep_every,
        )  # fmt: skip
        stop = asyncio.Event()
        running = asyncio.ensure_future(keeping.run(stop))
        try:
            yield keeping
        finally:
            stop.set()
            await running


async def until(condition: Callable[[], Any], what: str) -> None:
    async def holds() -> bool:
        return bool(condition())

    await eventually(holds, what)


async def test_who_comes_to_lead_revokes_what_ended_before() -> None:
    scene = Scene()
    scene.cluster.pods = {"a": live()}
    scene.put(entry(), entry("b", accessor="two"))
    async with scene.led() as keeping:
        await until(lambda: scene.written == {"one"}, "the token of the pod that is gone is forgotten")
        assert scene.vault.revoked == ["two"]
        assert keeping.tokens == 1
    assert keeping.tokens == 0


async def test_a_pod_that_ends_loses_its_tokens_at_once() -> None:
    scene = Scene()
    scene.cluster.pods = {"a": live(), "b": live("b", "web=two")}
    scene.put(entry(), entry("b", accessor="two"), entry("b", "side", "three"))
    async with scene.led() as keeping:
        await until(lambda: keeping.tokens == 3, "it knows all")
        del scene.cluster.pods["b"]
        scene.cluster.ended.put_nowait("b")
        await until(lambda: scene.written == {"one"}, "both are forgotten")
    assert sorted(scene.vault.revoked) == ["three", "two"]


async def test_what_openbao_cannot_revoke_now_stays_in_the_ledger_and_is_revoked_later() -> None:
    scene = Scene()
    scene.put(entry())
    scene.vault.failures = [UnavailableError("no tunnel to a bridge is up")]
    async with scene.led():
        await until(lambda: not scene.vault.failures, "the first attempt has failed")
        assert scene.written == {"one"}
        await until(lambda: not scene.written, "the second is soon")
    assert scene.vault.revoked == ["one"]


async def test_an_api_server_that_is_away_ends_nothing() -> None:
    scene = Scene()
    scene.put(entry())
    scene.cluster.failures = [UnavailableError("the API server is not ready")] * 20
    async with scene.led():
        await until(lambda: scene.vault.revoked == ["one"], "it looks again")


async def test_a_token_that_openbao_does_not_know_any_more_is_forgotten() -> None:
    scene = Scene()
    scene.cluster.pods = {"a": live()}
    scene.put(entry(at=1, ttl=1))
    scene.vault.live.clear()
    async with scene.led() as keeping:
        await until(lambda: not scene.written, "it is out of the ledger")
        assert keeping.tokens == 0
    assert scene.vault.revoked == []


async def test_an_annotation_that_lies_is_put_right() -> None:
    scene = Scene()
    scene.cluster.pods = {"a": live(annotation="web=somebody-elses")}
    scene.put(entry())
    async with scene.led():
        await until(lambda: scene.cluster.pods["a"].annotation == "web=one", "it says what is in use")
    assert scene.vault.revoked == []


async def test_where_no_token_is_out_pods_are_neither_listed_nor_watched() -> None:
    scene = Scene(sweep_every=0.01)
    async with scene.led() as keeping:
        await until(lambda: scene.cluster.reads >= 3 * len(NAMES), "it has looked three times")
        assert (scene.cluster.lists, scene.cluster.watches) == (0, 0)
        scene.cluster.pods = {"a": live()}
        scene.put(entry())
        keeping.expect()
        await until(lambda: scene.cluster.lists and scene.cluster.watches and keeping.tokens, "now they are")
