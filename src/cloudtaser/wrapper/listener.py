"""The listener: the wrapper's own small HTTP server, for probes and for the one token that it waits for.

Anybody in the pod's network may connect (spec/wrapper.md, "Sealed mode"). One request for each connection, a
few connections at a time, a few seconds for each; a flood costs the newcomers' elders and holds up neither a
signal nor the operator. `fetching` runs it in sealed mode.
"""

import _socket
import errno

from cloudtaser.wrapper.buffers import Buffer
from cloudtaser.wrapper.envelope import EnvelopeError
from cloudtaser.wrapper.errors import ConfigError, fault
from cloudtaser.wrapper.inbound import CONTINUE, RequestError, RequestReader, write_response
from cloudtaser.wrapper.log import Log
from cloudtaser.wrapper.loop import READ, WRITE, Loop, Task, Wait
from cloudtaser.wrapper.sealing import NotSealedError, Sealing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MAX_CONNECTIONS = 32
REQUEST_SECONDS = 5.0
_LINGER_SECONDS = 1.0
_MAX_DRAINED = 65_536
_BACKLOG = 128
_ACCEPTED_AT_ONCE = 16
_SCRATCH = 4096
_LINES_AT_ONCE = 50
_LINE_EVERY = 5.0  # seconds for one more

_REFUSED = b'{"error":"refused"}'


class Tally:
    """Which refusals are logged: the first ones, then one every few seconds, with the number since."""

    __slots__ = ("_left", "_refilled", "_silent")

    def __init__(self, now: float) -> None:
        self._left = float(_LINES_AT_ONCE)
        self._refilled = now
        self._silent = 0

    def line(self, now: float) -> int | None:
        """How many went without a line since the last one; None where this one does, too."""
        self._left = min(_LINES_AT_ONCE, self._left + (now - self._refilled) / _LINE_EVERY)
        self._refilled = now
        if self._left < 1:
            self._silent += 1
            return None
        self._left -= 1
        silent, self._silent = self._silent, 0
        return silent


class _Guest:
    """One open connection."""

    __slots__ = ("socket", "source", "task")

    def __init__(self, socket: _socket.socket, source: str) -> None:
        self.socket = socket
        self.source = source
        self.task: Task | None = None


