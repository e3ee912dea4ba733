"""One connection to OpenBao or to the bridge behind a broker: TCP, TLS through memory, HTTP/1.1 in turn.

`client` opens it and gives it requests. Every wait is a wait of the loop, so PID 1 goes on while the
network does not.
"""

import _socket
import _ssl
import errno
import posix

from cloudtaser.wrapper import certificates
from cloudtaser.wrapper.addresses import Endpoint
from cloudtaser.wrapper.buffers import Buffer
from cloudtaser.wrapper.config import Config
from cloudtaser.wrapper.errors import ConfigError, UnavailableError
from cloudtaser.wrapper.http1 import Response, ResponseReader
from cloudtaser.wrapper.loop import READ, WRITE, Loop, Wait
from cloudtaser.wrapper.pins import Pins
from cloudtaser.wrapper.resolve import Address, resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    class _TlsSession:
        """What the stubs leave out: `_ssl._SSLSocket` over memory."""

        def do_handshake(self) -> None: ...
        def read(self, size: int, buffer: memoryview) -> int: ...
        def write(self, data: memoryview) -> int: ...

    class _Context(_ssl._SSLContext):
        def _wrap_bio(
            self, incoming: _ssl.MemoryBIO, outgoing: _ssl.MemoryBIO, server_side: bool, name: str
        ) -> _TlsSession: ...


_RECEIVE = 16_384 + 512
_RECEIVED_AT_ONCE = 16  # reads in a row before signals get their turn: a peer may send without end
_TLS12, _TLS13 = 0x0303, 0x0304
_OP_CLEANSE_PLAINTEXT = 2  # OpenSSL wipes its own read buffer once the plaintext was taken


class Interrupted(UnavailableError):
    """The peer closed the connection; `answers` are the responses that were complete by then."""

    def __init__(self, what: str, answers: list[Response], *, begun: bool) -> None:
        super().__init__(what)
        self.answers = answers
        self.begun = begun


class HandshakeError(UnavailableError):
    """The connection stands, but the other side is not the one to talk to, or will not talk."""


class Trust:
    """Whom to believe: makes the TLS context, anew when one of the files or the pin changes."""

    __slots__ = ("_config", "_context", "_endpoint", "_files", "pins")

    def __init__(self, config: Config, endpoint: Endpoint) -> None:
        self._config = config
        self._endpoint = endpoint
        self._context: _Context | None = None
        self._files: tuple[object, ...] = ()
        self.pins = Pins(config.ca_pem)

    @property
    def server_name(self) -> str:
        """The name to ask for and to check."""
        return self.pins.server_name if self._endpoint.broker else self._endpoint.host

    @property
    def source(self) -> str:
        """Where the trusted authorities come from."""
        if self.pins.pem:
            return "CLOUDTASER_CA"
        return "VAULT_CACERT" if self._config.ca_file else "the system's store"

    def context(self) -> "_Context":
        """The context for a new connection. Raises ConfigError where a file cannot be used."""
        config = self._config
        files: tuple[object, ...] = (
            self.pins.pem,
            *map(_stamp, (config.ca_file, config.client_cert, config.client_key)),
        )
        if self._context is None or files != self._files:
            self._context = self._make()
            self._files = files
        return self._context

    def _make(self) -> "_Context":
        config = self._config
        context: _Context = _ssl._SSLContext(_ssl.PROTOCOL_TLS_CLIENT)  # type: ignore[assignment]  # stubs
        context.minimum_version = _TLS13 if self._endpoint.broker else _TLS12
        context.options |= _OP_CLEANSE_PLAINTEXT | _ssl.OP_NO_COMPRESSION | _ssl.OP_NO_RENEGOTIATION
        if config.skip_verify:
            context.check_hostname = False
            context.verify_mode = _ssl.CERT_NONE
        elif self.pins.pem:
            _load("CLOUDTASER_CA", lambda: context.load_verify_locations(None, None, self.pins.pem))
        elif config.ca_file:
            _load("VAULT_CACERT", lambda: context.load_verify_locations(config.ca_file, None, None))
        else:
            context.set_default_verify_paths()
        if config.client_cert and not self._endpoint.broker:
            _load(
                "VAULT_CLIENT_CERT",
                lambda: context.load_cert_chain(config.client_cert, config.client_key, None),
            )
        return context


