"""A rig for broker and tunnels: tunnels over loopback with a bridge's half that echoes, a beacon, pods."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from cloudtaser.beacon.config import BeaconConfig
from cloudtaser.beacon.server import Beacon
from cloudtaser.demo.certificates import CertificateFiles, write_server_certificate
from cloudtaser.errors import CloudtaserError, UnavailableError
from cloudtaser.net.dial import Address
from cloudtaser.net.layers import TlsLayer
from cloudtaser.net.rendezvous import meet
from cloudtaser.net.stream import TunnelStream
from cloudtaser.net.tls import Identity, beacon_client, tunnel_client
from cloudtaser.net.tunnel import Tunnel
from cloudtaser.wire.opening import Kind, Opening
from cloudtaser.wire.rendezvous import Role


class Echo(asyncio.Protocol):
    """Says back what it hears, unless `quiet`; holds what it heard."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.heard = bytearray()
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None
        self.heard += data
        if not self.quiet:
            self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(exc)


@dataclass
class BridgeHalf:
    """What a bridge does with a broker's streams: echoes pods and administrators; other kinds as told."""

    openings: list[Opening] = field(default_factory=list)
    echoes: list[Echo] = field(default_factory=list)
    others: dict[Kind, Callable[[Opening], asyncio.Protocol | None]] = field(default_factory=dict)
    refuse: bool = False
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def accept(self, opening: Opening, stream: TunnelStream) -> asyncio.Protocol | None:
        self.openings.append(opening)
        self.arrived.set()
        if opening.kind in self.others:
            return self.others[opening.kind](opening)
        if self.refuse or opening.kind not in (Kind.POD, Kind.ADMIN):
            return None
        self.echoes.append(Echo())
        return self.echoes[-1]


def refuse_all(opening: Opening, stream: TunnelStream) -> None:
    return None


@dataclass
class Pipes:
    """The broker's view of tunnels that stand already."""

    tunnels: list[Tunnel] = field(default_factory=list)

    @property
    def available(self) -> bool:
        return any(not tunnel.draining for tunnel in self.tunnels)

    def open(self, opening: Opening, protocol: asyncio.Protocol) -> object:
        live = [tunnel for tunnel in self.tunnels if not tunnel.draining]
        if not live:
            raise UnavailableError("no tunnel")
        return min(live, key=lambda tunnel: tunnel.active).open(opening, protocol)


async def tunnel_pair(half: BridgeHalf) -> tuple[Tunnel, Tunnel]:
    """(broker's, bridge's) tunnel over a loopback connection."""
    loop = asyncio.get_running_loop()
    broker = Tunnel(False, refuse_all)
    server = await loop.create_server(lambda: broker, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    _, bridge = await loop.create_connection(lambda: Tunnel(True, half.accept), "127.0.0.1", port)
    await asyncio.wait_for(asyncio.shield(broker.established), 5)
    server.close()
    return broker, bridge


@dataclass
class Room:
    """A beacon on loopback and what is needed to dial it."""

    beacon: Beacon
    address: Address
    context: ssl.SSLContext
    files: CertificateFiles


@contextlib.asynccontextmanager
async def running_beacon(
    directory: Path, port: int = 0, files: CertificateFiles | None = None
) -> AsyncIterator[Room]:
    files = files or write_server_certificate(directory / "beacon", "beacon", ["127.0.0.1"])
    config = BeaconConfig(
        addr=(("127.0.0.1", port),),
        tls_cert=str(files.certificate),
        tls_key=str(files.key),
        metrics_addr=None,
        log_level="error",
        drain_spread=0.05,
    )
    beacon = Beacon(config)
    await beacon.start()
    try:
        host, port = beacon.addresses[0]
        yield Room(beacon, Address(host, port), beacon_client(str(files.ca), insecure=False), files)
    finally:
        with contextlib.suppress(AssertionError):
            await eventually(lambda: not beacon.links, "its clients have left", timeout=0.5)
        beacon.close()
        for _ in range(10):  # clients that are still there hear of it, and close before the loop does
            await asyncio.sleep(0.01)


class FakeBridge:
    """Parks spares in the operational room and serves whoever comes, with net's code as the real one does."""

    def __init__(self, room: Room, room_hash: bytes, identity: Identity, ca_pem: str) -> None:
        self.half = BridgeHalf()
        self.tunnels: list[Tunnel] = []
        self.failures: list[CloudtaserError] = []
        self.up = asyncio.Event()
        self._room = room
        self._hash = room_hash
        self._context = tunnel_client(identity, [ca_pem.encode()])
        self._tasks: list[asyncio.Task[None]] = []

    def park(self, spares: int = 2) -> None:
        self._tasks += [asyncio.ensure_future(self._spare()) for _ in range(spares)]

    async def stop(self) -> None:
        await self.leave()
        for tunnel in self.tunnels:
            tunnel.abort()

    async def leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _spare(self) -> None:
        while True:
            tunnel = Tunnel(True, self.half.accept)
            layer = TlsLayer(self._context, tunnel, server_side=False)
            try:
                await meet(self._room.address, Role.BRIDGE, self._hash, self._room.context, layer)
                await layer.handshake
            except CloudtaserError as error:
                self.failures.append(error)
                await asyncio.sleep(0.05)
                continue
            self.tunnels.append(tunnel)
            self.up.set()


async def eventually(condition: Callable[[], bool], what: str, timeout: float = 10.0) -> None:
    """Wait until `condition` holds; the test fails with `what` otherwise."""
    deadline = asyncio.get_running_loop().time() + timeout
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"not within {timeout} s: {what}"
        await asyncio.sleep(0.005)
