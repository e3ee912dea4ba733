"""Vault writer: stores secrets for administrators, each at a path where nothing was before.

It does so with the bridge's second token (policy `cloudtaser-admin-proxy`). Used by `migration`; made by
`service`, which also keeps its token alive. A write that has begun is finished and remembered even when
nobody waits for it any more, so that an administrator whose connection broke can find out that it was done.
What is remembered of a secret is a keyed digest, in bounded memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final

from cloudtaser.errors import CloudtaserError, NotAuthorisedError, UnavailableError
from cloudtaser.openbao.client import CasConflict, OpenBao
from cloudtaser.openbao.errors import PermissionDenied
from cloudtaser.openbao.layout import Space
from cloudtaser.openbao.login import TokenKeeper, TokenSource
from cloudtaser.wire.migration import Migration, Outcome, canonical

REMEMBERED: Final = 4096
"""Writes of which a repetition is recognised."""
START_RETRY: Final = 5.0
"""Seconds between attempts to have OpenBao accept the token."""


class VaultWriter:
    """Writes under one token. `outcomes` counts them for the metrics."""

    def __init__(
        self,
        client: OpenBao,
        source: TokenSource,
        *,
        on_trouble: Callable[[CloudtaserError], None] = lambda _: None,
        remembered: int = REMEMBERED,
        retry: float = START_RETRY,
    ) -> None:
        """`client` is the writer's own; `on_trouble` hears of every failure with the token."""
        self._client = client
        self._keeper = TokenKeeper(client, source, on_trouble=on_trouble)
        self._on_trouble = on_trouble
        self._retry = retry
        self._remembered = remembered
        self._recent: OrderedDict[tuple[str, str], tuple[int, bytes]] = OrderedDict()
        self._key = secrets.token_bytes(32)
        self._under_way: set[asyncio.Task[Outcome]] = set()
        self.outcomes: Counter[str] = Counter()

    async def run(self, stop: asyncio.Event) -> None:
        """Have the token accepted, however late, and keep it alive until `stop`."""
        while not stop.is_set():
            try:
                await self._keeper.start()
            except CloudtaserError as error:
                self._on_trouble(error)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._retry):
                        await stop.wait()
            else:
                await self._keeper.run(stop)

    def begin(self, space: Space, migration: Migration) -> asyncio.Task[Outcome]:
        """Start storing it; the task ends by itself and its outcome is counted. `migration.path` lies in the
        space's secrets engine. The task raises UnavailableError, or another CloudtaserError of OpenBao's."""
        task = asyncio.get_running_loop().create_task(self._store(space, migration))
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        return task

    async def close(self) -> None:
        """Finish what is under way, and close the connections."""
        if self._under_way:
            await asyncio.wait(self._under_way)
        await self._client.close()

    async def _store(self, space: Space, migration: Migration) -> Outcome:
        name = migration.path.removeprefix(f"{space.asked(space.secret)}/data/")
        try:
            version = await self._client.kv_write(
                space.secret, name, migration.data, namespace=space.namespace, cas=0
            )
        except (CasConflict, PermissionDenied) as refused:
            return await self._found(space, name, migration, refused)
        self._remember(space, migration, version)
        return Outcome(True, version, migration.sha256)

    async def _found(
        self, space: Space, name: str, migration: Migration, refused: CasConflict | PermissionDenied
    ) -> Outcome:
        """Something is there already (OpenBao then wants a right that this token has not): its version."""
        try:
            about = await self._client.kv_metadata(space.secret, name, namespace=space.namespace)
        except NotAuthorisedError:
            about = None
        if about is None:
            if isinstance(refused, CasConflict):
                raise UnavailableError("the secret was removed meanwhile", on=migration.path, fix="try again")
            raise UnavailableError(
                "OpenBao does not let this bridge store secrets",
                on=migration.path,
                fix="give it a new `source bridge-token --admin` with --admin-token-file",
            ) from None
        version = int(about.get("current_version") or 0)
        same = self._wrote(space, migration) == version
        return Outcome(False, version, migration.sha256 if same else "")

    def _remember(self, space: Space, migration: Migration, version: int) -> None:
        self._recent[space.shown, migration.path] = (version, self._digest(migration))
        if len(self._recent) > self._remembered:
            self._recent.popitem(last=False)

    def _wrote(self, space: Space, migration: Migration) -> int | None:
        """The version that this bridge made of exactly this data at this path; None if it did not."""
        version, digest = self._recent.get((space.shown, migration.path), (0, b""))
        return version if hmac.compare_digest(digest, self._digest(migration)) else None

    def _digest(self, migration: Migration) -> bytes:
        return hmac.digest(self._key, canonical(migration.data), "sha256")

    def _ended(self, task: asyncio.Task[Outcome]) -> None:
        self._under_way.discard(task)
        if task.cancelled() or task.exception() is not None:
            self.outcomes["failed"] += 1
        else:
            self.outcomes["stored" if task.result().created else "exists"] += 1
