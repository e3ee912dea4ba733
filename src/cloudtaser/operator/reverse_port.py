"""The reverse port as one thing: its rooms, its door and its certificate, from the configuration.

Made by `standalone`, which starts, drains and closes it.
"""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from cloudtaser.operator.config import Config
from cloudtaser.operator.reverse import Reverse, ReverseLimits
from cloudtaser.operator.reverse_certificate import OuterCertificate
from cloudtaser.operator.reverse_door import ReverseDoor
from cloudtaser.operator.reverse_metrics import ReverseMetrics
from cloudtaser.wire.hashes import init_room


@dataclass(frozen=True, slots=True)
class ReversePort:
    """Where bridges come that dial this broker."""

    rooms: Reverse
    door: ReverseDoor

    @classmethod
    def of(
        cls, config: Config, registry: CollectorRegistry, limits: ReverseLimits | None = None
    ) -> ReversePort | None:
        """None where no bridge is to dial us. ConfigError when the certificate cannot be used."""
        if config.reverse_listen is None:
            return None
        limits = limits or ReverseLimits()
        metrics = ReverseMetrics(registry)
        certificate = OuterCertificate(config.reverse_tls_cert, config.reverse_tls_key, metrics)
        rooms = Reverse(init_room(config.fingerprint), limits, metrics)
        return cls(rooms, ReverseDoor(config.reverse_listen, certificate, rooms, limits, metrics))

    async def start(self) -> None:
        """Listen. UnavailableError when the address cannot be had."""
        await self.door.start()

    def drain(self) -> None:
        """Accept no more, send away who waits; tunnels that stand go on."""
        self.door.stop_listening()
        self.rooms.drain()

    async def close(self) -> None:
        """Cut what is left."""
        self.rooms.close()
        await self.door.close()

    def __str__(self) -> str:
        """Where it listens, once started."""
        host, port = self.door.address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
