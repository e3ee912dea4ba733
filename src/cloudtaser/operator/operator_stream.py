"""The operator's own stream: hands each bridge the token with which it may ask this cluster's API server.

Used by `standalone`. This is the manager's business, not the broker's: TLS under the pod CA runs from here to
the bridge, the broker passes its bytes; when the bridge shows a certificate of another pod CA, another
replica may have stored the next one. One reviewer token serves all bridges for two thirds of its hour; it is
sent on every link that comes up, since a bridge behind it may be new or may have forgotten. (spec/wire.md,
"Keys of the cluster".)
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from typing import Final, Protocol

from cloudtaser.errors import CloudtaserError, RefusedError
from cloudtaser.kube.objects import ServiceAccountToken
from cloudtaser.net.dial import Backoff
from cloudtaser.net.log import get_logger
from cloudtaser.operator.bridge_calls import Credentials, call
from cloudtaser.operator.enrolment import Reporter
from cloudtaser.operator.manager import REVIEWER_TOKEN_SECONDS
from cloudtaser.operator.metrics import ManagerMetrics
from cloudtaser.operator.routes import Route
from cloudtaser.secret import Secret
from cloudtaser.wire.names import REVIEWER_PATH
from cloudtaser.wire.strict_json import dump_object

RENEW_AT: Final = 2 / 3

_log = get_logger("operator.operator_stream")


class Tokens(Credentials, Protocol):
    """What is needed of the manager."""

    async def refresh_pod_ca(self) -> None:
        """Take the pod CA as it is stored now."""

    async def reviewer_token(self) -> ServiceAccountToken:
        """What the bridge is given."""


class OperatorStreams:
    """One task a link: send, wait until the token is due, send again; ends with the link."""

    def __init__(
        self, tokens: Tokens, metrics: ManagerMetrics, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._tokens = tokens
        self._metrics = metrics
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._reporter = Reporter()
        self._lock = asyncio.Lock()
        self._reviewer: ServiceAccountToken | None = None

    @property
    def active(self) -> int:
        """Links that are being supplied."""
        return len(self._tasks)

    def serve(self, route: Route) -> None:
        """Keep this route's bridge supplied; given to `Routes.watch`."""
        task = asyncio.ensure_future(self._keep(route))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        route.closed.add_done_callback(lambda _: task.cancel())

    async def close(self) -> None:
        """Stop all of them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep(self, route: Route) -> None:
        backoff = Backoff(first=0.5, limit=30.0)
        while not route.draining:
            try:
                reviewer = await self._current()
                await self._send(route, reviewer.token)
            except CloudtaserError as error:
                self._metrics.reviewer_tokens.labels("failed").inc()
                if self._reporter.due(error.what, asyncio.get_running_loop().time()):
                    _log.warning(
                        "the bridge did not get its reviewer token",
                        bridge=route.bridge,
                        error=error.diagnostic(),
                    )
                await asyncio.sleep(backoff.next())
                with contextlib.suppress(CloudtaserError):
                    await self._tokens.refresh_pod_ca()
                continue
            backoff.reset()
            self._metrics.reviewer_tokens.labels("ok").inc()
            _log.debug("reviewer token handed over", bridge=route.bridge, tunnel=route.number)
            left = self._due_in(reviewer)
            await asyncio.sleep(left + random.uniform(0.0, 0.02 * REVIEWER_TOKEN_SECONDS))  # noqa: S311

    async def _current(self) -> ServiceAccountToken:
        """The shared token, made anew when two thirds of its life are over."""
        async with self._lock:
            if self._reviewer is None or self._due_in(self._reviewer) <= 0:
                self._reviewer = await self._tokens.reviewer_token()
            return self._reviewer

    def _due_in(self, token: ServiceAccountToken) -> float:
        return max(0.0, token.expires_at - (1 - RENEW_AT) * REVIEWER_TOKEN_SECONDS - self._clock())

    async def _send(self, route: Route, token: Secret) -> None:
        body = dump_object({"token": token.reveal_text()})
        status, _, _ = await call(route, self._tokens, "PUT", REVIEWER_PATH, body)
        if not 200 <= status < 300:
            raise RefusedError(
                f"the bridge answered {status}",
                on="operator stream",
                fix="its log says why, without the token",
            )
