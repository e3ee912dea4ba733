"""The server: admission reviews over HTTP, bounded in size, number and time.

Used by `service`. Knows nothing of pods: it reads a review, hands it on, and writes the answer. A request
that gets no review's answer gets a status of 4xx or 5xx, and the API server does what the webhook's failure
policy says.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from aiohttp import web

from cloudtaser.operator.webhook.errors import UnreadableReviewError
from cloudtaser.operator.webhook.metrics import WebhookMetrics
from cloudtaser.operator.webhook.review import Answer, Review, read, write
from cloudtaser.operator.webhook.settings import Limits

Handler = Callable[[Review, float], Awaitable[Answer]]
"""Is given how many seconds it has left, and keeps to them."""

_JSON: Final = "application/json"
_DURATION: Final = re.compile(r"([0-9]{1,6})(ms|s|m)?", re.ASCII)
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, None: 1.0}
_MARGIN: Final = 0.5
"""Seconds left for the answer's way back."""


def build(handlers: Mapping[str, Handler], limits: Limits, metrics: WebhookMetrics) -> web.Application:
    """An application that answers POST at each path of `handlers`, and nothing else."""
    application = web.Application(client_max_size=limits.body_bytes)
    door = _Door(limits, metrics)
    for path, handler in handlers.items():
        application.router.add_post(path, door.serving(path.strip("/").replace("/", "_"), handler))
    return application


class _Door:
    """Counts who is inside."""

    def __init__(self, limits: Limits, metrics: WebhookMetrics) -> None:
        self._limits = limits
        self._metrics = metrics
        self._inside = 0

    def serving(self, name: str, handler: Handler) -> Callable[[web.Request], Awaitable[web.Response]]:
        """The handler of one path."""

        async def serve(request: web.Request) -> web.Response:
            if request.content_type != _JSON:
                return self._refused("unreadable", 415, f"only {_JSON}")
            if self._inside >= self._limits.requests:
                return self._refused("overload", 503, "too many reviews at once")
            self._inside += 1
            begin = time.perf_counter()
            try:
                with self._metrics.queue.track_inprogress():
                    return await self._answer(request, handler)
            finally:
                self._inside -= 1
                self._metrics.seconds.labels(name).observe(time.perf_counter() - begin)

        return serve

    async def _answer(self, request: web.Request, handler: Handler) -> web.Response:
        end = time.monotonic() + self._seconds(request.query.get("timeout", ""))
        try:
            async with asyncio.timeout(end - time.monotonic()):
                body = await request.read()
            review = read(body)
            answer = await handler(review, max(end - time.monotonic(), 0.0))
        except TimeoutError:
            return self._refused("too_slow", 408, "the body did not come in time")
        except web.HTTPRequestEntityTooLarge:
            return self._refused("too_large", 413, f"more than {self._limits.body_bytes} bytes")
        except UnreadableReviewError as error:
            return self._refused("unreadable", 400, error.diagnostic())
        except RecursionError:
            return self._refused("unreadable", 400, "the object is nested too deeply")
        return web.Response(body=write(review.uid, answer), content_type=_JSON)

    def _seconds(self, asked: str) -> float:
        """How long there is: the API server says in the query how long it waits."""
        match = _DURATION.fullmatch(asked)
        if match is None:
            return self._limits.seconds
        return max(_MARGIN, min(self._limits.seconds, int(match[1]) * _UNITS[match[2]] - _MARGIN))

    def _refused(self, reason: str, status: int, text: str) -> web.Response:
        self._metrics.unanswered.labels(reason).inc()
        return web.Response(status=status, text=text + "\n")
