"""Dialling: addresses as people write them, when to try again, one bounded connect, with or without a proxy.

Used by `rendezvous`, by bridge and operator for everything they connect to, and by the wrapper's tests. The
delays are spec/wire.md's "full jitter 0.2 s to 4 s", so that a beacon's restart meets no stampede.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import random
import re
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar, cast

from cloudtaser.errors import CloudtaserError, ConfigError, UnavailableError
from cloudtaser.net.layers import TlsLayer
from cloudtaser.net.proxy import DIRECT, Passage, Proxies, Proxy
from cloudtaser.net.tls import reason
from cloudtaser.wire.hashes import route_key

CONNECT_TIMEOUT: Final = 10.0
"""Seconds for a TCP connection to stand."""

_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")

P = TypeVar("P", bound=asyncio.BaseProtocol)


class Backoff:
    """How long to wait before the next attempt: a random part of a limit that doubles (full jitter)."""

    def __init__(
        self,
        first: float = 0.2,
        limit: float = 4.0,
        factor: float = 2.0,
        *,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._first = first
        self._limit = limit
        self._factor = factor
        self._uniform = uniform
        self._bound = first

    def next(self) -> float:
        """Seconds to wait now; the following wait may be longer."""
        bound = self._bound
        self._bound = min(self._limit, bound * self._factor)
        return self._uniform(0.0, bound)

    def reset(self) -> None:
        """An attempt succeeded: the next wait is short again."""
        self._bound = self._first


@dataclass(frozen=True, slots=True)
class Address:
    """Where to dial. `wildcard` (`*.host:port`) puts the room's route key before the host in the SNI."""

    host: str
    port: int
    wildcard: bool = False

    @classmethod
    def parse(cls, text: str, *, source: str = "") -> Address:
        """`host:port`, `[v6]:port` or `*.host:port`. ConfigError names the text and its `source` (a flag)."""
        bad = f"{text!r} is not an address like host:port"
        cleaned = text.strip()
        host, colon, digits = cleaned.rpartition(":")
        if not colon or not re.fullmatch(r"[0-9]{1,5}", digits) or not 0 < int(digits) < 65536:
            raise ConfigError(bad, on=source, fix="give a host and a port between 1 and 65535")
        wildcard = host.startswith("*.")
        bare = host[2:] if wildcard else host
        if bare.startswith("[") and bare.endswith("]"):
            bare = bare[1:-1]
            if wildcard or not _is_ip(bare, 6):
                raise ConfigError(
                    bad, on=source, fix="between brackets goes an IPv6 address, without a wildcard"
                )
        elif ":" in bare:
            raise ConfigError(bad, on=source, fix="write an IPv6 address between brackets, [::1]:443")
        elif _is_ip(bare, 4):
            if wildcard:
                raise ConfigError(bad, on=source, fix="a wildcard needs a host name, not an IP address")
        elif len(bare) > 244 or not all(_LABEL.fullmatch(label) for label in bare.split(".")):
            raise ConfigError(bad, on=source, fix="the host is neither a name nor an IP address")
        return cls(bare, int(digits), wildcard)

    @classmethod
    def parse_list(cls, text: str, *, source: str = "") -> tuple[Address, ...]:
        """A comma-separated list, each address once, in order. ConfigError when it is empty or one is bad."""
        addresses = dict.fromkeys(cls.parse(part, source=source) for part in text.split(",") if part.strip())
        if not addresses:
            raise ConfigError("no address was given", on=source, fix="give host:port, or several with commas")
        return tuple(addresses)

    def server_name(self, room: bytes | None = None) -> str:
        """The name to send as SNI and to check in the certificate; the host itself is what is dialled."""
        if self.wildcard and room is not None:
            return f"{route_key(room)}.{self.host}"
        return self.host

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'*.' if self.wildcard else ''}{host}:{self.port}"


async def dial_tcp(
    address: Address,
    protocol_factory: Callable[[], P],
    timeout: float = CONNECT_TIMEOUT,
    *,
    proxies: Proxies = DIRECT,
) -> tuple[asyncio.Transport, P]:
    """Connect within `timeout` seconds, by a proxy where `proxies` says so; UnavailableError with the reason
    otherwise. TCP_NODELAY is set."""
    proxy = proxies.route(address.host, address.port)
    if proxy is not None:
        protocol = protocol_factory()
        transport = await _pass(proxy, address, cast("asyncio.Protocol", protocol), timeout)
        return transport, protocol
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout):
            transport, protocol = await loop.create_connection(protocol_factory, address.host, address.port)
    except TimeoutError:
        raise UnavailableError(f"no connection within {timeout:g} s", on=str(address)) from None
    except OSError as error:
        raise UnavailableError(f"cannot connect: {_why(error)}", on=str(address)) from None
    keep_alive(transport)
    return transport, protocol


async def dial_tls(
    address: Address,
    protocol_factory: Callable[[], P],
    context: ssl.SSLContext,
    timeout: float = CONNECT_TIMEOUT,
    *,
    proxies: Proxies = DIRECT,
) -> tuple[asyncio.Transport, P]:
    """The same with TLS to the host inside. ProtocolError when TLS fails, UntrustedError by certificate."""
    protocol = protocol_factory()
    layer = TlsLayer(
        context, cast("asyncio.Protocol", protocol), server_side=False, server_hostname=address.host
    )
    transport, _ = await dial_tcp(address, lambda: layer, timeout, proxies=proxies)
    try:
        await layer.handshake
    except asyncio.CancelledError:
        transport.abort()
        raise
    except CloudtaserError as error:
        error.on = error.on or str(address)
        raise
    return layer, protocol


async def _pass(
    proxy: Proxy, address: Address, protocol: asyncio.Protocol, timeout: float
) -> asyncio.Transport:
    """Through the proxy to `address`; the transport is that of the pipe."""
    where = f"{address} through {proxy}"
    loop = asyncio.get_running_loop()
    passage = Passage(proxy, address.host, address.port, protocol)
    bottom: asyncio.Transport | None = None
    pipe: asyncio.Transport | None = None
    try:
        async with asyncio.timeout(timeout):
            bottom, _ = await loop.create_connection(lambda: passage.bottom, proxy.host, proxy.port)
            keep_alive(bottom)
            pipe = await passage.opened()
            return pipe
    except OSError as error:
        if isinstance(error, TimeoutError) and error.errno is None:
            raise UnavailableError(f"no answer of the proxy within {timeout:g} s", on=where) from None
        raise UnavailableError(f"cannot connect to the proxy: {_why(error)}", on=where) from None
    finally:
        if bottom is not None and pipe is None:
            bottom.abort()


def keep_alive(transport: asyncio.BaseTransport) -> None:
    """Let the kernel notice a peer that vanished without a word while the connection is idle."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def _why(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "the host name cannot be resolved"
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return reason(error)


def _is_ip(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False
