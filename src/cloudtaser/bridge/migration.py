"""Migration: `POST /migrate` on an admin stream, from the token that permits it to the answer.

Used by `turn`. The caller needs no OpenBao token: a ServiceAccount token of `cloudtaser-admin`, made for this
cluster's admin audience and for fifteen minutes at most, which the bridge checks itself, lets it store
secrets where there are none. Who may have such a token made is for the cluster's RBAC. The token is checked
before a byte of the body is taken; places for bodies are few.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from cloudtaser.bridge.admin_rules import DEFAULT, AdminRules
from cloudtaser.bridge.identification import with_fresh_keys
from cloudtaser.bridge.limits import ADMIN
from cloudtaser.bridge.refusal import RequestRefused
from cloudtaser.bridge.tokens import PodIdentity, Reason, TokenRefused, verify
from cloudtaser.errors import ProtocolError, UsageError
from cloudtaser.net.rates import Buckets
from cloudtaser.openbao.layout import Space
from cloudtaser.openbao.paths import check_path
from cloudtaser.wire.migration import (
    MAX_LIFETIME,
    MIGRATE_TARGET,
    Migration,
    Outcome,
    parse_migration,
)
from cloudtaser.wire.names import ADMIN_SUBJECT, admin_audience

if TYPE_CHECKING:
    from cloudtaser.bridge.account import Account
    from cloudtaser.bridge.cluster import Cluster
    from cloudtaser.bridge.session import Services, Session
    from cloudtaser.bridge.vault_writer import VaultWriter

TARGET: Final = MIGRATE_TARGET.encode()
__all__ = ["TARGET", "Admin", "Place", "enter", "migrate"]

PLACES: Final = 32
"""Migrations under way on this bridge, each with its body in memory."""
PLACES_PER_CLUSTER: Final = 4


@dataclass(slots=True)
class Admin:
    """What all admin streams of a bridge share."""

    rules: AdminRules = DEFAULT
    writer: VaultWriter | None = None
    """None where the bridge was given no second token."""
    audit_keeps_up: Callable[[], bool] = lambda: True
    rate: Buckets = field(default_factory=lambda: Buckets(ADMIN))
    taken: Counter[str] = field(default_factory=Counter)
    """Places in use, by fingerprint."""


class Place:
    """Room for one migration, from the token's check to the end of the write."""

    __slots__ = ("_admin", "_fingerprint", "identity")

    def __init__(self, admin: Admin, fingerprint: str, identity: PodIdentity) -> None:
        """RequestRefused when there is none."""
        self._admin: Admin | None = None
        taken = admin.taken
        if taken[fingerprint] >= PLACES_PER_CLUSTER or taken.total() >= PLACES:
            raise RequestRefused(
                429, "too many migrations are under way; come back a little later", "busy", wait=1.0
            )
        taken[fingerprint] += 1
        self._admin = admin
        self._fingerprint = fingerprint
        self.identity = identity

    def leave(self) -> None:
        """Give it back; once is enough, more does not hurt."""
        admin, self._admin = self._admin, None
        if admin is not None:
            admin.taken[self._fingerprint] -= 1
            if not admin.taken[self._fingerprint]:
                del admin.taken[self._fingerprint]


async def enter(session: Session, account: Account, jwt: str) -> Place:
    """A place for the administrator that `jwt` speaks for. TokenRefused or RequestRefused otherwise."""
    cluster, services = session.cluster, session.services
    identity = account.identity = await _identify(cluster, services, jwt)
    if services.review is not None:
        await services.review(cluster, jwt, identity)
    admin = services.admin
    wait = admin.rate.take((cluster.fingerprint, identity.subject), session.loop.time())
    if wait:
        raise RequestRefused(429, "too many migrations; come back a little later", "rate_limit", wait=wait)
    if admin.writer is None:
        raise RequestRefused(
            501,
            "this bridge has no token to store secrets with; start it with --admin-token-file"
            " (`cloudtaser-cli source bridge-token --admin`)",
            "no_admin_token",
        )
    if not admin.audit_keeps_up():
        raise RequestRefused(
            503, "the bridge's audit is not being read; nothing is stored meanwhile", "audit"
        )
    return Place(admin, cluster.fingerprint, identity)


async def migrate(session: Session, account: Account, place: Place, body: bytes, correlation: str) -> Outcome:
    """Store what `body` asks for. RequestRefused when it asks for what cannot be; UnavailableError or another
    CloudtaserError when OpenBao would not. The write goes on when the caller leaves, and is audited then."""
    cluster, writer = session.cluster, session.services.admin.writer
    assert writer is not None  # or there were no place
    try:
        migration, space = _parse(cluster, body)
    except RequestRefused:
        place.leave()
        raise
    account.path = migration.path
    account.verdict = "allowed"
    task = writer.begin(space, migration)
    task.add_done_callback(lambda _: place.leave())
    try:
        outcome = await asyncio.shield(task)
    except asyncio.CancelledError:
        left = replace(account, written=False, reason="gone")
        task.add_done_callback(lambda done: _audit_late(session, left, done, correlation))
        raise
    _account_for(account, outcome)
    return outcome


async def _identify(cluster: Cluster, services: Services, jwt: str) -> PodIdentity:
    """The administrator."""

    def check() -> PodIdentity:
        identity = verify(
            jwt,
            keys=cluster.keys,
            issuer=cluster.issuer,
            audience=admin_audience(cluster.fp8),
            now=services.now(),
            require_pod=False,
            max_lifetime=MAX_LIFETIME,
        )
        if identity.subject != ADMIN_SUBJECT:
            raise TokenRefused(Reason.WRONG_SUBJECT)
        if identity.pod_uid:
            raise TokenRefused(Reason.WRONG_SUBJECT, "it is bound to a pod")
        return identity

    return await with_fresh_keys(cluster, services, check)


def _parse(cluster: Cluster, body: bytes) -> tuple[Migration, Space]:
    space = Space.recorded(cluster.registered.space, cluster.namespace.strip("/"))
    try:
        migration = parse_migration(body)
        check_path(migration.path)
    except ProtocolError as error:
        raise RequestRefused(400, error.what, "migration_form") from None
    except UsageError:
        raise RequestRefused(400, "`path` is not made of plain segments", "migration_path") from None
    mount = f"{space.asked(space.secret)}/data/"
    if not migration.path.startswith(mount) or "/" not in migration.path.removeprefix(mount):
        raise RequestRefused(400, f"`path` must be {mount}<namespace>/<name>", "migration_path")
    return migration, space


def _account_for(account: Account, outcome: Outcome) -> None:
    account.version = outcome.version
    if not outcome.created:
        account.verdict, account.reason = "refused", "exists"


def _audit_late(session: Session, account: Account, task: asyncio.Task[Outcome], correlation: str) -> None:
    """A second line for a write whose caller had gone: what became of it."""
    if task.cancelled():
        return
    status = 503
    if task.exception() is None:
        outcome = task.result()
        status = 200 if outcome.created else 409
        _account_for(account, outcome)
    else:
        account.reason = "upstream"
    account.write(session, correlation, status)
