"""Streams that a bridge opens to this cluster's API server: bytes passed on, to that one address only.

Used by `standalone` as what the tunnels accept. The bridge runs its own TLS in such a stream, against the
cluster CA that it recorded at first initialisation, so nothing here could read or change it. Every other kind
is refused.
"""

from __future__ import annotations

import asyncio
from typing import Final

from cloudtaser.errors import CloudtaserError
from cloudtaser.net.dial import Address, dial_tcp
from cloudtaser.net.log import get_logger
from cloudtaser.net.proxy import DIRECT, Proxies
from cloudtaser.net.splice import Splice
from cloudtaser.net.stream import TunnelStream
from cloudtaser.operator.enrolment import Reporter
from cloudtaser.operator.metrics import Metrics
from cloudtaser.operator.tunnels import Link
from cloudtaser.wire.opening import Kind, Opening

IDLE_SECONDS: Final = 120.0
DIAL_SECONDS: Final = 5.0

_log = get_logger("operator.apiserver")


class ApiServerStreams:
    """At most `limit` at a time; `accept` is given to the tunnels."""

    def __init__(
        self, address: Address, metrics: Metrics, *, limit: int = 32, proxies: Proxies = DIRECT
    ) -> None:
        self._address = address
        self._proxies = proxies
        self._metrics = metrics
        self._limit = limit
        self._splices: set[Splice] = set()
        self._dials: set[asyncio.Task[None]] = set()
        self._reporter = Reporter()

    def accept(self, link: Link, opening: Opening, stream: TunnelStream) -> asyncio.Protocol | None:
        """The protocol for an `apiserver` stream; None, which resets the stream, for all else."""
        if opening.kind is not Kind.APISERVER or len(self._splices) >= self._limit:
            self._metrics.apiserver_streams.labels("refused").inc()
            if self._reporter.due(f"refused {opening.kind}", asyncio.get_running_loop().time()):
                _log.warning("a bridge's stream was refused", kind=str(opening.kind), bridge=link.bridge)
            return None
        splice = Splice(idle_timeout=IDLE_SECONDS, on_end=self._splices.discard)
        self._splices.add(splice)
        dial = asyncio.ensure_future(self._dial(splice))
        self._dials.add(dial)
        dial.add_done_callback(self._dials.discard)
        return splice.first

    async def close(self) -> None:
        """Cut what is open."""
        for splice in list(self._splices):
            splice.abort()
        for dial in self._dials:
            dial.cancel()
        await asyncio.gather(*self._dials, return_exceptions=True)

    async def _dial(self, splice: Splice) -> None:
        try:
            await dial_tcp(self._address, lambda: splice.second, DIAL_SECONDS, proxies=self._proxies)
        except CloudtaserError as error:
            self._metrics.apiserver_streams.labels("failed").inc()
            splice.abort(error)
            if self._reporter.due(error.what, asyncio.get_running_loop().time()):
                _log.warning("no connection to the API server for a bridge", error=error.diagnostic())
        except asyncio.CancelledError:
            splice.abort()
            raise
        else:
            self._metrics.apiserver_streams.labels("ok").inc()
