"""LoginKeeper: keeps a client logged in by a credential, whatever happens to the token that it got.

Used by the bridge where `login.TokenKeeper` has no token to keep. The token is renewed at two thirds of its
time to live; when renewal fails, gives less and less, or the token was revoked, a new one is asked for
(spec/bridge.md). It is given back at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Final

from cloudtaser.errors import CloudtaserError, NotAuthorisedError, UnavailableError
from cloudtaser.openbao.client import Json, OpenBao
from cloudtaser.openbao.credentials import Credential
from cloudtaser.openbao.login import RENEW_AT, RETRY_FIRST, RETRY_LIMIT
from cloudtaser.secret import Secret

CHECK_EVERY: Final = 5.0
"""Seconds between looks whether the token was revoked."""
WORN: Final = 0.5
"""Part of its first time to live below which a renewed token is replaced: its end is near."""
GIVE_BACK_TIMEOUT: Final = 2.0


class LoginKeeper:
    """Gives `client` its token. `on_trouble` is called with every failure that will be retried."""

    def __init__(
        self,
        client: OpenBao,
        credential: Credential,
        *,
        on_trouble: Callable[[CloudtaserError], None] = lambda _: None,
        check_every: float = CHECK_EVERY,
    ) -> None:
        self._client = client
        self._credential = credential
        self._on_trouble = on_trouble
        self._check_every = check_every
        self._token = Secret(b"")
        self._granted: float | None = None
        self._ttl: float | None = None
        self._renewable = False

    def current(self) -> Secret:
        """The token in use; empty before `start`."""
        return self._token

    async def start(self) -> None:
        """Log in. NotAuthorisedError, ConfigError or UnavailableError when that fails."""
        auth = await self._credential.log_in()
        self._token = Secret(str(auth["client_token"]))
        self._client.set_token(self._token)
        self._learn(auth)
        self._granted = self._ttl

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the token alive until `stop`. Call `start` first."""
        loop = asyncio.get_running_loop()
        due, retry = self._due(loop.time()), RETRY_FIRST
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(self._check_every, due - loop.time()))):
                    await stop.wait()
                return
            try:
                if loop.time() >= due:
                    await self._renew()
                elif not await self._revoked():
                    continue
                else:
                    self._on_trouble(NotAuthorisedError("the token was revoked; logging in anew"))
                    await self.start()
                due, retry = self._due(loop.time()), RETRY_FIRST
            except CloudtaserError as error:
                self._on_trouble(error)
                due = loop.time() + random.uniform(retry / 2, retry)  # noqa: S311  # jitter, not a secret
                retry = min(retry * 2, RETRY_LIMIT)

    async def close(self) -> None:
        """Give the token back: nobody else has it, and the next start gets its own."""
        if self._token:
            with contextlib.suppress(CloudtaserError, TimeoutError):
                async with asyncio.timeout(GIVE_BACK_TIMEOUT):
                    await self._client.request("POST", "auth/token/revoke-self", body={})
        await self._credential.close()

    async def _renew(self) -> None:
        """Renew the token, or get another. A server that cannot answer would refuse a login as well."""
        if self._renewable:
            try:
                self._learn(await self._credential.renew(self._token))
            except UnavailableError:
                raise
            except CloudtaserError:
                self._renewable = False  # at the end of its time, or revoked: a new one takes its place
        if not self._renewable or self._worn:
            await self.start()

    @property
    def _worn(self) -> bool:
        return self._granted is not None and self._ttl is not None and self._ttl < self._granted * WORN

    async def _revoked(self) -> bool:
        """Whether OpenBao says so. Its silence says nothing: requests fail for their own reasons then."""
        try:
            await self._client.lookup_self()
        except NotAuthorisedError:
            return True
        except CloudtaserError:
            return False
        return False

    def _learn(self, auth: Json) -> None:
        lease = auth.get("lease_duration")
        self._ttl = float(lease) if isinstance(lease, int | float) and lease > 0 else None
        self._renewable = auth.get("renewable") is True

    def _due(self, now: float) -> float:
        """When to renew; never where the token always lives."""
        return float("inf") if self._ttl is None else now + max(self._ttl * RENEW_AT, RETRY_FIRST)
