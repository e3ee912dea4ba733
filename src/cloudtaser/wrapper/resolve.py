"""Names to addresses, without standing still: the C library's look-up runs in a thread of its own.

`connection` asks. It is the one blocking call that the wrapper cannot do in pieces; an address needs none
of it. At most one look-up runs at a time: one that hangs is waited for by the next that asks.
"""

import _signal
import _socket
import _thread
import posix

from cloudtaser.wrapper.errors import UnavailableError
from cloudtaser.wrapper.loop import READ, Loop, Wait

_MAX_ADDRESSES = 8


class Address:
    """One address to connect to: its family and what `connect` takes."""

    __slots__ = ("family", "where")

    def __init__(
        self, family: int, where: "tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]"
    ) -> None:
        self.family = family
        self.where = where


class _Lookup:
    """One look-up in its thread. The thread's end closes the pipe's writing end."""

    __slots__ = ("addresses", "host", "port", "problem", "reading")

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.addresses: list[Address] = []
        self.problem = ""
        self.reading, writing = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)
        try:
            _thread.start_new_thread(self._run, (writing,))
        except RuntimeError:
            posix.close(self.reading)
            posix.close(writing)
            raise

    def _run(self, writing: int) -> None:
        _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
        try:
            # As bytes: a str would pull in the idna codec, and with it half the library.
            found = _socket.getaddrinfo(self.host.encode("ascii"), self.port, 0, _socket.SOCK_STREAM)
            self.addresses = [Address(family, where) for family, _, _, _, where in found[:_MAX_ADDRESSES]]
        except OSError as error:
            self.problem = error.strerror or "no address"
        finally:
            posix.close(writing)


_running: list[_Lookup] = []


async def resolve(loop: Loop, host: str, port: int, deadline: float) -> list[Address]:
    """The addresses of a host name or literal. Raises UnavailableError."""
    if literal := _literal(host, port):
        return [literal]
    if _running and (_running[0].host, _running[0].port) != (host, port):
        raise UnavailableError("another look-up still runs", on=host)
    if not _running:
        try:
            _running.append(_Lookup(host, port))
        except (OSError, RuntimeError):  # no descriptor or no thread left
            raise UnavailableError("the name look-up cannot be started", on=host) from None
    lookup = _running[0]
    if not await Wait(lookup.reading, READ, deadline):
        raise UnavailableError("the name look-up takes too long", on=host)
    _running.clear()
    posix.close(lookup.reading)
    if not lookup.addresses:
        raise UnavailableError(f"the name cannot be looked up: {lookup.problem or 'no address'}", on=host)
    return lookup.addresses


def _literal(host: str, port: int) -> Address | None:
    for family in (_socket.AF_INET, _socket.AF_INET6):
        try:
            _socket.inet_pton(family, host)
        except OSError:
            continue
        return Address(family, (host, port) if family == _socket.AF_INET else (host, port, 0, 0))
    return None
