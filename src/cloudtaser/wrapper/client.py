"""The OpenBao API as far as the wrapper needs it: requests in, checked JSON out.

`session` calls it. Keeps one connection, sends reads that do not depend on each other down it together
(pipelined), and turns every failure into what can be done about it: RefusedError, UnavailableError (try
again) or an `Answer` whose status the caller looks at.
"""

import posix

from cloudtaser.wrapper import jsontext, memory
from cloudtaser.wrapper.addresses import Endpoint
from cloudtaser.wrapper.buffers import Buffer, Span
from cloudtaser.wrapper.config import Config
from cloudtaser.wrapper.connection import Connection, HandshakeError, Interrupted, Trust, connect
from cloudtaser.wrapper.errors import NotReadyError, UnavailableError
from cloudtaser.wrapper.http1 import HttpError, Response, write_request
from cloudtaser.wrapper.jsontext import JsonError, Node
from cloudtaser.wrapper.loop import Loop
from cloudtaser.wrapper.pins import Pins

_PIPELINED = 16
_LONGEST_WAIT = 60.0
_CONNECT_WITHIN = 5.0  # seconds, TLS handshake included: behind a broker a dead tunnel may just say nothing
_PLAIN = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/"
_MAX_MESSAGE = 400

Call = tuple[bytes, str, Buffer | None]  # method, path, body


class Answer:
    """One response with its body as a tree. `buffer` holds the text that the tree points into."""

    __slots__ = ("buffer", "retry_after", "root", "status")

    def __init__(self, response: Response) -> None:
        self.status = response.status
        self.buffer = response.body
        self.retry_after = min(response.retry_after(), _LONGEST_WAIT)
        try:
            self.root = jsontext.parse(response.body) if len(response.body) else Node(jsontext.OBJECT, 0, 0)
        except JsonError:
            if response.status < 300:
                raise
            self.root = Node(jsontext.OBJECT, 0, 0)  # a proxy's error page

    def message(self) -> str:
        """What the server says is wrong, in one line; "" where it says nothing. Never a value: errors hold
        none.
        """
        lines: list[str] = []
        for name in ("errors", "warnings"):
            node = self.root.get(name)
            items = node.items if node is not None else []
            lines += [jsontext.text(self.buffer, item) for item in items if item.kind == jsontext.STRING]
        joined = "; ".join(" ".join(line.split()) for line in lines if line)
        return "".join(letter if letter.isprintable() else "?" for letter in joined[:_MAX_MESSAGE])

    def problem(self) -> str:
        """The message, or the bare status."""
        return self.message() or f"status {self.status}"


