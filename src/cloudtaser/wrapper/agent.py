"""The node's agent: asked to protect this process before anything is fetched, and told its score.

`fetching` calls `register` first and runs `keep` for as long as the application lives. The agent listens on
an abstract Unix socket in the pod's network namespace, outside Kubernetes at a path (spec/ebpf.md, "Who is
protected"); it takes who we are from the kernel, not from what we say. Frames: 4 bytes of length, big-endian,
and a JSON object of 4096 bytes at most.
"""

import _socket
import errno

from cloudtaser.wrapper import jsontext
from cloudtaser.wrapper.backoff import Backoff, about
from cloudtaser.wrapper.buffers import Buffer
from cloudtaser.wrapper.config import AGENT_PLACES, Config
from cloudtaser.wrapper.errors import AgentError, fault
from cloudtaser.wrapper.jsontext import JsonError, Node
from cloudtaser.wrapper.log import Log
from cloudtaser.wrapper.loop import READ, WRITE, Loop, Wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MAX_FRAME = 4096
MODES = ("enforce", "detect")
TIERS = ("lsm", "fmod_ret", "kprobe", "kill", "none")
WAIT_SECONDS = 10.0  # for `true` and `required`
_EXCHANGE_SECONDS = 2.0
_LOOK_AGAIN = 30.0  # seconds, where there was no agent
_MAX_MESSAGE = 200
_FINAL = ("not_allowed", "version", "bad_request")  # refusals that another attempt does not heal
_CREDENTIALS = 12  # struct ucred: pid, uid, gid


class Registration:
    """What the agent said when it took this process under its protection."""

    __slots__ = ("hold", "known", "mode", "tier")

    def __init__(self, mode: str, tier: str, known: int, hold: int) -> None:
        self.mode = mode
        self.tier = tier
        self.known = known
        self.hold = hold


class RefusedByAgentError(AgentError):
    """The agent answers, and says no; `is_final` where it would say so again."""

    def __init__(self, what: str, *, is_final: bool) -> None:
        super().__init__(what)
        self.is_final = is_final


class Agent:
    """The connection to the agent. `registration` is None while nobody protects this process."""

    __slots__ = ("_backoff", "_config", "_log", "_loop", "_socket", "_wait", "registration")

    def __init__(self, loop: Loop, config: Config, log: Log) -> None:
        self._loop = loop
        self._config = config
        self._log = log
        self._backoff = Backoff(limit=_LOOK_AGAIN)
        self._socket: _socket.socket | None = None
        self._wait: Wait | None = None  # for the agent to go, or for another score
        self.registration: Registration | None = None

    async def register(self) -> None:
        """Ask for protection, as long as the setting says. Raises AgentError where it is required."""
        choice = self._config.agent
        if choice == "off":
            return
        until = self._loop.now() + (0.0 if choice == "auto" else WAIT_SECONDS)
        backoff = Backoff(limit=1.0)
        while True:
            try:
                await self._register()
            except AgentError as error:
                problem = error
            else:
                self._tell("the node's agent protects this process")
                return
            left = until - self._loop.now()
            if left <= 0 or (isinstance(problem, RefusedByAgentError) and problem.is_final):
                break
            await self._loop.sleep(min(left, backoff.next()))
        if choice == "required":
            raise AgentError(
                f"no agent protects this process: {problem.what}",
                on="CLOUDTASER_EBPF",
                fix="it is required; see to the agent on this node",
            )
        what = "no agent protects this process: the application starts without it"
        if choice == "true" or not isinstance(problem, _NoAgentError):
            self._log.warning(what, reason=problem.what)
        else:
            self._log.debug(what, reason=problem.what)

    async def keep(self, score: "Callable[[], bytes]") -> None:
        """Stay registered for ever, again after the agent was restarted, and send the score each time, if
        `score` has one.
        """
        while self._config.agent != "off":
            if self._socket is None:
                await self._loop.sleep(self._pause())
                try:
                    await self._register()
                except AgentError as error:
                    self._log.debug("no agent protects this process", reason=error.what)
                    continue
                self._tell("the node's agent protects this process again")
            self._backoff.reset()
            try:
                problem = await self._attend(score)
            except AgentError as error:
                problem = error.what
            except Exception as error:  # noqa: BLE001  # a fault of ours must not end the application
                problem = fault(error)
            self.close()
            self._log.warning(f"{problem}: the application runs on, and the agent is looked for")

    def renew_score(self) -> None:
        """The score may have changed: send it anew."""
        if self._wait is not None:
            self._wait.woken = True

    def close(self) -> None:
        """Let go of the agent."""
        self.registration = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _pause(self) -> float:
        return self._backoff.next() if self._config.agent != "auto" else about(self._backoff.next(), 0.5)

    def _tell(self, what: str) -> None:
        found = self.registration
        if found is not None:
            self._log.info(what, mode=found.mode, tier=found.tier, vectors=found.known, hold=found.hold)

    async def _register(self) -> None:
        """One attempt at each place. Raises AgentError."""
        problem: AgentError = _NoAgentError("no agent is there")
        for place in self._config.agent_places:
            try:
                socket = await self._connect(place)
            except _NoAgentError:
                continue
            except AgentError as error:
                problem = error
                continue
            try:
                deadline = self._loop.now() + _EXCHANGE_SECONDS
                request = f'{{"v":1,"register":{{"container":"{self._config.container}"}}}}'
                answer = await self._exchange(socket, request.encode(), deadline)
                self.registration = parse_registration(answer)
            except AgentError as error:
                socket.close()
                problem = error
                continue
            except BaseException:
                socket.close()
                raise
            self._socket = socket
            return
        raise problem

    async def _connect(self, place: str) -> _socket.socket:
        name = place.encode()
        socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            socket.setblocking(False)
            number = socket.connect_ex(b"\0" + name[1:] if name[:1] == b"@" else name)
            if number in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR):
                raise _NoAgentError("no agent is there")
            if number == errno.EAGAIN:
                raise AgentError("the agent is busy")
            if number:
                raise AgentError(f"the agent cannot be reached: error {number}")
            if self._config.agent_places == AGENT_PLACES and _peer_user(socket):
                raise AgentError("somebody who is not root listens in the agent's place")
        except BaseException:
            socket.close()
            raise
        return socket

    async def _attend(self, score: "Callable[[], bytes]") -> str:
        """Send the score, then wait until the agent goes or says what nobody asked for; what happened."""
        while self._socket is not None:
            try:
                await self._send_score(self._socket, score())
            except RefusedByAgentError as error:
                self._log.debug("the agent does not take the score", reason=error.what)
            self._wait = Wait(self._socket.fileno(), READ, None)
            await self._wait
            if not self._wait.woken:
                break
        self._wait = None
        return "the node's agent is gone"

    async def _send_score(self, socket: _socket.socket, score: bytes) -> None:
        if score:
            deadline = self._loop.now() + _EXCHANGE_SECONDS
            parse_ok(await self._exchange(socket, b'{"v":1,"score":' + score + b"}", deadline))

    async def _exchange(self, socket: _socket.socket, body: bytes, deadline: float) -> bytes:
        """One frame out, one frame back. Raises AgentError."""
        try:
            await self._send(socket, frame(body), deadline)
            head = await self._receive(socket, 4, deadline)
            size = int.from_bytes(head, "big")
            if not 0 < size <= MAX_FRAME:
                raise AgentError(f"the agent sends a frame of {size} bytes")
            return await self._receive(socket, size, deadline)
        except OSError:
            raise AgentError("the agent closed the connection") from None

    async def _send(self, socket: _socket.socket, data: bytes, deadline: float) -> None:
        sent = 0
        while sent < len(data):
            try:
                sent += socket.send(data[sent:])
            except BlockingIOError:
                await self._ready(socket, WRITE, deadline)

    async def _receive(self, socket: _socket.socket, size: int, deadline: float) -> bytes:
        received = b""
        while len(received) < size:
            if self._loop.now() > deadline:
                raise AgentError("the agent does not answer in time")
            try:
                data = socket.recv(size - len(received))
            except BlockingIOError:
                await self._ready(socket, READ, deadline)
                continue
            if not data:
                raise AgentError("the agent closed the connection")
            received += data
        return received

    async def _ready(self, socket: _socket.socket, events: int, deadline: float) -> None:
        if not await Wait(socket.fileno(), events, deadline):
            raise AgentError("the agent does not answer in time")


