"""Replica: what this pod says of itself in a Lease of its own, so that others know that it lives.

Used by `serving`, which says in it under which CAs the webhook is served. The Lease is renewed while the pod
lives and deleted when it ends in order; the leader (`ca_bundle`) forgets one that is no longer renewed.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final, Protocol

from cloudtaser.kube.errors import ConflictError, NotFoundError
from cloudtaser.kube.kinds import LEASES, Kind
from cloudtaser.operator.election import micro_time

PREFIX: Final = "cloudtaser-replica-"
LABEL: Final = "cloudtaser.io/replica"
SELECTOR: Final = f"{LABEL}=true"
CA_ANNOTATION: Final = "cloudtaser.io/webhook-ca"
LEASE_SECONDS: Final = 60


class Leases(Protocol):
    """What is needed of the API server; `kube.client.KubeApi` has it."""

    async def get_object(self, kind: Kind, namespace: str | None, name: str) -> dict[str, Any]:
        """The object; NotFoundError when there is none."""

    async def create_object(self, kind: Kind, body: dict[str, Any]) -> dict[str, Any]:
        """Create it; ConflictError when it is there already."""

    async def replace_object(self, kind: Kind, body: dict[str, Any]) -> dict[str, Any]:
        """Replace it; ConflictError when it changed since."""

    async def delete_object(self, kind: Kind, namespace: str | None, name: str) -> None:
        """Delete it; NotFoundError when there is none."""


class Replica:
    """Our own Lease."""

    def __init__(self, kube: Leases, namespace: str, pod: str) -> None:
        """`pod`: our pod's name; a container that is restarted in it takes its predecessor's place."""
        self._kube = kube
        self._namespace = namespace
        self.pod = pod
        self.name = PREFIX + pod
        self._last: dict[str, Any] | None = None

    async def say(self, webhook_ca: str) -> None:
        """We live, and these are our CAs. Raises the errors of `kube.errors`."""
        body: dict[str, Any] = {
            "metadata": {
                "namespace": self._namespace,
                "name": self.name,
                "labels": {LABEL: "true", "app.kubernetes.io/managed-by": "cloudtaser-operator"},
                "annotations": {CA_ANNOTATION: webhook_ca},
            },
            "spec": {
                "holderIdentity": self.pod,
                "leaseDurationSeconds": LEASE_SECONDS,
                "renewTime": micro_time(datetime.now(UTC)),
            },
        }
        for _ in range(3):
            try:
                if self._last is None:
                    self._last = await self._kube.create_object(LEASES, body)
                else:
                    version = {"resourceVersion": self._last["metadata"]["resourceVersion"]}
                    metadata = {**body["metadata"], **version}
                    self._last = await self._kube.replace_object(LEASES, {**body, "metadata": metadata})
                return
            except ConflictError:
                self._last = await self._found()
            except NotFoundError:
                self._last = None
        raise ConflictError("others keep changing it", on=f"Lease {self._namespace}/{self.name}")

    async def leave(self) -> None:
        """We end. Raises the errors of `kube.errors`."""
        try:
            await self._kube.delete_object(LEASES, self._namespace, self.name)
        except NotFoundError:
            return

    async def _found(self) -> dict[str, Any] | None:
        try:
            return await self._kube.get_object(LEASES, self._namespace, self.name)
        except NotFoundError:
            return None
