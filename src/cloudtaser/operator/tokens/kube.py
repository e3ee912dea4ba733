"""Kube: the ports of the token method over the API server.

Used by whoever wires a program. What is asked for is as little as it can be: pods are listed and watched by
their metadata alone, and an annotation is written by way of the pod's status, since the right to patch a pod
itself would be the right to run another image in it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Mapping
from typing import Final

from cloudtaser.kube.client import Json, KubeApi
from cloudtaser.kube.errors import ConflictError, GoneError, NotFoundError
from cloudtaser.kube.kinds import CONFIG_MAPS, PODS
from cloudtaser.kube.objects import TokenReview
from cloudtaser.operator.tokens.ports import LivePod, PodRef
from cloudtaser.operator.tokens.target import ACCESSOR_ANNOTATION
from cloudtaser.secret import Secret

LIVE: Final = "status.phase!=Succeeded,status.phase!=Failed"
"""Pods that have not ended. One that ends leaves the selection, which a watch tells as a deletion."""
LABELS: Final = {
    "app.kubernetes.io/name": "cloudtaser",
    "app.kubernetes.io/managed-by": "cloudtaser-operator",
}


class KubeCluster:
    """`ports.Cluster`. The ledger lies in `namespace`, our own."""

    def __init__(self, kube: KubeApi, namespace: str) -> None:
        self._kube = kube
        self._namespace = namespace
        self._version = ""

    async def review(self, token: Secret, audience: str) -> TokenReview:
        """See Cluster."""
        return await self._kube.token_review(token, (audience,))

    async def pod(self, namespace: str, name: str) -> Json | None:
        """See Cluster."""
        try:
            return await self._kube.get_object(PODS, namespace, name)
        except NotFoundError:
            return None

    async def annotate(self, pod: PodRef, version: str, annotations: Mapping[str, str]) -> None:
        """See Cluster."""
        metadata: Json = {"resourceVersion": version, "annotations": dict(annotations)}
        patch = {"metadata": metadata}
        await self._kube.patch_object(PODS, pod.namespace, pod.name, patch, subresource="status")

    async def live_pods(self) -> Mapping[str, LivePod]:
        """See Cluster."""
        page = await self._kube.list_objects(PODS, field_selector=LIVE, metadata_only=True)
        self._version = page.resource_version
        pods = (_live(item) for item in page.items)
        return {pod.ref.uid: pod for pod in pods}

    async def ended_pods(self) -> AsyncGenerator[str, None]:
        """See Cluster. From the last list on; without one, or when that is too old, from now on."""
        version = self._version
        if not version:
            page = await self._kube.list_page(PODS, field_selector=LIVE, metadata_only=True, limit=1)
            version = page.resource_version
        watch = self._kube.watch_objects(
            PODS, resource_version=version, field_selector=LIVE, metadata_only=True
        )
        try:
            async with contextlib.aclosing(watch) as events:
                async for event in events:
                    self._version = event.resource_version or self._version
                    if event.type == "DELETED":
                        yield _live(event.object).ref.uid
        except GoneError:
            self._version = ""
            raise

    async def read_ledger(self, name: str) -> Mapping[str, str]:
        """See Cluster."""
        found = await self._kube.get_config_map(self._namespace, name)
        return found.data if found is not None else {}

    async def write_ledger(self, name: str, changes: Mapping[str, str | None]) -> None:
        """See Cluster."""
        try:
            await self._patch(name, changes)
            return
        except NotFoundError:
            data = {key: value for key, value in changes.items() if value is not None}
        if not data:
            return
        try:
            await self._kube.create_config_map(self._namespace, name, data, LABELS)
        except ConflictError:  # another replica made it
            await self._patch(name, changes)

    async def _patch(self, name: str, changes: Mapping[str, str | None]) -> None:
        await self._kube.patch_object(CONFIG_MAPS, self._namespace, name, {"data": dict(changes)})


def _live(item: Json) -> LivePod:
    metadata = item.get("metadata") or {}
    ref = PodRef(str(metadata.get("namespace")), str(metadata.get("name")), str(metadata.get("uid")))
    return LivePod(ref, str((metadata.get("annotations") or {}).get(ACCESSOR_ANNOTATION, "")))
