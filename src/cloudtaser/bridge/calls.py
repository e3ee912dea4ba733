"""Calls: the requests whose body is read whole, and what becomes of each.

Used by `turn`. A call ends in a body to send to OpenBao, written anew, or in the bridge's own answer.
Refusals are RequestRefused or TokenRefused; nothing is sent and nothing answered here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cloudtaser.bridge import answers, login, minting, operator_certificates, ownership, seating
from cloudtaser.bridge.bodies import read
from cloudtaser.bridge.identification import identify, operator, prove, reviewer
from cloudtaser.bridge.refusal import RequestRefused
from cloudtaser.bridge.verdict import Allowed, Kind
from cloudtaser.openbao.layout import POD_POLICY_PREFIX, Space
from cloudtaser.wire.migration import MAX_BODY as MAX_MIGRATION
from cloudtaser.wire.strict_json import dump_object

if TYPE_CHECKING:
    from cloudtaser.bridge.account import Account
    from cloudtaser.bridge.session import Services, Session

MAX_READ_WHOLE: Final = 16384
"""Bytes of a body that is read whole before anything is sent."""

_WRAPPING: Final = "sys/wrapping/"


@dataclass(frozen=True, slots=True)
class OwnAnswer:
    """What the bridge says itself, in JSON."""

    status: int
    body: bytes = b""


def longest(kind: Kind) -> int:
    """Bytes that the body of such a call may have."""
    return MAX_MIGRATION if kind is Kind.MIGRATE else MAX_READ_WHOLE


def at_once(session: Session, allowed: Allowed, space: Space | None, body: bytes) -> bytes | OwnAnswer | None:
    """What becomes of a call for which nobody has to be asked; None for the others."""
    if allowed.kind is Kind.POD_CA:
        return OwnAnswer(200, dump_object({"pod_ca": session.cluster.pod_ca}))
    if allowed.kind is not Kind.INSPECT or space is not None:
        return None
    if allowed.unproven and not allowed.path.startswith(_WRAPPING):
        return None
    return _inspected(session, allowed, body)


async def after_asking(
    session: Session, account: Account, allowed: Allowed, space: Space | None, body: bytes, *, known: bool
) -> bytes | OwnAnswer:
    """What becomes of the others; `known` says that the caller's token was seen before."""
    cluster, services = session.cluster, session.services
    match allowed.kind:
        case Kind.HEALTH | Kind.SEAL_STATUS:
            return await _health(services, allowed.kind)
        case Kind.LOGIN:
            return await _login(session, account, space, body)
        case Kind.REVIEWER:
            account.identity, token = await reviewer(cluster, services, body, allowed.token)
            services.reviewer_token(cluster, token)
            return OwnAnswer(204)
        case Kind.OPERATOR_CERTIFICATES:
            account.identity = await operator(cluster, services, allowed.token)
            requests = operator_certificates.read(body)
            return OwnAnswer(200, await services.certify_operator(cluster, requests))
        case _ if space is not None:
            fields = read(allowed.path, body, "", space)
            await ownership.check_request(cluster, services, space, allowed, fields, known=known)
            return _narrowed(session, allowed, fields, space)
        case _:
            await prove(cluster, services, allowed.token)
            return _inspected(session, allowed, body)


def _inspected(session: Session, allowed: Allowed, body: bytes) -> bytes:
    known = session.cluster.namespace_id
    if allowed.unproven and known is None:  # proving would use up a wrapping token
        raise RequestRefused(503, "this bridge has seen no login of the cluster yet", "space_unknown")
    return _narrowed(session, allowed, read(allowed.path, body, known), None)


def _narrowed(session: Session, allowed: Allowed, fields: dict[str, Any], space: Space | None) -> bytes:
    """What goes on to OpenBao, once it is known that the caller's token is the space's."""
    if allowed.path == minting.PATH:
        cluster = session.cluster
        prefix = POD_POLICY_PREFIX if space is None else space.pod_policies
        fields = minting.narrow(fields, cluster.grants.roles, cluster.fingerprint, prefix)
    return dump_object(fields)


async def _login(session: Session, account: Account, space: Space | None, body: bytes) -> bytes:
    cluster = session.cluster
    request = login.parse(body)
    operator = session.pin.operator
    identity = await identify(cluster, session.services, request, on_operator_stream=operator)
    account.identity = identity
    account.seat = await seating.enter(session, request.jwt, identity)
    account.role = login.role_for(request.role, identity, cluster.grants.roles)
    return login.build(account.role if space is None else space.role(account.role), request.jwt)


async def _health(services: Services, kind: Kind) -> OwnAnswer:
    health = await services.health.read()
    if not health.reachable:
        return OwnAnswer(503, answers.errors(health.problem))
    if kind is Kind.HEALTH:
        return OwnAnswer(health.status, health.health)
    return OwnAnswer(200, health.seal_status)