class Client:
    """Requests with the session's token, one request or batch at a time. ConfigError for a bad CA or key."""

    __slots__ = ("_config", "_connection", "_endpoint", "_loop", "_trust", "correlation", "deadline", "token")

    def __init__(self, loop: Loop, config: Config, endpoint: Endpoint) -> None:
        self._loop = loop
        self._config = config
        self._endpoint = endpoint
        self._trust = Trust(config, endpoint)
        if endpoint.tls:
            self._trust.context()  # a file that cannot be used is said now, not when the server is there
        self._connection: Connection | None = None
        self.token: Span | None = None
        self.deadline: float | None = None
        """When every exchange must be over, on the loop's clock; None for no such time."""
        self.correlation = posix.urandom(8).hex()

    @property
    def pins(self) -> Pins:
        """The pod CA that is pinned now."""
        return self._trust.pins

    def close(self) -> None:
        """Drop the connection; the next request opens one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def pin(self, pem: str) -> bool:
        """Trust that CA alone from the next connection on, which is the next request; whether it is another.

        Raises ProtocolError for what is not one CA certificate.
        """
        if not self._trust.pins.adopt(pem):
            return False
        self.close()
        return True

    async def call(
        self, method: bytes, path: str, body: Buffer | None = None, *, timeout: float | None = None
    ) -> Answer:
        """One request. Raises UnavailableError for what a later attempt may heal."""
        answer = (await self._exchange([(method, path, body)], timeout or self._config.request_timeout))[0]
        self.judge(answer)
        return answer

    async def read(self, paths: list[str]) -> list[Answer]:
        """GET each path; the answers in order. Raises UnavailableError where any of them must be asked
        again.
        """
        answers = await self.ask([(b"GET", path, None) for path in paths])
        for answer in answers:
            self.judge(answer)
        return answers

    async def ask(self, calls: list[Call]) -> list[Answer]:
        """Make each call; the answers in order, whatever they say. Raises UnavailableError where there is
        none.
        """
        answers: list[Answer] = []
        for first in range(0, len(calls), _PIPELINED):
            answers += await self._exchange(calls[first : first + _PIPELINED], self._config.request_timeout)
        return answers

    def judge(self, answer: Answer) -> None:
        """Raises NotReadyError for an answer that a later attempt may better."""
        if answer.status in (408, 412, 425, 429) or answer.status >= 500 or 300 <= answer.status < 400:
            moved = (
                "the server redirects, which is not followed"
                if answer.status < 400
                else "the server is not ready"
            )
            what = f"{moved}: {answer.problem()}"
            raise NotReadyError(what, on=self._endpoint.authority(), retry_after=answer.retry_after)

    async def _exchange(self, calls: list[Call], timeout: float) -> list[Answer]:
        """Send the calls on the kept connection; a kept one that proves dead is replaced once."""
        deadline = self._loop.now() + timeout
        if self.deadline is not None:
            deadline = min(deadline, self.deadline)
        responses: list[Response] = []
        stale_allowed = self._connection is not None
        while len(responses) < len(calls):
            connection = self._connection or await self._connect(deadline)
            self._connection = connection
            requests = [self._request(*call) for call in calls[len(responses) :]]
            keep = False
            try:
                answers, keep = await connection.exchange(requests, deadline)
                responses += answers
            except Interrupted as interrupted:
                if not interrupted.answers and (interrupted.begun or not stale_allowed):
                    raise UnavailableError(interrupted.what, on=self._endpoint.authority()) from None
                responses += interrupted.answers
            except HttpError as error:
                what = f"this is no answer of OpenBao or the bridge: {error.what}"
                raise UnavailableError(what, on=self._endpoint.authority()) from None
            finally:
                if not keep:
                    self.close()
                for request in requests:
                    request.wipe()
            stale_allowed = False
        found = [Answer(response) for response in responses]
        memory.wipe_leftovers()
        return found

    async def _connect(self, deadline: float) -> Connection:
        """A connection under the pin, or under the one before it while that is still kept."""
        try:
            connection = await self._connect_soon(deadline)
        except HandshakeError:
            if not self._trust.pins.fall_back():
                raise
            connection = await self._connect_soon(deadline)
        self._trust.pins.confirm()
        return connection

    async def _connect_soon(self, deadline: float) -> Connection:
        soon = min(deadline, self._loop.now() + _CONNECT_WITHIN)
        return await connect(self._loop, self._endpoint, self._trust, soon)

    def _request(self, method: bytes, path: str, body: Buffer | None) -> Buffer:
        headers: list[tuple[bytes, bytes | memoryview]] = [
            (b"Host", self._host().encode()),
            (b"Accept", b"application/json"),
            (b"X-Vault-Request", b"true"),
            (b"X-Correlation-Id", self.correlation.encode()),
        ]
        if self._config.namespace and not self._endpoint.broker:
            headers.append((b"X-Vault-Namespace", self._config.namespace.encode()))
        if self.token is not None:
            headers.append((b"X-Vault-Token", self.token.view()))
        if body is not None:
            headers.append((b"Content-Type", b"application/json"))
        return write_request(method, b"/v1/" + quote(path), headers, body)

    def _host(self) -> str:
        return self._trust.server_name if self._endpoint.broker else self._endpoint.authority()


def quote(path: str) -> bytes:
    """A path, or a path with a query behind `?`, as a request target: every other byte percent-encoded."""
    path, mark, query = path.partition("?")
    quoted = path.encode()
    if quoted.translate(None, _PLAIN):
        quoted = b"".join(bytes((byte,)) if byte in _PLAIN else b"%%%02X" % byte for byte in quoted)
    return quoted + mark.encode() + query.encode()
