"""BrokerContainer: `cloudtaser-operator broker`, the carrier in a container of its own.

Made by `app`. It has no ServiceAccount token, no key but its own tunnel's, and another user than the manager;
what it needs to get in it asks the manager over a Unix socket, first of all which cluster this is.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from cloudtaser.errors import UnavailableError
from cloudtaser.net.probes import Probes
from cloudtaser.operator.broker import Tap
from cloudtaser.operator.carrier import Carrier
from cloudtaser.operator.config import BrokerConfig
from cloudtaser.operator.metrics import Metrics
from cloudtaser.operator.operator_door import OperatorDoor
from cloudtaser.operator.remote_exchanges import RemoteExchanges
from cloudtaser.operator.remote_manager import RemoteManager
from cloudtaser.operator.seam import BROKER_SOCKET, MANAGER_SOCKET


class BrokerContainer:
    """One broker, whose manager is in the other container."""

    def __init__(self, config: BrokerConfig, *, tap: Tap | None = None) -> None:
        self.config = config
        self.metrics = Metrics()
        self.manager = RemoteManager(str(Path(config.sockets) / MANAGER_SOCKET), config.manager_uid)
        self.carrier: Carrier | None = None
        self.door: OperatorDoor | None = None
        self._tap = tap
        own = config.carrier
        self._probes = [
            (Probes(ready=self.is_ready, registry=self.metrics.registry), listen)
            for listen in dict.fromkeys((own.probe_addr, own.metrics_addr))
            if listen is not None
        ]

    def is_ready(self) -> bool:
        """Ready as soon as it runs: a beacon's outage is no reason to take the pod away."""
        return True

    async def run(self, stop: asyncio.Event) -> int:
        """From start to a drained end; the exit status."""
        stopping = asyncio.ensure_future(stop.wait())
        try:
            for probes, listen in self._probes:
                await probes.listen(listen.host, listen.port)
            learning = asyncio.ensure_future(self.manager.fingerprint())
            await asyncio.wait([stopping, learning], return_when=asyncio.FIRST_COMPLETED)
            if not learning.done():
                learning.cancel()
                await asyncio.gather(learning, return_exceptions=True)
                return 0
            carrier = await self._start(learning.result())
            done, _ = await asyncio.wait([stopping, *carrier.tasks], return_when=asyncio.FIRST_COMPLETED)
            if stopping not in done:
                done.pop().result()  # a task that should never end: its error is the program's
                raise UnavailableError("a part of the broker ended by itself")
            await carrier.drain()
        finally:
            stopping.cancel()
            await self.close()
        return 0

    async def close(self) -> None:
        """Stop everything at once."""
        if self.door is not None:
            await self.door.close()
        if self.carrier is not None:
            await self.carrier.close()
        for probes, _ in self._probes:
            await probes.close()

    async def _start(self, fingerprint: str) -> Carrier:
        config = replace(self.config.carrier, fingerprint=fingerprint)
        exchanges, apiserver = RemoteExchanges(self.manager), self.config.apiserver
        carrier = Carrier(config, self.manager, exchanges, apiserver, self.metrics, tap=self._tap)
        self.carrier = carrier
        self.door = OperatorDoor(
            str(Path(self.config.sockets) / BROKER_SOCKET),
            self.config.manager_uid,
            carrier.tunnels,
            state=self.state,
            incidents=carrier.incidents.all,
            on_keys=carrier.controls.keys_changed,
        )
        await self.door.start()
        await carrier.start()
        return carrier

    def state(self) -> dict[str, Any]:
        """How we are, for the manager's /readyz?verbose and reports."""
        carrier = self.carrier
        if carrier is None:
            return {}
        current = carrier.renewal.current
        return {
            "tunnels": len(carrier.tunnels.live),
            "bridges": sorted({link.bridge for link in carrier.tunnels.live}),
            "parked": carrier.tunnels.parked,
            "connections": carrier.broker.open_connections,
            "beacon_failures": carrier.beacons.failures,
            "beacons": [str(address) for address in carrier.config.beacons],
            "logins_open": carrier.controls.logins_open,
            "bridge_versions": carrier.controls.versions,
            "certificate_expires": int(current.not_after.timestamp()) if current else None,
        }
