"""Plain data in place of what the token method talks to, for its parts alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cloudtaser.errors import CloudtaserError
from cloudtaser.kube.events import Occurred
from cloudtaser.kube.objects import TokenReview
from cloudtaser.operator.tokens.ledger import NAMES, Entry
from cloudtaser.operator.tokens.ports import LivePod, PodRef
from cloudtaser.secret import Secret

Json = dict[str, Any]


@dataclass
class ClusterInMemory:
    """`ports.Cluster`: pods and ConfigMaps in dictionaries. `failures` are raised one a call, first."""

    pods: dict[str, LivePod] = field(default_factory=dict)
    maps: dict[str, dict[str, str]] = field(default_factory=dict)
    writes: list[Mapping[str, str | None]] = field(default_factory=list)
    failures: list[CloudtaserError] = field(default_factory=list)
    ended: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    verdict: TokenReview = field(default_factory=lambda: TokenReview(False))
    reviews: int = 0
    reads: int = 0
    lists: int = 0
    watches: int = 0

    async def review(self, token: Secret, audience: str) -> TokenReview:
        self.reviews += 1
        self._fail()
        return self.verdict

    async def pod(self, namespace: str, name: str) -> Json | None:
        self._fail()
        for pod in self.pods.values():
            if (pod.ref.namespace, pod.ref.name) == (namespace, name):
                return {"metadata": {"uid": pod.ref.uid, "resourceVersion": "1"}}
        return None

    async def annotate(self, pod: PodRef, version: str, annotations: Mapping[str, str]) -> None:
        self._fail()
        self.pods[pod.uid] = LivePod(pod, next(iter(annotations.values())))

    async def live_pods(self) -> Mapping[str, LivePod]:
        self.lists += 1
        self._fail()
        return dict(self.pods)

    async def ended_pods(self) -> AsyncGenerator[str, None]:
        self.watches += 1
        while True:
            yield await self.ended.get()

    async def read_ledger(self, name: str) -> Mapping[str, str]:
        self.reads += 1
        self._fail()
        return dict(self.maps.get(name, {}))

    async def write_ledger(self, name: str, changes: Mapping[str, str | None]) -> None:
        assert name in NAMES
        await asyncio.sleep(0)  # others come meanwhile
        self.writes.append(changes)
        self._fail()
        data = self.maps.setdefault(name, {})
        for key, value in changes.items():
            if value is None:
                data.pop(key, None)
            else:
                data[key] = value

    def _fail(self) -> None:
        if self.failures:
            raise self.failures.pop(0)


@dataclass
class VaultInMemory:
    """What `keeping` asks of a vault: which accessors live. `failures` as above."""

    live: dict[str, int] = field(default_factory=dict)
    failures: list[CloudtaserError] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)
    renewed: list[str] = field(default_factory=list)

    async def renew(self, accessor: str) -> int:
        self._fail()
        from cloudtaser.operator.tokens.vault import TokenGoneError

        if accessor not in self.live:
            raise TokenGoneError("OpenBao knows no such token")
        self.renewed.append(accessor)
        return self.live[accessor]

    async def revoke(self, accessor: str) -> None:
        self._fail()
        self.live.pop(accessor, None)
        self.revoked.append(accessor)

    def _fail(self) -> None:
        if self.failures:
            raise self.failures.pop(0)


@dataclass
class Events:
    """What would have become events."""

    notes: list[Occurred] = field(default_factory=list)
    noted: asyncio.Event = field(default_factory=asyncio.Event)

    def record(self, occurrence: Occurred) -> None:
        self.notes.append(occurrence)
        self.noted.set()


def entry(
    uid: str = "a", container: str = "web", accessor: str = "one", at: int = 1000, ttl: int = 3600
) -> Entry:
    return Entry(PodRef("shop", f"pod-{uid}", uid), container, accessor, at, ttl)


def live(uid: str = "a", annotation: str = "web=one") -> LivePod:
    return LivePod(PodRef("shop", f"pod-{uid}", uid), annotation)
