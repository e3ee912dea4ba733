"""The door: listening sockets, accepting, and the TCP options that accepted connections inherit.

Used by `server`. Linux copies these options from the listener, so that an accepted connection costs no call
more. When there are no descriptors left the door stays shut until it is opened again: no busy loop.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final

from cloudtaser.errors import UnavailableError

_BACKLOG: Final = 4096
_KEEPALIVE_IDLE: Final = 20
_KEEPALIVE_INTERVAL: Final = 10
_KEEPALIVE_PROBES: Final = 3
_ACCEPTS_A_TURN: Final = 64
_NO_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Door:
    """All listening sockets of a beacon."""

    def __init__(
        self,
        welcome: Callable[[socket.socket, str, float], None],
        out_of_descriptors: Callable[[OSError], None],
    ) -> None:
        self._welcome = welcome
        self._out_of_descriptors = out_of_descriptors
        self._listeners: list[socket.socket] = []
        self.is_open = False

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens, with the real ports; empty once closed for good."""
        return [listener.getsockname()[:2] for listener in self._listeners]

    async def bind(self, endpoints: Sequence[tuple[str, int]], dead_after: float) -> None:
        """Listen, and accept nothing yet. UnavailableError names the address that cannot be had."""
        self._loop = asyncio.get_running_loop()
        for host, port in endpoints:
            try:
                self._listeners += await _bind(self._loop, host, port)
            except OSError as error:
                raise cannot_listen(error, host, port) from None
        for listener in self._listeners:
            _tune(listener, dead_after)

    def open(self) -> None:
        """Accept, unless that is going on already."""
        if self._listeners and not self.is_open:
            self.is_open = True
            for listener in self._listeners:
                self._loop.add_reader(listener.fileno(), self._accept, listener)

    def close(self) -> None:
        """Stop listening for good."""
        self._shut()
        for listener in self._listeners:
            listener.close()
        self._listeners = []

    def _accept(self, listener: socket.socket) -> None:
        now = time.monotonic()
        for _ in range(_ACCEPTS_A_TURN):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _NO_DESCRIPTORS:
                    self._shut()
                    self._out_of_descriptors(error)
                    return
                continue  # that one was gone before it was accepted
            self._welcome(sock, address[0], now)

    def _shut(self) -> None:
        if self.is_open:
            self.is_open = False
            for listener in self._listeners:
                self._loop.remove_reader(listener.fileno())


def cannot_listen(error: OSError, host: str, port: int) -> UnavailableError:
    """What to tell when an address cannot be had."""
    number = error.errno or 0  # a name that is not known has a negative one, and its own text
    reason = os.strerror(number) if number > 0 else error.strerror
    return UnavailableError(f"cannot listen: {reason or error}", on=f"{host}:{port}")


async def _bind(loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[socket.socket]:
    """One socket an address of `host`; one for IPv6 and IPv4 together when it is empty."""
    if not host:
        return [_all_addresses(port)]
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            sockets.append(_listen(family, address))
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _tune(listener: socket.socket, dead_after: float) -> None:
    """No delay for small writes; a peer that acknowledges nothing for `dead_after` seconds is gone."""
    tcp = socket.IPPROTO_TCP
    listener.setsockopt(tcp, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(tcp, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE)
    listener.setsockopt(tcp, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL)
    listener.setsockopt(tcp, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)
    set_dead_after(listener, dead_after)


def set_dead_after(sock: socket.socket, seconds: float) -> None:
    """How long sent bytes, a keepalive or a closed window may go unanswered."""
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))
    except OSError:
        pass  # reset meanwhile: reading will tell


def _all_addresses(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return _listen(socket.AF_INET6, ("::", port), dual=True)
    return _listen(socket.AF_INET, ("0.0.0.0", port))  # noqa: S104  an empty host asks for exactly this


def _listen(family: int, address: object, *, dual: bool = False) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dual else 1)
        sock.bind(address)  # type: ignore[arg-type]  # whatever getaddrinfo gave for the family
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock
