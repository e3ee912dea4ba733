"""Minting: how many jobs there are, whatever is announced."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import cast

import pytest
from prometheus_client import CollectorRegistry

from cloudtaser.errors import UnavailableError
from cloudtaser.operator.tokens import delivery
from cloudtaser.operator.tokens.announcement import Announcement, Announcer
from cloudtaser.operator.tokens.credentials import Credentials
from cloudtaser.operator.tokens.custody import WRAPPER_TRIES
from cloudtaser.operator.tokens.ledger import Ledger
from cloudtaser.operator.tokens.metrics import TokenMetrics
from cloudtaser.operator.tokens.minting import POD_RATE, Minting, MintingLimits
from cloudtaser.operator.tokens.ports import PodRef
from cloudtaser.operator.tokens.target import Target
from cloudtaser.operator.tokens.vault import Vault
from cloudtaser.secret import Secret
from tests.unit.operator.tokens.fakes import ClusterInMemory, Events, VaultInMemory


@dataclass
class Scene:
    minting: Minting
    events: Events
    asked: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    now: float = 1000.0


def make(waiting: int = 100, workers: int = 2, of_namespace: int = 4) -> Scene:
    metrics = TokenMetrics(CollectorRegistry())
    cluster, events = ClusterInMemory(), Events()
    minting = Minting(
        cluster, cast(Vault, VaultInMemory()), cast(Credentials, None), Ledger(cluster), events, metrics,
        limits=MintingLimits(workers, of_namespace, waiting), on_minted=lambda: None,
        clock=lambda: scene.now, wall=lambda: 0.0,
    )  # fmt: skip
    scene = Scene(minting, events)
    return scene


def announce(
    scene: Scene, uid: str = "a", key: int = 0, container: str = "web", namespace: str = "shop"
) -> float:
    announcer = Announcer(PodRef(namespace, f"pod-{uid}", uid), "web")
    return scene.minting.submit(announcer, Announcement(uid, container, bytes([key]) * 32, Secret("jwt")))


def test_the_same_announcement_again_is_no_second_job() -> None:
    scene = make()
    for _ in range(100):
        assert announce(scene) == 0.0
    assert scene.minting.waiting == 1


def test_another_key_takes_the_place_of_the_one_that_waits() -> None:
    scene = make()
    announce(scene, key=1)
    announce(scene, key=2)
    announce(scene, container="side")
    assert scene.minting.waiting == 2


def test_one_pod_cannot_have_tokens_made_without_end() -> None:
    scene = make()
    answers = [announce(scene, key=number) for number in range(50)]
    assert answers.count(0.0) == POD_RATE.burst
    assert announce(scene, "b") == 0.0, "others are heard"
    scene.now += max(answers)
    assert announce(scene, key=200) == 0.0


def test_what_waits_is_bounded_and_who_comes_beyond_is_told_to_come_back() -> None:
    scene = make(waiting=10)
    answers = [announce(scene, f"pod-{number}", namespace=f"of-{number}") for number in range(50)]
    assert answers[:10] == [0.0] * 10
    assert min(answers[10:]) >= 5.0
    assert scene.minting.waiting == 10


def test_one_namespace_has_half_of_what_may_wait() -> None:
    scene = make(waiting=10)
    answers = [announce(scene, f"pod-{number}") for number in range(50)]
    assert answers[:5] == [0.0] * 5
    assert min(answers[5:]) >= 5.0
    assert announce(scene, "b", namespace="bank") == 0.0, "others are heard"


async def test_pods_of_one_namespace_that_do_not_answer_leave_workers_to_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = make(workers=4, of_namespace=2)

    async def waits_for(_: Target, public_key: bytes) -> bool:
        scene.asked.put_nowait(public_key)
        await scene.go.wait()
        return False

    monkeypatch.setattr(delivery, "waits_for", waits_for)
    monkeypatch.setattr(
        "cloudtaser.operator.tokens.minting.find", lambda *_: Target("10.0.0.1", 8199, "1", {})
    )
    running = asyncio.ensure_future(scene.minting.run())
    for number in range(20):
        announce(scene, f"slow-{number}", key=1)
    for _ in range(2):
        assert await scene.asked.get() == bytes([1]) * 32
    announce(scene, "b", key=2, namespace="bank")
    assert await scene.asked.get() == bytes([2]) * 32
    assert scene.minting.waiting == 18
    scene.go.set()
    for _ in range(18):
        assert await scene.asked.get() == bytes([1]) * 32, "and all are served in the end"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_what_is_tried_again_later_keeps_no_worker_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = make(waiting=4, workers=1)

    async def waits_for(_: Target, public_key: bytes) -> bool:
        scene.asked.put_nowait(public_key)
        raise UnavailableError("the wrapper cannot be asked", on="10.0.0.1:8199")

    monkeypatch.setattr(delivery, "waits_for", waits_for)
    monkeypatch.setattr(
        "cloudtaser.operator.tokens.minting.find", lambda *_: Target("10.0.0.1", 8199, "1", {})
    )
    monkeypatch.setattr("cloudtaser.operator.tokens.minting._scattered", lambda _: 3600.0)
    running = asyncio.ensure_future(scene.minting.run())
    announce(scene, "a", key=1)
    announce(scene, "b", key=2)
    assert await scene.asked.get() == bytes([1]) * 32
    assert await scene.asked.get() == bytes([2]) * 32
    assert announce(scene, "c", key=3) > 0.0, "what is tried again later is counted among what waits"
    assert announce(scene, "a", key=1) == 0.0, "and known by its key"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert scene.asked.empty()


async def test_a_container_is_served_one_announcement_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = make()

    async def waits_for(_: Target, public_key: bytes) -> bool:
        scene.asked.put_nowait(public_key)
        await scene.go.wait()
        return False

    monkeypatch.setattr(delivery, "waits_for", waits_for)
    monkeypatch.setattr(
        "cloudtaser.operator.tokens.minting.find", lambda *_: Target("10.0.0.1", 8199, "1", {})
    )
    running = asyncio.ensure_future(scene.minting.run())
    announce(scene, key=1)
    assert await scene.asked.get() == bytes([1]) * 32
    announce(scene, key=1)
    announce(scene, key=2)
    announce(scene, key=3)
    announce(scene, "b", key=9)
    assert await scene.asked.get() == bytes([9]) * 32, "the other worker is free"
    assert scene.minting.waiting == 0
    scene.go.set()
    assert await scene.asked.get() == bytes([3]) * 32, "of those that came meanwhile the last"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert scene.asked.empty()


async def test_why_a_pod_is_not_unsealed_is_an_event_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = make()

    async def waits_for(_: Target, public_key: bytes) -> bool:
        scene.asked.put_nowait(public_key)
        raise UnavailableError("the wrapper cannot be asked", on="10.0.0.1:8199")

    monkeypatch.setattr(delivery, "waits_for", waits_for)
    monkeypatch.setattr(
        "cloudtaser.operator.tokens.minting.find", lambda *_: Target("10.0.0.1", 8199, "1", {})
    )
    monkeypatch.setattr("cloudtaser.operator.tokens.minting._scattered", lambda _: 0.0)
    running = asyncio.ensure_future(scene.minting.run())
    announce(scene)
    await scene.events.noted.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert scene.asked.qsize() == WRAPPER_TRIES
    (note,) = scene.events.notes
    assert (note.kind, note.name, note.uid, note.reason) == ("Pod", "pod-a", "a", "NotUnsealed")
    assert note.message == "container web waits for its token: the wrapper cannot be asked (10.0.0.1:8199)"
