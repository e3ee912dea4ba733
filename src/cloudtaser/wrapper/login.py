"""Logging in: the pod's JWT, or a token that was given, becomes the session's token.

`session` calls `log_in` at start and whenever the token is lost or cannot be renewed. The JWT is read from
its file each time: the kubelet replaces it before it expires.
"""

import posix

from cloudtaser.wrapper import jsontext
from cloudtaser.wrapper.buffers import Buffer, Span
from cloudtaser.wrapper.client import Answer, Client
from cloudtaser.wrapper.config import Config
from cloudtaser.wrapper.diagnosis import clock_fix
from cloudtaser.wrapper.errors import ConfigError, ProtocolError, RefusedError, UnavailableError
from cloudtaser.wrapper.lease import Lease
from cloudtaser.wrapper.log import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudtaser.wrapper.sealing import Sealing

VAULT_TOKEN = "VAULT_TOKEN"  # noqa: S105  # the variable's name
_MAX_JWT = 16_384
_JWT = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=")
_PRINTABLE = frozenset(range(33, 127))


async def log_in(
    client: Client, config: Config, now: "Callable[[], float]", given: Span | None = None
) -> tuple[Span, Lease]:
    """A token and its lifetime; `given` is one that came into a sealed wrapper. Raises RefusedError,
    UnavailableError, ConfigError.
    """
    if config.method == "token":
        where = VAULT_TOKEN if given is None else "the token that came sealed"
        token = given or config.token
        assert token is not None  # `config` made sure of it
        return await _given(client, token, where, now)
    client.token = None
    body = _login_body(config.role, config.jwt_file)
    try:
        answer = await client.call(b"POST", f"{config.mount}/login", body)
    finally:
        body.wipe()
    if answer.status != 200:
        problem = answer.problem()
        where = f"{config.mount}, role {config.role}"
        raise RefusedError(f"login refused: {problem}", on=where, fix=clock_fix(problem))
    node = answer.root.get("auth", "client_token")
    if node is None or node.kind != jsontext.STRING:
        raise ProtocolError("the login answer holds no token")
    token = jsontext.decode(answer.buffer, node)
    if not token or not _PRINTABLE.issuperset(token.view()):
        raise ProtocolError("the login answer holds a token with odd characters")
    return token, _token_lease(answer, "auth", "lease_duration", now())


async def unsealed(
    client: Client, config: Config, now: "Callable[[], float]", sealing: "Sealing", log: Log
) -> Lease:
    """Wait for a token that comes sealed and try it; its lifetime. One that is refused seals again. Raises
    UnavailableError, also where none came in time.
    """
    client.close()
    given = await sealing.token(client.deadline)
    if given is None:
        raise UnavailableError("still sealed: no token came")
    try:
        client.token, lease = await log_in(client, config, now, given)
    except RefusedError as error:
        client.token = None
        sealing.seal()
        log.warning("sealed again: the token that came is refused", reason=error.diagnostic())
        raise UnavailableError(error.what) from None
    except UnavailableError:
        client.token = None
        sealing.give_back(given)
        raise
    return lease


async def _given(client: Client, token: Span, where: str, now: "Callable[[], float]") -> tuple[Span, Lease]:
    client.token = token
    answer = await client.call(b"GET", "auth/token/lookup-self")
    if answer.status != 200:
        fix = (
            "it is wrong, was revoked or has expired: start with another one" if where == VAULT_TOKEN else ""
        )
        raise RefusedError(f"the token is refused: {answer.problem()}", on=where, fix=fix)
    return token, _token_lease(answer, "data", "ttl", now())


def _token_lease(answer: Answer, member: str, duration: str, now: float) -> Lease:
    seconds = jsontext.integer(answer.buffer, answer.root.get(member, duration))
    renewable = answer.root.get(member, "renewable")
    return Lease("", float(max(0, seconds)), renewable is not None and renewable.kind == jsontext.TRUE, now)


def duration(answer: Answer) -> float:
    """Seconds that a renewal of the token granted."""
    return float(jsontext.integer(answer.buffer, answer.root.get("auth", "lease_duration")))


def empty_body() -> Buffer:
    """A JSON object without members."""
    body = Buffer(2, 2)
    body.append(b"{}")
    return body


def _login_body(role: str, file: str) -> Buffer:
    """{"role": …, "jwt": …}, the JWT read straight into it."""
    body = Buffer(4096, _MAX_JWT + 4096)
    body.append(b'{"role":"' + _escaped(role) + b'","jwt":"')
    append_jwt(body, file, "VAULT_JWT_FILE")
    body.append(b'"}')
    return body


def append_jwt(body: Buffer, file: str, variable: str) -> None:
    """Read a JWT from its file straight into `body`. Raises ConfigError, which names the `variable`; then the
    body is wiped.
    """
    start = len(body)
    try:
        _append_file(body, file)
    except OSError as error:
        body.wipe()
        raise ConfigError(f"cannot read {file}: {error.strerror}", on=variable) from None
    except OverflowError:
        body.wipe()
        raise ConfigError(f"{file} is too long for a JWT", on=variable) from None
    end = len(body)
    while end > start and body[end - 1] in (9, 10, 13, 32):
        end -= 1
    body.truncate(end)
    if end == start or not _JWT.issuperset(body.view(start, end)):
        body.wipe()
        raise ConfigError(f"{file} does not hold a JWT", on=variable)


def _append_file(body: Buffer, file: str) -> None:
    """Without waiting: a pipe in the place of the file must not hold up a signal."""
    descriptor = posix.open(file, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK)
    try:
        while True:
            with body.space(2048) as space:
                count = posix.readv(descriptor, [space])
            if not count:
                return
            body.advance(count)
    finally:
        posix.close(descriptor)


def _escaped(text: str) -> bytes:
    return "".join(
        f"\\u{ord(letter):04x}" if letter < " " or letter in '"\\\x7f' else letter for letter in text
    ).encode()
