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

from cloudtaser.errors import ProtocolError
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
_PART: Final = 128
"""Bytes that a list, an object or an element of one takes at most once it is read, besides its text."""


def footprint(body: bytes) -> int:
    """How many bytes a JSON text takes at most once it is read, besides its own: `[[],[],…]` takes twenty
    times as many."""
    return _PART * (body.count(b",") + body.count(b"[") + body.count(b"{"))


def build(handlers: Mapping[str, Handler], limits: Limits, metrics: WebhookMetrics) -> web.Application:
    """An application that answers POST at each path of `handlers`, and nothing else."""
    application = web.Application(client_max_size=limits.body_bytes)
    door = _Door(limits, metrics)
    for path, handler in handlers.items():
        application.router.add_post(path, door.serving(path.strip("/").replace("/", "_"), handler))
    return application


class _OverBudgetError(Exception):
    """All reviews under way would take too much memory."""


class _Share:
    """What one review takes of the bytes in flight."""

    def __init__(self, door: _Door) -> None:
        self._door = door
        self._size = 0

    def take(self, size: int) -> None:
        """Take so many bytes more. _OverBudgetError when there are not as many."""
        self._door.take(size)
        self._size += size

    def release(self) -> None:
        """Give all of them back."""
        self._door.give_back(self._size)
        self._size = 0


class _Door:
    """Counts who is inside, and what they carry."""

    def __init__(self, limits: Limits, metrics: WebhookMetrics) -> None:
        self._limits = limits
        self._metrics = metrics
        self._inside = 0
        self._bytes = 0

    def take(self, size: int) -> None:
        """Take so many bytes of those in flight, for a `_Share`."""
        if self._bytes + size > self._limits.bytes_in_flight:
            raise _OverBudgetError
        self._bytes += size
        self._metrics.bytes.set(self._bytes)

    def give_back(self, size: int) -> None:
        """Give them back."""
        self._bytes -= size
        self._metrics.bytes.set(self._bytes)

    def serving(self, name: str, handler: Handler) -> Callable[[web.Request], Awaitable[web.Response]]:
        """The handler of one path."""

        async def serve(request: web.Request) -> web.Response:
            if request.content_type != _JSON:
                return self._refused("unreadable", 415, f"only {_JSON}")
            if self._inside >= self._limits.requests:
                return self._refused("overload", 503, "too many reviews at once")
            self._inside += 1
            share = _Share(self)
            begin = time.perf_counter()
            try:
                with self._metrics.queue.track_inprogress():
                    response = await self._answer(request, handler, share)
                self._metrics.seconds.labels(name).observe(time.perf_counter() - begin)
                return await self._send(request, response)
            finally:
                self._inside -= 1
                share.release()

        return serve

    async def _answer(self, request: web.Request, handler: Handler, share: _Share) -> web.Response:
        end = time.monotonic() + self._seconds(request.query.get("timeout", ""))
        try:
            async with asyncio.timeout(end - time.monotonic()):
                body = await self._body(request, share)
            share.take(footprint(body))
            review = read(body)
            del body
            answer = await handler(review, max(end - time.monotonic(), 0.0))
        except TimeoutError:
            return self._refused("too_slow", 408, "the body did not come in time")
        except (ProtocolError, ConnectionError):
            return self._refused("cut_off", 400, "the body did not come whole")
        except web.HTTPRequestEntityTooLarge:
            return self._refused("too_large", 413, f"more than {self._limits.body_bytes} bytes")
        except _OverBudgetError:
            return self._refused("memory", 503, "reviews under way take too much memory")
        except UnreadableReviewError as error:
            return self._refused("unreadable", 400, error.diagnostic())
        except RecursionError:
            return self._refused("unreadable", 400, "the object is nested too deeply")
        return web.Response(body=write(review.uid, answer), content_type=_JSON)

    async def _body(self, request: web.Request, share: _Share) -> bytes:
        """The body, taken from the share as it comes: who only announces one keeps nobody out."""
        limit = self._limits.body_bytes
        size = 0
        parts: list[bytes] = []
        if (request.content_length or 0) > limit:
            raise web.HTTPRequestEntityTooLarge(limit)
        while part := await request.content.readany():
            share.take(len(part))
            parts.append(part)
            size += len(part)
            if size > limit:
                raise web.HTTPRequestEntityTooLarge(limit)
        return b"".join(parts)

    async def _send(self, request: web.Request, response: web.Response) -> web.Response:
        """Hand the answer over; until it was taken it counts as under way."""
        try:
            async with asyncio.timeout(self._limits.answer_seconds):
                await response.prepare(request)
                await response.write_eof()
        except TimeoutError:
            self._metrics.unanswered.labels("too_slow").inc()
            if request.transport is not None:
                request.transport.abort()
        except ConnectionError:
            pass  # nobody waits for it any more
        return response

    def _seconds(self, asked: str) -> float:
        """How long there is: the API server says in the query how long it waits."""
        match = _DURATION.fullmatch(asked)
        if match is None:
            return self._limits.seconds
        return max(_MARGIN, min(self._limits.seconds, int(match[1]) * _UNITS[match[2]] - _MARGIN))

    def _refused(self, reason: str, status: int, text: str) -> web.Response:
        self._metrics.unanswered.labels(reason).inc()
        return web.Response(status=status, text=text + "\n")