def _load(variable: str, load: "Callable[[], None]") -> None:
    try:
        load()
    except (OSError, ValueError) as error:
        reason = "it is not what it should be"
        if isinstance(error, _ssl.SSLError):  # whose own text ends in a line of C
            word = getattr(error, "reason", None)
            reason = f"there is no usable PEM in it ({word})" if word else "there is no usable PEM in it"
        elif isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        raise ConfigError(f"cannot be used: {reason}", on=variable) from None


def _stamp(path: str) -> object:
    if not path:
        return None
    try:
        status = posix.stat(path)
    except OSError:
        return None
    return (status.st_ino, status.st_mtime_ns, status.st_size)


class Connection:
    """Open until `close`. Not to be used by two tasks at once."""

    __slots__ = (
        "_at_once",
        "_encrypted_in",
        "_encrypted_out",
        "_loop",
        "_received",
        "_scratch",
        "_socket",
        "_tls",
        "_used",
        "_where",
    )

    def __init__(self, loop: Loop, socket: _socket.socket, where: str) -> None:
        self._loop = loop
        self._socket = socket
        self._where = where
        self._tls: _TlsSession | None = None
        self._encrypted_in = _ssl.MemoryBIO()
        self._encrypted_out = _ssl.MemoryBIO()
        self._scratch = bytearray(_RECEIVE)
        self._received = Buffer(_RECEIVE, _RECEIVE)
        self._used = 0
        self._at_once = 0

    async def start_tls(self, trust: Trust, deadline: float) -> None:
        """The TLS handshake. Raises UnavailableError, which says what is wrong with the certificate."""
        context = trust.context()
        tls = context._wrap_bio(self._encrypted_in, self._encrypted_out, False, trust.server_name)
        self._tls = tls
        try:
            await self._pump(tls.do_handshake, deadline)
        except _ssl.SSLCertVerificationError as error:
            reason = getattr(error, "verify_message", "") or "not trusted"
            raise HandshakeError(
                f"the server's certificate is refused: {reason}",
                on=self._where,
                fix=certificates.fix(error.verify_code, context, trust.source),
            ) from None
        except _ssl.SSLError as error:
            raise HandshakeError(
                f"the TLS handshake failed: {error.reason or 'closed'}", on=self._where
            ) from None
        except OSError as error:
            raise HandshakeError(
                f"the connection ended during the TLS handshake: {error.strerror or 'closed'}", on=self._where
            ) from None

    def close(self) -> None:
        """Close without ceremony; what was received is wiped."""
        self._socket.close()
        self._received.wipe()
        self._scratch[:] = bytes(len(self._scratch))

    async def exchange(self, requests: list[Buffer], deadline: float) -> tuple[list[Response], bool]:
        """Send the requests at once, read their responses in turn; the responses, and whether it stays open.

        Fewer responses than requests where the server announced that it closes. Raises Interrupted where it
        closed unannounced, UnavailableError past the deadline, HttpError for what is no HTTP.
        """
        answers: list[Response] = []
        try:
            await self._send(requests, deadline)
        except OSError:
            raise Interrupted("the connection was closed", answers, begun=False) from None
        for _ in requests:
            reader = ResponseReader()
            while not reader.done:
                if self._used == len(self._received):
                    await self._fill(answers, reader, deadline)
                with self._received.view(self._used) as fresh:
                    self._used += reader.receive(fresh)
            answers.append(reader.response)
            if not reader.response.keep_alive:
                return answers, False
        if self._used < len(self._received):
            return answers, False  # a server that talks without being asked is not asked again
        self._received.truncate(0)
        self._used = 0
        return answers, True

    async def _send(self, requests: list[Buffer], deadline: float) -> None:
        joined = Buffer(1024, 64 << 20)
        for request in requests:
            with request.view() as view:
                joined.append(view)
        sent = 0
        try:
            while sent < len(joined):
                with joined.view(sent) as rest:
                    sent += await self._write(rest, deadline)
        finally:
            joined.wipe()

    async def _write(self, data: memoryview, deadline: float) -> int:
        tls = self._tls
        if tls is None:
            return await self._send_some(data, deadline)
        taken: int = await self._pump(lambda: tls.write(data), deadline)
        return taken

    async def _fill(self, answers: list[Response], reader: ResponseReader, deadline: float) -> None:
        """Receive more plain text into the buffer."""
        self._received.truncate(0)
        self._used = 0
        tls = self._tls
        with self._received.space(_RECEIVE) as space:
            try:
                if tls is None:
                    count = await self._receive_some(space, deadline)
                else:
                    count = await self._pump(lambda: tls.read(len(space), space), deadline)
            except OSError:
                count = 0
        if not count:
            begun = reader.begun or bool(answers)
            raise Interrupted(
                "the connection was closed before the answer was complete", answers, begun=begun
            )
        self._received.advance(count)

    async def _pump(self, call: "Callable[[], int | None]", deadline: float) -> int:
        """Run a TLS operation, moving bytes between OpenSSL's memory and the socket until it can be done."""
        while True:
            try:
                result = call()
            except _ssl.SSLWantReadError:
                await self._flush(deadline)
                with memoryview(self._scratch) as scratch:
                    count = await self._receive_some(scratch, deadline)
                    if count:
                        self._encrypted_in.write(scratch[:count])
                    else:
                        self._encrypted_in.write_eof()
                continue
            except _ssl.SSLZeroReturnError:
                return 0
            except _ssl.SSLError:
                await self._flush_alert()
                raise
            await self._flush(deadline)
            return result or 0

    async def _flush(self, deadline: float) -> None:
        while data := self._encrypted_out.read(65536):
            sent = 0
            with memoryview(data) as view:
                while sent < len(view):
                    sent += await self._send_some(view[sent:], deadline)

    async def _flush_alert(self) -> None:
        try:
            self._socket.send(self._encrypted_out.read())
        except OSError:
            return

    async def _send_some(self, data: memoryview, deadline: float) -> int:
        while True:
            try:
                return self._socket.send(data)
            except BlockingIOError:
                await self._ready(WRITE, deadline)

    async def _receive_some(self, space: memoryview, deadline: float) -> int:
        self._at_once += 1
        if self._at_once >= _RECEIVED_AT_ONCE:
            await self._loop.sleep(0)
            self._at_once = 0
        while True:
            if self._loop.now() > deadline:
                raise UnavailableError("no answer in time", on=self._where)
            try:
                return self._socket.recv_into(space)
            except BlockingIOError:
                await self._ready(READ, deadline)
                self._at_once = 0

    async def _ready(self, events: int, deadline: float) -> None:
        if not await Wait(self._socket.fileno(), events, deadline):
            raise UnavailableError("no answer in time", on=self._where)