class _NoAgentError(AgentError):
    """Nobody listens there."""


def frame(body: bytes) -> bytes:
    """A message as it is sent. Raises AgentError for one that no agent takes."""
    if len(body) > MAX_FRAME:
        raise AgentError(f"a message of {len(body)} bytes is too long for the agent")
    return len(body).to_bytes(4, "big") + body


def parse_registration(answer: bytes) -> Registration:
    """The agent's answer to `register`. Raises AgentError for a refusal, or where it makes no sense."""
    data, root = parse_ok(answer)
    mode, tier = (jsontext.text(data, root.get(name)) for name in ("mode", "tier"))
    known, hold = (_count(data, root.get("vectors", name)) for name in ("known", "hold"))
    if mode not in MODES or tier not in TIERS or not 0 <= hold <= known:
        raise AgentError("the agent's answer makes no sense")
    return Registration(mode, tier, known, hold)


def parse_ok(answer: bytes) -> tuple[Buffer, Node]:
    """An answer that says ok. Raises AgentError."""
    data = Buffer(max(1, len(answer)), MAX_FRAME)
    data.append(answer)
    try:
        root = jsontext.parse(data)
    except JsonError:
        raise AgentError("the agent's answer is not JSON") from None
    ok = root.get("ok")
    if ok is not None and ok.kind == jsontext.FALSE:
        error = _printable(jsontext.text(data, root.get("error"))) or "refused"
        message = _printable(jsontext.text(data, root.get("message")))
        what = f"the agent refuses: {message} ({error})" if message else f"the agent refuses: {error}"
        raise RefusedByAgentError(what, is_final=error in _FINAL)
    if jsontext.integer(data, root.get("v")) != 1:
        raise AgentError("the agent speaks another version")
    if ok is None or ok.kind != jsontext.TRUE:
        raise AgentError("the agent's answer makes no sense")
    return data, root


def _count(data: Buffer, node: Node | None) -> int:
    return jsontext.integer(data, node) if node is not None and node.kind == jsontext.NUMBER else -1


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text[:_MAX_MESSAGE])


def _peer_user(socket: _socket.socket) -> int:
    """The user id of who listens."""
    credentials = socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, _CREDENTIALS)
    return int.from_bytes(credentials[4:8], "little")
