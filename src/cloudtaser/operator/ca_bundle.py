"""CaBundle: keeps the webhook configurations' caBundle the union of what all live replicas serve under.

Run by the leader (`leadership`). Every few seconds it reads the replicas' Leases and looks at both
configurations; what somebody changed by hand is put right then. The one right that this takes is to patch
those two objects: an empty patch is how they are read. Which CAs are in place is told to all replicas by the
leader's own Lease.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from cloudtaser.errors import CloudtaserError
from cloudtaser.kube.errors import ConflictError, NotFoundError
from cloudtaser.kube.kinds import LEASES, MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS, Kind
from cloudtaser.kube.verbs import PatchType
from cloudtaser.net.log import get_logger
from cloudtaser.operator.enrolment import Reporter
from cloudtaser.operator.metrics import ManagerMetrics
from cloudtaser.operator.replica import CA_ANNOTATION, LEASE_SECONDS, SELECTOR
from cloudtaser.operator.serving_keys import read_published

EVERY: Final = 5.0
"""Seconds between two looks."""
MAX_LEASES: Final = 10_000
"""That are looked at: pods that never came to an end of their own leave theirs behind."""
MAX_REPLICAS: Final = 100
"""Whose CAs go into the bundle: those that were renewed last."""
KNOWN_ANNOTATION: Final = "cloudtaser.io/webhook-cas"
"""Of the leader's Lease: ids of the CAs that both configurations hold."""
KINDS: Final = (MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS)

_log = get_logger("operator.ca_bundle")
Json = dict[str, Any]


class Listed(Protocol):
    """A list of objects."""

    @property
    def items(self) -> Sequence[Json]:
        """The objects."""


class Configurations(Protocol):
    """What is needed of the API server; `kube.client.KubeApi` has it."""

    async def list_objects(
        self, kind: Kind, namespace: str | None = None, *, label_selector: str = "", max_objects: int = ...
    ) -> Listed:
        """All objects of that kind."""

    async def patch_object(
        self, kind: Kind, namespace: str | None, name: str, patch: Any, *, content_type: str = ...
    ) -> Json:
        """Patch it; the object afterwards."""

    async def delete_object(self, kind: Kind, namespace: str | None, name: str) -> None:
        """Delete it; NotFoundError when there is none."""


class CaBundle:
    """A controller: `run(stop)` while we lead."""

    def __init__(
        self,
        kube: Configurations,
        namespace: str,
        name: str,
        publish: Callable[[str, str], None],
        metrics: ManagerMetrics,
        *,
        every: float = EVERY,
    ) -> None:
        """`name` is that of both configurations; `publish(annotation, value)` tells the replicas."""
        self._kube = kube
        self._namespace = namespace
        self._name = name
        self._publish = publish
        self._metrics = metrics
        self._every = every
        self._seen: dict[str, tuple[str, float]] = {}
        self._written: str | None = None
        self._reporter = Reporter()
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Look now: something changed."""
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`."""
        self._seen.clear()  # how long others were silent before we led, we do not know
        self._written = None
        stopping = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set():
                self._wake.clear()
                try:
                    await self.look()
                except CloudtaserError as error:
                    if self._reporter.due(error.what, asyncio.get_running_loop().time()):
                        _log.warning("the webhooks' CA cannot be kept right", error=error.diagnostic())
                waking = asyncio.ensure_future(self._wake.wait())
                await asyncio.wait(
                    {stopping, waking}, timeout=self._every, return_when=asyncio.FIRST_COMPLETED
                )
                waking.cancel()
        finally:
            stopping.cancel()

    async def look(self) -> None:
        """One look. Raises the errors of `kube.errors`."""
        page = await self._kube.list_objects(
            LEASES, self._namespace, label_selector=SELECTOR, max_objects=MAX_LEASES
        )
        live = (await self._live(page.items))[:MAX_REPLICAS]
        cas: dict[str, str] = {}
        for lease in live:
            text = (lease["metadata"].get("annotations") or {}).get(CA_ANNOTATION, "")
            cas |= read_published(text, datetime.now(UTC))
        if not cas:
            return  # rather an old bundle than none
        ids = sorted(cas)
        bundle = "".join(cas[one] for one in ids)
        for kind in KINDS:
            await self._keep(kind, base64.b64encode(bundle.encode()).decode())
        if self._written != bundle:
            self._written = bundle
            _log.info("the webhooks' CAs are in place", cas=ids, replicas=len(live))
        self._publish(KNOWN_ANNOTATION, ",".join(ids))

    async def _live(self, leases: Sequence[Json]) -> list[Json]:
        """Those that are renewed, by our own clock, the last renewed first; what no longer is is deleted."""
        now = asyncio.get_running_loop().time()
        live: list[Json] = []
        seen: dict[str, tuple[str, float]] = {}
        for lease in leases:
            name = str(lease["metadata"]["name"])
            version = str(lease["metadata"].get("resourceVersion", ""))
            before = self._seen.get(name)
            seen[name] = before if before is not None and before[0] == version else (version, now)
            if now - seen[name][1] <= LEASE_SECONDS:
                live.append(lease)
                continue
            _log.info("a replica is gone", lease=name)
            del seen[name]
            with contextlib.suppress(NotFoundError):
                await self._kube.delete_object(LEASES, self._namespace, name)
        self._seen = seen
        return sorted(
            live, key=lambda lease: (seen[lease["metadata"]["name"]][1], _renewed(lease)), reverse=True
        )

    async def _keep(self, kind: Kind, bundle: str) -> None:
        """Put right what is not; a configuration that is not there is for a person to put back."""
        for _ in range(3):
            found = await self._patch(kind, {})
            wrong = [one["name"] for one in found.get("webhooks") or () if _bundle(one) != bundle]
            if not wrong:
                return
            webhooks = [{"name": name, "clientConfig": {"caBundle": bundle}} for name in wrong]
            version = {"resourceVersion": found["metadata"]["resourceVersion"]}
            try:
                await self._patch(kind, {"metadata": version, "webhooks": webhooks})
            except ConflictError:
                continue
            self._metrics.ca_bundle_writes.inc()
            return
        raise ConflictError("others keep changing it", on=f"{kind.plural} {self._name}")

    async def _patch(self, kind: Kind, patch: Mapping[str, Any]) -> Json:
        return await self._kube.patch_object(
            kind, None, self._name, dict(patch), content_type=PatchType.STRATEGIC
        )


def _renewed(lease: Json) -> str:
    """When, as it says itself: what there is to go by where we have looked once."""
    return str((lease.get("spec") or {}).get("renewTime") or "")


def _bundle(webhook: Json) -> str:
    return str((webhook.get("clientConfig") or {}).get("caBundle") or "")
