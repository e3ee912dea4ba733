"""TokenKeeper: keeps a long-running client logged in, whatever happens to its token.

Used by the bridge. The token comes from a value or from a file, which is read again when it changes. It is
renewed at two thirds of its time to live (spec/bridge.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from cloudtaser.errors import CloudtaserError, ConfigError, NotAuthorisedError
from cloudtaser.openbao.client import OpenBao
from cloudtaser.secret import Secret

FILE_POLL: Final = 2.0  # seconds between looks at a token file
RETRY_FIRST: Final = 0.5
RETRY_LIMIT: Final = 30.0
RENEW_AT: Final = 2 / 3
_MAX_TOKEN: Final = 8192  # bytes


class TokenSource(Protocol):
    """Where a token comes from. `read` may be called often."""

    def read(self) -> Secret:
        """The token as it is now; ConfigError if there is none."""


class TokenValue:
    """A token given once: by an environment variable or a flag."""

    def __init__(self, token: Secret) -> None:
        self._token = token

    def read(self) -> Secret:
        return self._token


class TokenFile:
    """A token in a file that somebody else keeps fresh."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)

    def read(self) -> Secret:
        try:
            with self._path.open("rb") as file:
                content = file.read(_MAX_TOKEN + 1)
        except OSError as error:
            raise ConfigError(
                f"the token file cannot be read: {error.strerror}",
                on=str(self._path),
                fix="check --vault-token-file",
            ) from None
        return parse_token(content, str(self._path))


def parse_token(content: bytes, source: str) -> Secret:
    """A token without its surrounding white space; ConfigError (which never holds it) if it is none."""
    token = content.strip()
    if not token or len(token) > _MAX_TOKEN or any(byte <= 0x20 or byte >= 0x7F for byte in token):
        raise ConfigError("that holds no token", on=source, fix="it must be one line of printable text")
    return Secret(token)


class TokenKeeper:
    """Gives `client` its token, renews it, and changes it when its source does.

    `on_change` is called with every new token, `on_trouble` with every failure that will be retried.
    """

    def __init__(
        self,
        client: OpenBao,
        source: TokenSource,
        *,
        on_trouble: Callable[[CloudtaserError], None] = lambda _: None,
        file_poll: float = FILE_POLL,
    ) -> None:
        self._client = client
        self._source = source
        self._on_trouble = on_trouble
        self._poll = file_poll
        self._token = Secret(b"")
        self._ttl: float | None = None
        self._renewable = False
        self.on_change: list[Callable[[Secret], None]] = []

    def current(self) -> Secret:
        """The token in use; empty before `start`."""
        return self._token

    async def start(self) -> None:
        """Read the token and ask the server about it; NotAuthorisedError if it is not valid."""
        self._use(self._source.read())
        await self._look_up()

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the token alive until `stop`. Call `start` first."""
        loop = asyncio.get_running_loop()
        due = self._renewal_after(loop.time())
        retry = RETRY_FIRST
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(self._poll, due - loop.time()))):
                    await stop.wait()
                return
            try:
                if self._changed():
                    await self._look_up()
                elif loop.time() >= due:
                    await (self._renew() if self._renewable else self._look_up())
                else:
                    continue
                due, retry = self._renewal_after(loop.time()), RETRY_FIRST
            except CloudtaserError as error:
                self._on_trouble(error)
                due = loop.time() + random.uniform(retry / 2, retry)  # noqa: S311  # jitter, not a secret
                retry = min(retry * 2, RETRY_LIMIT)

    async def close(self) -> None:
        """Nothing is given back: the token is somebody else's."""

    def _use(self, token: Secret) -> None:
        self._token = token
        self._client.set_token(token)
        for callback in self.on_change:
            callback(token)

    def _changed(self) -> bool:
        try:
            token = self._source.read()
        except ConfigError as error:
            self._on_trouble(error)
            return False
        if token == self._token:
            return False
        self._use(token)
        return True

    async def _look_up(self) -> None:
        try:
            data = await self._client.lookup_self()
        except NotAuthorisedError as error:
            raise NotAuthorisedError(
                "OpenBao does not accept the token", on=self._client.address, fix="give one that is valid"
            ) from error
        # ttl is in whole seconds, so 0 may still be a moment; what never expires has no expire_time
        self._learn(data.get("ttl") if data.get("expire_time") else None, data.get("renewable"))

    async def _renew(self) -> None:
        answer = await self._client.request("POST", "auth/token/renew-self", body={})
        auth = answer.get("auth") or {}
        self._learn(auth.get("lease_duration"), auth.get("renewable"))

    def _learn(self, ttl: Any, renewable: Any) -> None:
        self._ttl = float(ttl) if isinstance(ttl, int | float) else None
        self._renewable = renewable is True

    def _renewal_after(self, now: float) -> float:
        """When to renew, or to look whether it still lives; never where it always does."""
        return float("inf") if self._ttl is None else now + max(self._ttl * RENEW_AT, RETRY_FIRST)
