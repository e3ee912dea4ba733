"""MappingController: says of every SecretMapping how far its workload has left Kubernetes Secrets behind.

Run on the leader. Workloads are asked for one by one, when a mapping changes and once a minute: to watch five
kinds in all namespaces would cost more than it tells. `judge` is pure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from cloudtaser.kube.errors import NotFoundError
from cloudtaser.kube.kinds import Kind
from cloudtaser.kube.resources import SECRET_MAPPINGS, SecretMapping
from cloudtaser.kube.watch import Key, Reflector
from cloudtaser.operator.controllers.configs import ConfigStore
from cloudtaser.operator.controllers.status import Condition, StatusApi, merged, write
from cloudtaser.operator.controllers.templates import KINDS, Template
from cloudtaser.operator.controllers.work import Work

Json = dict[str, Any]
LOOK_SECONDS: Final = 60.0
_SHOWN: Final = 5


class MappingApi(StatusApi, Protocol):
    """What is asked of the API server; `kube.client.KubeApi` does it."""

    async def get_object(self, kind: Kind, namespace: str | None, name: str) -> Json:
        """The object; NotFoundError when there is none."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How far one workload is."""

    phase: str
    message: str
    remaining: tuple[str, ...] = ()
    """Kubernetes Secrets of the mapping that it still uses."""


def judge(mapping: SecretMapping, template: Template | None, config_paths: Set[str]) -> Verdict:
    """`template` None: there is no such workload. `config_paths`: of the CloudTaserConfig that it names."""
    workload = f"{mapping.kind} {mapping.name}"
    if mapping.plan_status == "skipped":
        return Verdict("Skipped", mapping.reason or "the plan says so")
    if template is None:
        return Verdict("Missing", f"there is no {workload} in this namespace")
    remaining = tuple(sorted({entry.source for entry in mapping.secrets} & template.secrets))
    if not template.injected:
        return Verdict("Pending", f"{workload} is not injected: cloudtaser-cli target protect", remaining)
    asked = template.paths | config_paths
    missing = sorted({entry.vault_path for entry in mapping.secrets} - asked)
    if missing:
        return Verdict("Incomplete", f"{workload} does not ask for {_some(missing)}", remaining)
    if remaining:
        return Verdict(
            "Incomplete", f"{workload} still uses the Kubernetes Secret {_some(remaining)}", remaining
        )
    return Verdict("Migrated", f"{workload} is injected and uses none of these Kubernetes Secrets")


def _some(names: Any) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


class MappingController:
    """Statuses of SecretMappings."""

    def __init__(
        self,
        api: MappingApi,
        mappings: Reflector[SecretMapping],
        configs: ConfigStore,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._api = api
        self._mappings = mappings
        self._configs = configs
        self._now = now
        self._look_seconds = look_seconds
        self._work = Work("SecretMapping", self.reconcile)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`."""
        changes = self._mappings.subscribe()
        try:
            await self._work.run(stop, changes)
        finally:
            self._mappings.unsubscribe(changes)

    async def reconcile(self, key: Key) -> float | None:
        """Write the status of one, if it changes."""
        mapping = self._mappings.get(*key)
        if mapping is None or mapping.metadata.deleting:
            return None
        template = None if mapping.plan_status == "skipped" else await self._template(mapping)
        config = self._configs.get(key[0], template.config) if template and template.config else None
        verdict = judge(mapping, template, {_bare(path) for path in config.secret_paths} if config else set())
        generation = mapping.metadata.generation
        conditions = [
            Condition("WorkloadFound", verdict.phase != "Missing", verdict.phase, verdict.message),
            Condition("Migrated", verdict.phase == "Migrated", verdict.phase, verdict.message),
        ]
        if verdict.phase == "Skipped":
            conditions = [Condition("Migrated", False, "Skipped", verdict.message)]
        after = {
            "phase": verdict.phase,
            "message": verdict.message,
            "remaining": len(verdict.remaining),
            "remainingSecrets": list(verdict.remaining),
            "observedGeneration": generation,
            "conditions": merged(mapping.status.get("conditions"), conditions, generation, self._now()),
        }
        await write(self._api, SECRET_MAPPINGS, mapping.metadata, mapping.status, after)
        return self._look_seconds

    async def _template(self, mapping: SecretMapping) -> Template | None:
        try:
            workload = await self._api.get_object(
                KINDS[mapping.kind], mapping.metadata.namespace, mapping.name
            )
        except NotFoundError:
            return None
        return Template.of(mapping.kind, workload)


def _bare(path: str) -> str:
    """Without version and parameters."""
    return path.partition("#")[0].partition("?")[0].removeprefix("/").removeprefix("v1/")
