"""Ports: what the token method needs of the rest of the operator, and nothing beyond.

Given to `method.TokenMethod` by whoever wires the program: over the API server and the tunnels in production,
over plain data in unit tests.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from cloudtaser.kube.objects import TokenReview
from cloudtaser.secret import Secret

Json = dict[str, Any]

Pipe = Callable[[asyncio.Protocol], Awaitable[object]]
"""Connects a protocol to some bridge by a tunnel stream of kind `operator`: bytes as they come, no TLS yet.
UnavailableError without a tunnel."""


class Identity(Protocol):
    """Who the operator is (the manager)."""

    pod_ca: str | None
    """The pod CA, PEM, as far as it is known."""

    async def refresh_pod_ca(self) -> None:
        """Take the pod CA as it is stored now."""

    async def operator_token(self) -> Secret:
        """The operator's own ServiceAccount token, for the bridge."""


@dataclass(frozen=True, slots=True)
class PodRef:
    """One pod, for good: a later one of the same name has another UID."""

    namespace: str
    name: str
    uid: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class LivePod:
    """What the keeper knows of a pod that is there: its name, and the annotation with its accessors."""

    ref: PodRef
    annotation: str


class Cluster(Protocol):
    """The API server, as far as it is needed here. Every method raises the errors of `kube.errors`."""

    async def review(self, token: Secret, audience: str) -> TokenReview:
        """The API server's verdict on a token for that audience."""

    async def pod(self, namespace: str, name: str) -> Json | None:
        """The pod, or None when there is none of that name."""

    async def annotate(self, pod: PodRef, version: str, annotations: Mapping[str, str]) -> None:
        """Set annotations of the pod as it was at that resource version. ConflictError when it changed since,
        NotFoundError when it is gone."""

    async def live_pods(self) -> Mapping[str, LivePod]:
        """Every pod that has not ended, by UID."""

    def ended_pods(self) -> AsyncGenerator[str, None]:
        """The UID of each pod that ends or is deleted from now on, until the watch breaks (then it raises, or
        just ends)."""

    async def read_ledger(self, name: str) -> Mapping[str, str]:
        """The data of one ledger's ConfigMap; empty where there is none."""

    async def write_ledger(self, name: str, changes: Mapping[str, str | None]) -> None:
        """Set these keys of one ledger's ConfigMap, and remove those whose value is None; others stay as they
        are, whoever writes them. The ConfigMap is made where there is none."""
