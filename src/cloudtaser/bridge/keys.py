"""A cluster's signing keys: read from its own API server, recorded, and given to OpenBao.

Used by `station`, one for each cluster. The way there is an `apiserver` stream of a tunnel with TLS inside,
checked against the CA recorded at first initialisation: whoever carries the bytes can change nothing. A set
without a recorded key is put aside, in the record too, until a person accepts it (spec/wire.md, "Keys of the
cluster"). While the cluster is suspended nothing is given to OpenBao, which was told to take no login.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, Final

from cloudtaser.bridge import keyset
from cloudtaser.bridge.apiserver import ask
from cloudtaser.bridge.background import Background
from cloudtaser.bridge.cluster import Cluster
from cloudtaser.bridge.keyset import Jwks
from cloudtaser.bridge.tokens import KeySet
from cloudtaser.errors import CloudtaserError, ProtocolError, UnavailableError
from cloudtaser.net.tunnel import Tunnel
from cloudtaser.openbao.client import CasConflict, OpenBao
from cloudtaser.openbao.layout import Space
from cloudtaser.openbao.logins import ALGORITHMS
from cloudtaser.openbao.records import Initialized, Keys, Records, instant
from cloudtaser.secret import Secret
from cloudtaser.wire.strict_json import parse_object

INTERVAL: Final = 300.0
"""Seconds between two readings, give or take a tenth."""
RETRY: Final = 30.0
"""The same after one that failed."""
AT_MOST_EVERY: Final = 10.0
"""Seconds between two readings that somebody asked for: unknown key ids must not become a flood."""
READ_TIMEOUT: Final = 10.0
JWKS_LIMIT: Final = 256 * 1024
JWKS_PATH: Final = "/openid/v1/jwks"


class KeyKeeper:
    """Keeps `cluster.keys`, the record and OpenBao's login of one cluster in step."""

    def __init__(
        self,
        cluster: Cluster,
        client: OpenBao,
        space: Space,
        records: Records,
        bridge_id: str,
        *,
        pick: Callable[[], Tunnel | None],
        now: Callable[[], float],
        on_change: Callable[[str], None],
        on_failed: Callable[[str, CloudtaserError], None],
    ) -> None:
        """`pick` gives a tunnel to read through; `now` is the wall clock; `on_change` is told of an event to
        audit (`keys_changed`, `keys_pending`, `keys_accepted`)."""
        self._loop = asyncio.get_running_loop()
        self._cluster = cluster
        self._client = client
        self._space = space
        self._records = records
        self._bridge_id = bridge_id
        self._pick = pick
        self._now = now
        self._on_change = on_change
        self._on_failed = on_failed
        self._background = Background("bridge.keys")
        self._reading: asyncio.Task[None] | None = None
        self._recorded: Jwks | None = None
        self._noted: Keys | None = None  # the record, as far as this bridge knows
        self._version = 0
        self._installed: Jwks | None = None
        self._token: Secret | None = None
        self._due = 0.0
        self._read_at = float("-inf")
        self.pending: Jwks | None = None
        """A set that shares no key with the recorded one and waits for a person."""

    @property
    def installed(self) -> bool:
        """Whether OpenBao verifies logins with a recorded set: before that no pod is served."""
        return self._installed is not None

    @property
    def credential(self) -> Secret | None:
        """The reviewer's token, for whoever asks the API server something else."""
        return self._token

    def observe(self, initialized: Initialized, keys: Keys | None, version: int) -> None:
        """What the records say; another bridge may have written them."""
        if version < self._version:
            return  # read before our own last write
        news = version != self._version or self._noted is None
        self._version, self._noted = version, keys
        recorded = keys.jwks if keys is not None else initialized.keys
        if recorded != self._recorded:
            accepted = self.pending is not None and keyset.same(self.pending, recorded)
            self._use(recorded)
            if accepted:
                self._on_change("keys_accepted")
        if keys is not None and news:
            if keys.pending is None:
                self.pending = None
            else:
                self._put_aside(keys.pending)

    def suspend(self) -> None:
        """OpenBao was told to take no login: what it was given before counts no more."""
        self._installed = None

    async def attend(self) -> None:
        """Called with every poll: give OpenBao what it has not got, read the keys when that is due."""
        if self._cluster.registered.suspended:
            return
        await self._install()
        if self._loop.time() >= self._due:
            self._start_reading()

    def take_token(self, token: Secret) -> None:
        """The operator's fresh credential for the API server."""
        first, self._token = self._token is None, token
        if first:
            self._start_reading()

    def hint(self) -> None:
        """Somebody says that keys changed: read them soon."""
        if self._loop.time() - self._read_at >= AT_MOST_EVERY:
            self._start_reading()

    async def refetch(self) -> None:
        """Read the keys because a token names an unknown one: at once, or not if that was just done."""
        if self._reading is None:
            self.hint()
        if self._reading is not None:
            await asyncio.wait([self._reading])

    async def close(self) -> None:
        """Stop reading."""
        await self._background.close()

    def _use(self, recorded: Jwks) -> None:
        self._cluster.keys = KeySet.from_jwks(recorded)
        self._recorded = recorded
        if self.pending is not None and keyset.same(self.pending, recorded):
            self.pending = None

    async def _install(self) -> None:
        initialized, recorded = self._cluster.initialized, self._recorded
        if initialized is None or recorded is None or recorded == self._installed:
            return
        if self._cluster.registered.suspended:
            return
        await self._configure(
            {
                "jwt_validation_pubkeys": keyset.pems(recorded),
                "bound_issuer": initialized.issuer,
                "jwt_supported_algs": list(ALGORITHMS),
            }
        )
        # a suspension first says so in the record and then closes the logins: if it was overtaken, close them
        registered = await self._records.registered(self._cluster.fingerprint)
        if registered is None or registered.suspended:
            await self._configure({"jwt_validation_pubkeys": [keyset.nobodys_pem()]})
        elif not self._cluster.registered.suspended:
            self._installed = recorded

    async def _configure(self, body: dict[str, Any]) -> None:
        path = f"auth/{self._space.jwt}/config"
        await self._client.request("POST", path, namespace=self._space.namespace, body=body)

    # Reading

    def _start_reading(self) -> None:
        if self._reading is None and self._token is not None and self._recorded is not None:
            tunnel = self._pick()
            if tunnel is not None:
                self._reading = self._background.start(self._read(tunnel, self._token))

    async def _read(self, tunnel: Tunnel, token: Secret) -> None:
        self._read_at = self._loop.time()
        pause = RETRY
        try:
            await self._take(await self._fetch(tunnel, token))
            pause = INTERVAL
        except CloudtaserError as error:
            self._on_failed("keys", error)
        finally:
            self._reading = None
            jitter = random.uniform(0.9, 1.1)  # noqa: S311  # not a secret
            self._due = self._loop.time() + pause * jitter

    async def _fetch(self, tunnel: Tunnel, token: Secret) -> Jwks:
        assert self._cluster.initialized is not None
        body = await ask(
            tunnel,
            self._cluster.initialized.cluster_ca,
            token,
            b"GET",
            JWKS_PATH,
            accept=b"application/jwk-set+json, application/json",
            timeout=READ_TIMEOUT,
            limit=JWKS_LIMIT,
        )
        return keyset.normalise(parse_object(body, what="the key set", limit=JWKS_LIMIT))

    async def _take(self, jwks: Jwks) -> None:
        recorded = self._recorded
        assert recorded is not None
        if keyset.same(recorded, jwks):
            self.pending = None
            if self._noted is None or self._noted.pending is not None:
                await self._record(jwks)
            return
        if not keyset.continues(recorded, jwks):
            self._put_aside(jwks)
            await self._record(recorded, pending=jwks)
            raise ProtocolError(
                "the cluster's signing keys share none with the recorded ones",
                on=self._cluster.fp8,
                fix="if that is meant, run `cloudtaser-cli source accept-keys`",
            )
        await self._record(jwks)
        self._use(jwks)
        self._on_change("keys_changed")
        await self._install()

    def _put_aside(self, jwks: Jwks) -> None:
        """A set that counts only once a person has accepted it; audited once."""
        known = self.pending is not None and keyset.same(self.pending, jwks)
        self.pending = jwks
        if not known:
            self._on_change("keys_pending")

    async def _record(self, jwks: Jwks, *, pending: Jwks | None = None) -> None:
        noted, now = self._noted, instant(self._now())
        waiting = noted.pending if noted is not None else None
        if pending is not None and waiting is not None and keyset.same(waiting, pending):
            return
        record = Keys(
            jwks=jwks,
            read_at=noted.read_at if pending is not None and noted is not None else now,
            bridge=self._bridge_id,
            pending=pending,
            pending_at=now if pending is not None else "",
        )
        try:
            self._version = await self._records.write_keys(self._cluster.fingerprint, record, self._version)
        except CasConflict:
            raise UnavailableError("another bridge recorded the keys first; its record counts") from None
        self._noted = record
