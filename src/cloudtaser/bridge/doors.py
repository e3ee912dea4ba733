"""Doors: whereby a bridge comes to a cluster's operator. A beacon, or in reverse mode its broker itself.

Used by `parker`, which keeps spares at every door, and by `station`, which asks `Ways` for those of its
cluster. All doors take the same hello and give the same answers; a broker may be reached by gRPC, which
Ingresses and balancers pass, or by TLS alone.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import quote

from cloudtaser.bridge.config_brokers import Brokers
from cloudtaser.errors import ConfigError, UnavailableError
from cloudtaser.net.dial import CONNECT_TIMEOUT, Address
from cloudtaser.net.proxy import DIRECT, Proxies, Proxy
from cloudtaser.net.rendezvous import BEACON, BROKER, enter, meet
from cloudtaser.net.tls import beacon_client
from cloudtaser.openbao.records import Registered
from cloudtaser.wire.rendezvous import Role

if TYPE_CHECKING:  # brings the gRPC library, which only reverse mode needs
    import grpc

BROKER_STAY: Final = 40.0
"""Seconds parked at a broker after which a spare comes anew, at half of it at the earliest: behind one
address there may be several replicas, and the one that needs it is to get its turn."""


class Door(Protocol):
    """One place to be parked at. Its text is its address."""

    @property
    def kind(self) -> str:
        """`beacon` or `broker`."""

    async def meet(
        self, room: bytes, protocol: asyncio.Protocol, on_parked: Callable[[], None]
    ) -> asyncio.Transport:
        """Park in `room` until somebody comes, as `net.rendezvous.meet`."""


@dataclass(frozen=True, slots=True)
class BeaconDoor:
    """A beacon."""

    address: Address
    context: ssl.SSLContext
    proxies: Proxies = DIRECT
    kind: str = BEACON

    async def meet(
        self, room: bytes, protocol: asyncio.Protocol, on_parked: Callable[[], None]
    ) -> asyncio.Transport:
        """See Door."""
        return await meet(
            self.address, Role.BRIDGE, room, self.context, protocol, on_parked=on_parked, proxies=self.proxies
        )

    def __str__(self) -> str:
        return str(self.address)


@dataclass(frozen=True, slots=True)
class TlsDoor:
    """A broker, by TLS alone."""

    address: Address
    context: ssl.SSLContext
    proxies: Proxies = DIRECT
    kind: str = BROKER

    async def meet(
        self, room: bytes, protocol: asyncio.Protocol, on_parked: Callable[[], None]
    ) -> asyncio.Transport:
        """See Door."""
        return await meet(
            self.address,
            Role.BRIDGE,
            room,
            self.context,
            protocol,
            stay=BROKER_STAY,
            on_parked=on_parked,
            proxies=self.proxies,
            whom=BROKER,
        )

    def __str__(self) -> str:
        return str(self.address)


@dataclass(frozen=True, slots=True)
class GrpcDoor:
    """A broker, by gRPC."""

    address: Address
    credentials: grpc.ChannelCredentials
    proxies: Proxies = DIRECT
    kind: str = BROKER

    async def meet(
        self, room: bytes, protocol: asyncio.Protocol, on_parked: Callable[[], None]
    ) -> asyncio.Transport:
        """See Door."""
        from cloudtaser.net.grpc_client import dial_grpc

        proxy = self.proxies.route(self.address.host, self.address.port)

        async def reach(visit: asyncio.Protocol) -> asyncio.Transport:
            through = _proxy_url(proxy, self.address)
            return await dial_grpc(
                self.address, self.credentials, visit, timeout=CONNECT_TIMEOUT, proxy=through
            )

        return await enter(
            reach,
            Role.BRIDGE,
            room,
            protocol,
            where=str(self.address),
            whom=BROKER,
            stay=BROKER_STAY,
            on_parked=on_parked,
        )

    def __str__(self) -> str:
        return str(self.address)


class Ways:
    """Which doors lead to which cluster."""

    def __init__(self, beacons: Sequence[Door], brokers: Brokers, proxies: Proxies = DIRECT) -> None:
        """ConfigError when the CA of the brokers' outer certificates cannot be used."""
        self._beacons = tuple(beacons)
        self._brokers = brokers
        self._proxies = proxies
        self._made: dict[Address, Door] = {}
        self._context: ssl.SSLContext | None = None
        self._credentials: grpc.ChannelCredentials | None = None
        if brokers.addresses:
            self._prepare()

    def to(self, registered: Registered) -> tuple[Door, ...]:
        """The doors of a cluster: every beacon, and its brokers: those given for it, else those it was
        registered with, else those given for no cluster in particular. ConfigError for a bad address."""
        addresses = self._brokers.of(registered.fingerprint) or _recorded(registered) or self._brokers.of("")
        return (*self._beacons, *(self._broker(address) for address in addresses))

    def _broker(self, address: Address) -> Door:
        if address not in self._made:
            self._prepare()
            if self._credentials is not None:
                self._made[address] = GrpcDoor(address, self._credentials, self._proxies)
            else:
                assert self._context is not None
                self._made[address] = TlsDoor(address, self._context, self._proxies)
        return self._made[address]

    def _prepare(self) -> None:
        """What checks the outer certificate; gRPC is loaded here, at the first broker."""
        if self._context is not None or self._credentials is not None:
            return
        if self._brokers.grpc:
            from cloudtaser.net.grpc_client import outer_credentials

            self._credentials = outer_credentials(self._brokers.outer_ca)
        else:
            self._context = beacon_client(self._brokers.outer_ca, self._brokers.outer_insecure)


def reachable(doors: Sequence[Door], down: Mapping[str, object] | set[str], kind: str) -> dict[str, bool]:
    """For the status: the doors of one kind, and whether they answered when last tried."""
    return {str(door): str(door) not in down for door in doors if door.kind == kind}


def _recorded(registered: Registered) -> tuple[Address, ...]:
    try:
        return tuple(dict.fromkeys(Address.parse(text) for text in registered.broker_addresses))
    except ConfigError as error:
        raise ConfigError(
            error.what, on="broker_addresses of the registration", fix="run `source register` again"
        ) from None


def _proxy_url(proxy: Proxy | None, address: Address) -> str | None:
    if proxy is None:
        return None
    if proxy.context is not None:
        raise UnavailableError(
            f"gRPC cannot go through {proxy}",
            on=str(address),
            fix="use an http:// proxy, or --transport tls",
        )
    # escaped: gRPC would take what is behind a `/` for a path, and repeat the rest as a host's name
    who = f"{quote(proxy.credentials.reveal(), safe=':')}@" if proxy.credentials is not None else ""
    host = f"[{proxy.host}]" if ":" in proxy.host else proxy.host
    return f"http://{who}{host}:{proxy.port}"
