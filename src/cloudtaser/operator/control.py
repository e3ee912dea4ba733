"""The broker's side of the `control` streams: JSON lines about ourselves and the bridge, nothing secret.

Used by `standalone`. One stream on each tunnel, opened again when it ends. We say our version first, `parked`
while we wait in the operational room for a further bridge, `keys` when the cluster's signing keys changed,
and ask for the bridge's `health`; a bridge says its version, answers, and says `renew` when there is
something new to fetch. Unknown types are ignored, so that either side may be newer. Lines are short and few:
a bridge that sends more loses the stream. (spec/wire.md, "Tunnel"; the other side is `bridge.control`.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from cloudtaser.errors import CloudtaserError
from cloudtaser.net.dial import Backoff
from cloudtaser.net.ends import NOWHERE
from cloudtaser.net.log import get_logger
from cloudtaser.operator.metrics import Metrics
from cloudtaser.operator.tunnels import Link
from cloudtaser.version import VERSION
from cloudtaser.wire.control_lines import ControlLines
from cloudtaser.wire.opening import Kind, Opening
from cloudtaser.wire.strict_json import dump_object

REPORT_SECONDS: Final = 30.0
"""Between two times that a bridge is told that we are parked, and asked how it is."""
BRIDGES_REMEMBERED: Final = 64
_UNSENT_LIMIT: Final = 16 * 1024
_SHOWN: Final = 64

_log = get_logger("operator.control")


class Control(asyncio.Protocol):
    """One control stream. ProtocolError, which resets it, on anything out of bounds."""

    def __init__(self, on_renew: Callable[[], None], on_version: Callable[[str], None]) -> None:
        """`on_renew` hears that a renewal brings something new, `on_version` which version the bridge is
        of."""
        self._loop = asyncio.get_running_loop()
        self._on_renew = on_renew
        self._on_version = on_version
        self._transport: asyncio.Transport = NOWHERE
        self._lines = ControlLines(self._loop.time())
        self.logins_open: bool | None = None
        """Whether the bridge lets pods log in, as it said last; None before."""
        self.closed: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.say({"type": "version", "version": VERSION})

    def data_received(self, data: bytes) -> None:
        for fields in self._lines.receive(data, self._loop.time()):
            self._heard(fields)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = NOWHERE
        if not self.closed.done():
            self.closed.set_result(None)

    def say(self, fields: dict[str, Any]) -> None:
        """Send one line, unless the bridge has stopped reading: what is said is about now."""
        if self._transport.get_write_buffer_size() <= _UNSENT_LIMIT:
            self._transport.write(dump_object(fields) + b"\n")

    def _heard(self, fields: dict[str, Any]) -> None:
        match fields:
            case {"type": "renew"}:
                self._on_renew()
            case {"type": "health", "logins_open": bool(logins_open)}:
                self.logins_open = logins_open
            case {"type": "version", "version": str(version)}:
                self._on_version("".join(c for c in version[:_SHOWN] if c.isprintable()))
            case _:
                pass


class Controls:
    """One control stream for each link, as long as the link takes streams."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        parked: Callable[[], bool],
        on_renew: Callable[[Link], None],
        report_seconds: float = REPORT_SECONDS,
    ) -> None:
        """`parked` tells whether we wait for a further bridge; `on_renew` hears which bridge has news."""
        self._metrics = metrics
        self._parked = parked
        self._on_renew = on_renew
        self._report_seconds = report_seconds
        self._tasks: set[asyncio.Task[None]] = set()
        self._streams: dict[Link, Control] = {}
        self._versions: dict[str, str] = {}
        metrics.observe(controls=lambda: len(self._streams), logins_open=lambda: self.logins_open)

    @property
    def logins_open(self) -> int:
        """Links whose bridge said last that pods can log in."""
        return sum(control.logins_open is True for control in self._streams.values())

    @property
    def versions(self) -> dict[str, str]:
        """Bridge → the release that it said it is."""
        return dict(self._versions)

    def serve(self, link: Link) -> None:
        """Keep a control stream on this link; given to `Tunnels.watch`."""
        task = asyncio.ensure_future(self._keep(link))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        link.tunnel.closed.add_done_callback(lambda _: task.cancel())

    def keys_changed(self) -> None:
        """Tell every bridge that the cluster's signing keys are others now; each reads them for itself."""
        self._metrics.hints.labels("keys").inc()
        for control in self._streams.values():
            control.say({"type": "keys"})

    async def close(self) -> None:
        """End all of them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep(self, link: Link) -> None:
        backoff = Backoff(first=1.0, limit=60.0)
        while not link.leaving.done():
            control = Control(lambda: self._renew(link), lambda version: self._version(link, version))
            try:
                stream = link.tunnel.open(Opening(Kind.CONTROL), control)
            except CloudtaserError:
                return  # the tunnel takes no more streams
            self._streams[link] = control
            try:
                await self._report(link, control)
            finally:
                self._streams.pop(link, None)
                stream.close()
            await asyncio.wait([link.leaving], timeout=backoff.next())

    async def _report(self, link: Link, control: Control) -> None:
        """Say from time to time how we are, until the stream ends or the tunnel is left."""
        while not control.closed.done() and not link.leaving.done():
            if self._parked():
                control.say({"type": "parked"})
            control.say({"type": "health"})
            await asyncio.wait(
                [control.closed, link.leaving],
                timeout=self._report_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )

    def _renew(self, link: Link) -> None:
        self._metrics.hints.labels("renew").inc()
        self._on_renew(link)

    def _version(self, link: Link, version: str) -> None:
        """Say once which version a bridge is of, and again when it changes."""
        if self._versions.get(link.bridge) == version:
            return
        if len(self._versions) >= BRIDGES_REMEMBERED:
            self._versions.clear()
        self._versions[link.bridge] = version
        _log.info("a bridge says its version", bridge=link.bridge, version=version, own=VERSION)
