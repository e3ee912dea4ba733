"""ConfigController: says of every CloudTaserConfig whether it can be used, and how many pods do.

Run on the leader. What is judged is what the webhook would refuse at admission, by the same rules; `problems`
is pure.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cloudtaser.errors import RefusedError
from cloudtaser.kube.allow_list import AllowList
from cloudtaser.kube.annotations import Problem, check_secrets
from cloudtaser.kube.events import EventSink, Occurrence
from cloudtaser.kube.resources import CLOUDTASER_CONFIGS, CloudTaserConfig
from cloudtaser.kube.watch import Changes, Key, Reflector
from cloudtaser.operator.controllers.configs import ConfigStore
from cloudtaser.operator.controllers.injected_pods import InjectedPod, counted
from cloudtaser.operator.controllers.status import Condition, StatusApi, merged, parse_stamp, stamp, write
from cloudtaser.operator.controllers.work import Work

VALIDATED_SECONDS: Final = 600.0
"""`lastValidated` is written anew after so long, when nothing else changed."""
NOT_READY_SECONDS: Final = 15.0
COUNT_SECONDS: Final = 2.0
"""Pods that come and go within so long are counted once."""
_NAMES: Final = {"CLOUDTASER_SECRET_PATHS": "spec.secretPaths", "CLOUDTASER_ENV_MAP": "spec.envMap"}


def problems(config: CloudTaserConfig, own_address: str, allowed: AllowList) -> list[Problem]:
    """Everything that no pod could be injected with. A variable that only pods with `allow-loader-env` may
    set is none."""
    _, found = check_secrets(
        ",".join(config.secret_paths), config.env_map, (), {}, allow_loader_env=True, on=_NAMES
    )
    all_found = list(found)
    address = config.vault_address.rstrip("/")
    if address and address != own_address.rstrip("/"):
        try:
            allowed.check(address)
        except RefusedError as error:
            all_found.append(Problem("spec.vaultAddress", error.what, error.fix))
    return all_found


class ConfigController:
    """Statuses of CloudTaserConfigs."""

    def __init__(
        self,
        api: StatusApi,
        store: ConfigStore,
        pods: Reflector[InjectedPod],
        *,
        own_address: str,
        allowed: AllowList,
        not_ready: Callable[[], str],
        events: EventSink,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`not_ready` says in one line why the operator injects nobody at present, empty when it does."""
        self._api = api
        self._store = store
        self._pods = pods
        self._own_address = own_address
        self._allowed = allowed
        self._not_ready = not_ready
        self._events = events
        self._now = now
        self._counts: Counter[Key] = Counter()
        self._work = Work("CloudTaserConfig", self.reconcile)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`."""
        changes, pods = self._store.reflector.subscribe(), self._pods.subscribe()
        counting = asyncio.ensure_future(self._count(pods))
        try:
            await self._pods.wait_synced()  # no count before there is one
            await self._work.run(stop, changes)
        finally:
            counting.cancel()
            await asyncio.gather(counting, return_exceptions=True)
            self._store.reflector.unsubscribe(changes)
            self._pods.unsubscribe(pods)

    async def _count(self, pods: Changes) -> None:
        while True:
            await pods.next()
            await asyncio.sleep(COUNT_SECONDS)
            pods.drain()
            self._counts = counted(self._pods)
            for config in self._store.reflector.values():
                if config.status.get("injectedPods") != self.injected(config):
                    self._work.add(config.metadata.key)

    def injected(self, config: CloudTaserConfig) -> int:
        """Pods that took it: those of its namespace, and for one of the operator's namespace those of every
        namespace that has none of the same name."""
        where, name = config.metadata.key
        if where != self._store.system_namespace:
            return self._counts[where, name]
        return sum(
            number
            for (namespace, named), number in self._counts.items()
            if named == name and self._found(namespace, name) == config.metadata.uid
        )

    def _found(self, namespace: str, name: str) -> str:
        """UID of what a pod of that namespace gets by that name."""
        config = self._store.get(namespace, name)
        return config.metadata.uid if config else ""

    async def reconcile(self, key: Key) -> float | None:
        """Write the status of one, if it changes."""
        config = self._store.reflector.get(*key)
        if config is None or config.metadata.deleting:
            return None
        self._counts = self._counts or counted(self._pods)
        wrong = "; ".join(map(str, problems(config, self._own_address, self._allowed)))
        waiting = self._not_ready()
        before, now = config.status, self._now()
        valid = Condition("Valid", not wrong, *_why(wrong, ""))
        ready = Condition("Ready", not wrong and not waiting, *_why(wrong, waiting))
        after = dict(before) | {
            "ready": not wrong and not waiting,
            "message": wrong or waiting or "pods can be injected",
            "injectedPods": self.injected(config),
            "observedGeneration": config.metadata.generation,
            "conditions": merged(before.get("conditions"), [valid, ready], config.metadata.generation, now),
        }
        if after != dict(before) or _is_old(before.get("lastValidated"), now):
            after["lastValidated"] = stamp(now)
        if await write(self._api, CLOUDTASER_CONFIGS, config.metadata, before, after):
            self._tell(config, before, wrong)
        return NOT_READY_SECONDS if waiting else VALIDATED_SECONDS

    def _tell(self, config: CloudTaserConfig, before: Any, wrong: str) -> None:
        """An event when it becomes unusable, or usable again."""
        known = {entry.get("type"): entry.get("status") for entry in before.get("conditions") or ()}
        was = known.get("Valid")
        metadata = config.metadata
        reason, message, kind = "ConfigCannotBeUsed", wrong, "Warning"
        if not wrong:
            reason, message, kind = "ConfigUsable", "pods can be injected by it again", "Normal"
        if was == ("False" if wrong else "True") or (was is None and not wrong):
            return
        self._events.record(
            Occurrence(
                metadata.namespace,
                CLOUDTASER_CONFIGS.name,
                metadata.name,
                metadata.uid,
                CLOUDTASER_CONFIGS.api_version,
                reason,
                message,
                kind,
            )
        )


def _why(wrong: str, waiting: str) -> tuple[str, str]:
    if wrong:
        return "CannotBeUsed", wrong
    if waiting:
        return "OperatorNotReady", waiting
    return "Usable", "pods can be injected"


def _is_old(validated: object, now: datetime) -> bool:
    """Whether it was longer ago than it should be, or will be: somebody set a clock."""
    at = parse_stamp(validated)
    return at is None or not timedelta() <= now - at + timedelta(minutes=1) < timedelta(
        seconds=VALIDATED_SECONDS
    )
