"""The `control` stream: JSON lines between broker and bridge, about themselves and nothing secret.

Used by `tunnels`, one for each tunnel at most. Each side may say `{"type":"version","version":…}` first; a
broker may ask `{"type":"health"}`, which is answered in kind, hint with `{"type":"keys"}` that its cluster's
signing keys changed, and say with `{"type":"parked"}` that it waits for a further bridge; the bridge says
`{"type":"renew"}` when the broker's certificate is to be replaced before its time. Unknown types are ignored,
so that either side may be newer. Lines are short and few: whoever sends more is cut off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from cloudtaser.net.ends import NOWHERE
from cloudtaser.version import VERSION
from cloudtaser.wire.control_lines import ControlLines
from cloudtaser.wire.strict_json import dump_object


class Control(asyncio.Protocol):
    """The bridge's side of one control stream. ProtocolError, which resets it, on anything out of bounds."""

    def __init__(
        self, bridge_id: str, health: Callable[[], dict[str, Any]], on_hint: Callable[[], None]
    ) -> None:
        """`health` is what a question is answered with; `on_hint` hears that keys changed."""
        self._loop = asyncio.get_running_loop()
        self._bridge_id = bridge_id
        self._health = health
        self._on_hint = on_hint
        self._transport: asyncio.Transport = NOWHERE
        self._lines = ControlLines(self._loop.time())
        self.broker_version = ""
        self.parked_at = float("-inf")
        """When the broker last said that it is parked; the loop's clock."""
        self._full = False
        self._owes_renewal = False
        self.closed = False

    def renew(self) -> None:
        """Tell the broker to have its certificate renewed now; if it does not read, once it does."""
        self._owes_renewal = self._full
        self._say({"type": "renew"})

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._say({"type": "version", "version": VERSION, "bridge": self._bridge_id})

    def data_received(self, data: bytes) -> None:
        for fields in self._lines.receive(data, self._loop.time()):
            self._heard(fields)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = NOWHERE
        self.closed = True

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        if self._owes_renewal:
            self.renew()

    def _heard(self, fields: dict[str, Any]) -> None:
        match fields:
            case {"type": "health"}:
                self._say({"type": "health", **self._health()})
            case {"type": "keys"}:
                self._on_hint()
            case {"type": "parked"}:
                self.parked_at = self._loop.time()
            case {"type": "version", "version": str(version)}:
                self.broker_version = version[:64]
            case _:
                pass

    def _say(self, fields: dict[str, Any]) -> None:
        if not self._full:  # nobody reads: an answer about now is no use later
            self._transport.write(dump_object(fields) + b"\n")