class Listener:
    """Answers from the time it is made; `close` ends it. `is_running` tells whether the application runs."""

    __slots__ = (
        "_guests",
        "_is_running",
        "_log",
        "_loop",
        "_scratch",
        "_sealing",
        "_socket",
        "_tally",
        "address",
    )

    def __init__(
        self,
        loop: Loop,
        address: tuple[str, int],
        sealing: Sealing,
        is_running: "Callable[[], bool]",
        log: Log,
    ) -> None:
        self._loop = loop
        self._sealing = sealing
        self._is_running = is_running
        self._log = log
        self._tally = Tally(loop.now())
        self._guests: list[_Guest] = []
        self._scratch = Buffer(_SCRATCH, _SCRATCH)
        self._socket = _listen(*address)
        host, port = self._socket.getsockname()[:2]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def serve(self) -> None:
        """Accept for ever."""
        while True:
            await Wait(self._socket.fileno(), READ, None)
            for _ in range(_ACCEPTED_AT_ONCE):
                try:
                    fd, where = self._socket._accept()  # type: ignore[attr-defined]  # what the stubs leave out
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno != errno.ECONNABORTED:  # no descriptor or memory left: the others go first
                        self._make_room()
                        await self._loop.sleep(0.1)
                    continue
                self._welcome(_socket.socket(self._socket.family, _socket.SOCK_STREAM, 0, fd), str(where[0]))
            await self._loop.sleep(0)

    def close(self) -> None:
        """Answer nobody any more."""
        self._socket.close()
        for guest in list(self._guests):
            if guest.task is not None:
                guest.task.cancel()

    def _welcome(self, socket: _socket.socket, source: str) -> None:
        socket.setblocking(False)
        while len(self._guests) >= MAX_CONNECTIONS:
            self._make_room()
        guest = _Guest(socket, source.removeprefix("::ffff:"))
        self._guests.append(guest)
        guest.task = self._loop.spawn(self._attend(guest))

    def _make_room(self) -> None:
        """Close the oldest connection of whoever has the most."""
        counts: dict[str, int] = {}
        for guest in self._guests:
            counts[guest.source] = counts.get(guest.source, 0) + 1
        for guest in self._guests:
            if counts[guest.source] == max(counts.values()):
                self._refuse(guest, "too many connections at a time")
                if guest.task is not None:
                    guest.task.cancel()
                if guest in self._guests:  # it had not begun, or is the one that asks
                    self._guests.remove(guest)
                    guest.socket.close()
                return

    async def _attend(self, guest: _Guest) -> None:
        deadline = self._loop.now() + REQUEST_SECONDS
        try:
            try:
                status, body = await self._exchange(guest, deadline)
            except RequestError as error:
                self._refuse(guest, error.what)
                status, body = error.status, _REFUSED
            if status:
                await self._answer(guest.socket, write_response(status, body), deadline)
                await self._linger(guest.socket)
        except OSError:
            return
        except Exception as error:  # noqa: BLE001  # a fault of ours must not end the application
            self._log.warning("a request could not be answered", reason=fault(error))
        finally:
            guest.socket.close()
            if guest in self._guests:
                self._guests.remove(guest)

    async def _exchange(self, guest: _Guest, deadline: float) -> tuple[int, bytes]:
        """Status and body of the answer; status 0 where nobody asked. Raises RequestError."""
        reader = RequestReader()
        try:
            while not reader.done:
                had_head = reader.has_head
                if not await self._receive(guest.socket, reader, deadline):
                    if reader.begun:
                        raise RequestError("a request that was cut off")
                    return 0, b""
                if reader.has_head and not had_head and reader.wants_continue and not reader.done:
                    await self._answer(guest.socket, CONTINUE, deadline)
            return self._respond(guest, reader)
        finally:
            reader.body.wipe()

    async def _receive(self, socket: _socket.socket, reader: RequestReader, deadline: float) -> bool:
        """Give the reader what came; whether anything did."""
        while self._loop.now() < deadline:
            with self._scratch.space(_SCRATCH) as space:
                try:
                    count = socket.recv_into(space)
                except BlockingIOError:
                    count = -1
                if count > 0:
                    with space[:count] as data:
                        try:
                            reader.receive(data)
                        finally:
                            data[:] = bytes(count)
            if count >= 0:
                return count > 0
            await Wait(socket.fileno(), READ, deadline)
        raise RequestError(f"a request that took longer than {REQUEST_SECONDS:g} s", 408)

    def _respond(self, guest: _Guest, reader: RequestReader) -> tuple[int, bytes]:
        what = (reader.method, reader.target)
        if what == (b"POST", b"/v1/unseal"):
            return self._unseal(guest, reader.body)
        if what == (b"GET", b"/v1/status"):
            return 200, self._sealing.status()
        if what == (b"GET", b"/healthz"):
            return 200, b'{"alive":true}'
        if what == (b"GET", b"/readyz"):
            return (200, b'{"ready":true}') if self._is_running() else (503, b'{"ready":false}')
        if reader.target in (b"/v1/unseal", b"/v1/status", b"/healthz", b"/readyz"):
            raise RequestError("a method that is not answered there", 405)
        raise RequestError("a path that is not there", 404)

    def _unseal(self, guest: _Guest, body: Buffer) -> tuple[int, bytes]:
        try:
            self._sealing.unseal(body)
        except EnvelopeError as error:
            self._refuse(guest, error.what)
            return (409 if isinstance(error, NotSealedError) else 403), _REFUSED
        self._log.info("unsealed", source=guest.source)
        return 200, b'{"sealed":false}'

    def _refuse(self, guest: _Guest, what: str) -> None:
        silent = self._tally.line(self._loop.now())
        if silent:
            self._log.warning("a request is refused", reason=what, source=guest.source, more=silent)
        elif silent is not None:
            self._log.warning("a request is refused", reason=what, source=guest.source)

    async def _answer(self, socket: _socket.socket, data: bytes, deadline: float) -> None:
        sent = 0
        while sent < len(data):
            try:
                sent += socket.send(data[sent:])
            except BlockingIOError:
                if not await Wait(socket.fileno(), WRITE, deadline):
                    return

    async def _linger(self, socket: _socket.socket) -> None:
        """Let the other side read the answer before a reset could take it away."""
        socket.shutdown(_socket.SHUT_WR)
        deadline = self._loop.now() + _LINGER_SECONDS
        drained = 0
        while drained < _MAX_DRAINED and self._loop.now() < deadline:
            with self._scratch.space(_SCRATCH) as space:
                try:
                    count = socket.recv_into(space)
                except BlockingIOError:
                    count = -1
                if count > 0:
                    space[:count] = bytes(count)
                    drained += count
            if not count:
                return
            if count < 0:
                await Wait(socket.fileno(), READ, deadline)


def _listen(host: str, port: int) -> _socket.socket:
    """A listening socket; an empty host is every address of the pod. Raises ConfigError."""
    families = [_socket.AF_INET6, _socket.AF_INET] if not host else [_family(host)]
    problem = ""
    for family in families:
        try:
            socket = _socket.socket(family, _socket.SOCK_STREAM)
        except OSError as error:  # a kernel without IPv6
            problem = error.strerror or "no socket"
            continue
        socket.setblocking(False)
        try:
            socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
            if family == _socket.AF_INET6:
                socket.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 1 if host else 0)
            socket.bind((host or ("::" if family == _socket.AF_INET6 else "0.0.0.0"), port))  # noqa: S104
            socket.listen(_BACKLOG)
        except OSError as error:
            problem = error.strerror or "no socket"
            socket.close()
            continue
        return socket
    raise ConfigError(f"cannot listen there: {problem}", on="CLOUDTASER_LISTEN_ADDR")


def _family(host: str) -> int:
    return _socket.AF_INET6 if ":" in host else _socket.AF_INET
