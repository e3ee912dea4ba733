"""Health: how OpenBao is, as the bridge last saw it.

Used by `turn` to answer `sys/health` and `sys/seal-status` itself, so that no pod can probe
OpenBao. Asks OpenBao at most once per `max_age`, however many ask at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cloudtaser.bridge.exchange import AnswerEvent
from cloudtaser.bridge.upstream import Upstream
from cloudtaser.errors import CloudtaserError, ProtocolError, UnavailableError
from cloudtaser.wire.http1 import Body, End, ResponseHead, encode_request
from cloudtaser.wire.strict_json import dump_object, parse_object

MAX_AGE: Final = 2.0
"""Seconds for which an answer is good."""
TIMEOUT: Final = 5.0
MAX_FETCHED: Final = 65536

# told to pods: not what the server or its cluster is called, nor where it keeps its data
_HEALTH_FIELDS: Final = ("initialized", "sealed", "standby", "performance_standby", "version")
_SEAL_FIELDS: Final = (
    "type",
    "initialized",
    "sealed",
    "t",
    "n",
    "progress",
    "nonce",
    "recovery_seal",
    "version",
    "migration",
)


@dataclass(frozen=True, slots=True)
class Health:
    """OpenBao at one moment. `at` is the loop's clock."""

    reachable: bool
    initialized: bool = False
    sealed: bool = True
    standby: bool = False
    version: str = ""
    at: float = 0.0
    problem: str = ""
    seal_status: bytes = b""
    """Body for `sys/seal-status`."""
    health: bytes = b""
    """Body for `sys/health`."""

    @property
    def active(self) -> bool:
        """It answers requests."""
        return self.reachable and self.initialized and not self.sealed and not self.standby

    @property
    def status(self) -> int:
        """HTTP status of `sys/health`, as OpenBao itself gives it."""
        if not self.reachable:
            return 503
        if not self.initialized:
            return 501
        if self.sealed:
            return 503
        return 429 if self.standby else 200


class HealthWatch:
    """The last known state, asked for anew when it is old and somebody wants it."""

    def __init__(self, upstream: Upstream, max_age: float = MAX_AGE) -> None:
        self._upstream = upstream
        self._max_age = max_age
        self._asking: asyncio.Task[Health] | None = None
        self.last: Health | None = None

    async def read(self) -> Health:
        """How OpenBao is; never raises for OpenBao's sake."""
        now = asyncio.get_running_loop().time()
        if self.last is not None and now - self.last.at < self._max_age:
            return self.last
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        return await asyncio.shield(self._asking)

    async def _ask(self) -> Health:
        loop = asyncio.get_running_loop()
        try:
            seal = parse(await fetch(self._upstream, b"/v1/sys/seal-status"))
            if seal.get("sealed") is False:
                health = parse(
                    await fetch(self._upstream, b"/v1/sys/health?standbyok=true&perfstandbyok=true")
                )
            else:
                health = {"standby": True} | {
                    name: seal[name] for name in ("initialized", "sealed", "version") if name in seal
                }
            self.last = Health(
                reachable=True,
                initialized=seal.get("initialized") is True,
                sealed=seal.get("sealed") is not False,
                standby=health.get("standby") is True and seal.get("sealed") is False,
                version=str(seal.get("version", "")),
                at=loop.time(),
                seal_status=_picked(seal, _SEAL_FIELDS),
                health=_picked(health, _HEALTH_FIELDS),
            )
        except CloudtaserError as error:
            self.last = Health(reachable=False, at=loop.time(), problem=error.diagnostic())
        return self.last


class _Collected:
    """A Receiver that gathers a small answer."""

    def __init__(self, future: asyncio.Future[tuple[int, bytes]]) -> None:
        self._future = future
        self._status = 0
        self._parts: list[bytes] = []
        self._size = 0

    def answered(self, events: Sequence[AnswerEvent]) -> None:
        for event in events:
            if isinstance(event, ResponseHead):
                self._status = event.status
            elif isinstance(event, Body):
                self._size += len(event.data)
                self._parts.append(event.data)
                if self._size > MAX_FETCHED:
                    self.failed(ProtocolError("OpenBao's answer is longer than expected"))
            elif isinstance(event, End) and not self._future.done():
                self._future.set_result((self._status, b"".join(self._parts)))

    def failed(self, error: CloudtaserError) -> None:
        if not self._future.done():
            self._future.set_exception(error)

    def pause_sending(self) -> None:
        """Nothing is sent."""

    def resume_sending(self) -> None:
        """Nothing is sent."""


async def fetch(
    upstream: Upstream,
    target: bytes,
    headers: Sequence[tuple[bytes, bytes]] = (),
    timeout: float = TIMEOUT,
    body: bytes | None = None,
) -> tuple[int, bytes]:
    """GET `target` from OpenBao, or POST a question that changes nothing: status and body (at most
    MAX_FETCHED). UnavailableError, ProtocolError."""
    written = ((b"host", upstream.host_header), (b"x-vault-request", b"true"), *headers)
    method = b"GET" if body is None else b"POST"
    data = encode_request(method, target, written, content_length=None if body is None else len(body))
    future: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
    exchange = upstream.send(method, data + (body or b""), _Collected(future), repeatable=True)
    try:
        async with asyncio.timeout(timeout):
            return await future
    except TimeoutError:
        raise UnavailableError("OpenBao did not answer in time", on=upstream.authority) from None
    finally:
        exchange.cancel()


def parse(answer: tuple[int, bytes]) -> dict[str, Any]:
    """The JSON object of an answer. ProtocolError when it is none."""
    return parse_object(answer[1], what="OpenBao's answer", limit=MAX_FETCHED)


def _picked(fields: dict[str, Any], names: tuple[str, ...]) -> bytes:
    return dump_object({name: fields[name] for name in names if name in fields})
