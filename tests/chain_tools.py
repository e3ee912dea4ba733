"""What the tests of the whole chain share: running a program under the wrapper, and a pod's plain client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

from cloudtaser.demo.chain import Chain, Pod
from cloudtaser.demo.command import CommandResult, program, run_command
from cloudtaser.demo.timing import PodClient

PATH = "/usr/local/bin:/usr/bin:/bin"
MANY_LOGINS = ("--rate-peer", "1000/10000")
"""For a bridge whose pods and attackers all come from loopback: the rate of one address, a few hundred
requests at once, must not be what refuses them."""


async def run_wrapped(
    pod: Pod, command: list[str], environment: dict[str, str], *, timeout: float = 60.0
) -> CommandResult:
    """`command` under the wrapper with only the pod's variables; what it printed and how it ended."""
    clean = {"PATH": PATH} | pod.environment | environment
    wrapped = ["/usr/bin/env", "-i", *(f"{name}={value}" for name, value in clean.items())]
    arguments = [*wrapped, program("cloudtaser-wrapper"), "--", *command]
    return await run_command(arguments, {}, check=False, timeout=timeout)


async def delivered(
    chain: Chain, paths: str, env_map: str = "", *, namespace: str = "shop", **more: str
) -> dict[str, str]:
    """The environment that a program under the wrapper gets."""
    environment = {"CLOUDTASER_SECRET_PATHS": paths} | more
    if env_map:
        environment["CLOUDTASER_ENV_MAP"] = env_map
    result = await run_wrapped(chain.pod(namespace), ["/usr/bin/env", "-0"], environment)
    assert result.status == 0, result.errors
    items = (item.partition("=") for item in result.output.split("\0") if item)
    return {name: value for name, _, value in items}


class AsyncPod:
    """A plain TLS client in a pod's place. Its calls run in a thread: the API server is in our loop."""

    def __init__(self, client: PodClient) -> None:
        self._client = client

    @property
    def token(self) -> str:
        """OpenBao's token after `login`."""
        return self._client.token

    async def login(self, jwt: str, role: str = "default") -> None:
        """Log in; UnavailableError with the server's words when refused."""
        await asyncio.to_thread(self._client.login, jwt, role)

    async def request(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Status and body of one request."""
        return await asyncio.to_thread(self._client.request, method, path, body, headers)


@contextlib.contextmanager
def pod_client(chain: Chain) -> Iterator[AsyncPod]:
    """A plain TLS client in a pod's place."""
    client = PodClient(chain.broker_address, chain.pod_ca())
    try:
        yield AsyncPod(client)
    finally:
        client.close()


async def eventually(
    condition: Callable[[], Awaitable[bool]], what: str, *, timeout: float = 30.0, every: float = 0.05
) -> float:
    """Wait until `condition` holds; the seconds it took. Fails the test with `what` when it never does."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not await condition():
        assert loop.time() - began < timeout, f"not within {timeout} s: {what}"
        await asyncio.sleep(every)
    return loop.time() - began


def whole_lines(log: Path, *, after: int = 0) -> list[str]:
    """The lines of a part's log behind byte `after`, without one that is being written just now."""
    return log.read_bytes()[after:].decode().split("\n")[:-1] if log.exists() else []


async def audited(chain: Chain, text: str, *, after: int = 0, count: int = 1) -> str:
    """What the bridge logged behind byte `after`, once `count` lines of its audit there hold `text`: they are
    written by a thread of its own, a moment later than the answer."""
    assert chain.bridge is not None
    log = chain.bridge.log

    async def written() -> bool:
        lines = whole_lines(log, after=after)
        return sum('"seq":' in line and text in line for line in lines) >= count

    await eventually(written, f"{count} audit lines with {text}")
    return "\n".join(whole_lines(log, after=after))


@contextlib.asynccontextmanager
async def own_chain(*, record: bool = False) -> AsyncIterator[Chain]:
    """A chain for a test that breaks things; not started."""
    chain = Chain(record=record)
    try:
        yield chain
    finally:
        await chain.close()