async def connect(loop: Loop, endpoint: Endpoint, trust: Trust, deadline: float) -> Connection:
    """Open a connection to the endpoint, trying its addresses in turn. Raises UnavailableError or
    ConfigError.
    """
    where = endpoint.authority()
    problem = "no address"
    addresses = await resolve(loop, endpoint.host, endpoint.port, deadline)
    for index, address in enumerate(addresses):
        share = (deadline - loop.now()) / (len(addresses) - index)
        try:
            socket = _socket.socket(
                address.family, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
            )
        except OSError as error:  # a family that this kernel does not have, or no descriptor left
            problem = error.strerror or "no socket"
            continue
        socket.setblocking(False)
        try:
            failed = await _connect(socket, address, loop.now() + share)
            if failed:
                problem = posix.strerror(failed)
                socket.close()
                continue
            connection = Connection(loop, socket, where)
            if endpoint.tls:
                await connection.start_tls(trust, deadline)
        except BaseException:
            socket.close()
            raise
        return connection
    raise UnavailableError(f"cannot connect: {problem}", on=where)


async def _connect(socket: _socket.socket, address: Address, deadline: float) -> int:
    """The error number of the attempt, 0 for success."""
    number = socket.connect_ex(address.where)
    if number != errno.EINPROGRESS:
        if not number:
            _no_delay(socket)
        return number
    if not await Wait(socket.fileno(), WRITE, deadline):
        return errno.ETIMEDOUT
    number = socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
    if not number:
        _no_delay(socket)
    return number


def _no_delay(socket: _socket.socket) -> None:
    socket.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
