"""Response: what OpenBao's answer to a request means here.

Used by `turn`. By its status an answer passes as it comes or is held until it is whole; the bridge learns
from it which token is whose, and adds to some errors the line that says what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cloudtaser.bridge import answers, login, minting, mounted, seating
from cloudtaser.bridge.holders import Holder
from cloudtaser.bridge.reads import hands_out
from cloudtaser.bridge.verdict import READS, Allowed, Kind

if TYPE_CHECKING:
    from cloudtaser.bridge.account import Account
    from cloudtaser.bridge.admission import Admitted
    from cloudtaser.bridge.session import Session
    from cloudtaser.bridge.tokens import PodIdentity
    from cloudtaser.openbao.layout import Space

_LOOKUP_SELF: Final = "auth/token/lookup-self"
_RENEW_SELF: Final = "auth/token/renew-self"
_REVOKE_SELF: Final = "auth/token/revoke-self"


def is_held(allowed: Allowed, space: Space | None, status: int) -> bool:
    """Whether `explain` has to see the answer whole."""
    if allowed.kind is Kind.LOGIN or status == 503 or (status == 403 and allowed.method in READS):
        return True
    if allowed.path == _RENEW_SELF and status in (200, 403):
        return True
    if allowed.path == _LOOKUP_SELF and status == 200:
        return True
    return space is not None and (status >= 400 or mounted.translates(allowed.path))


def note(session: Session, allowed: Allowed, admitted: Admitted, status: int) -> None:
    """Learn from the head of an answer that passes: what was read, and that a token works or is no more."""
    if status >= 300:
        return
    cluster, services = session.cluster, session.services
    if hands_out(allowed, status):
        cluster.reads.note(allowed.path, services.now())
    if not admitted.token_hash:
        return
    if services.seats.single:
        services.seats.used(admitted.token_hash)
    if allowed.path == _REVOKE_SELF:
        services.holders.forget(admitted.token_hash)
        services.seats.free(admitted.token_hash)
    elif admitted.holder is None:
        services.holders.note(admitted.token_hash, Holder(cluster.fingerprint, None))


def explain(
    session: Session, account: Account, allowed: Allowed, space: Space | None, status: int, body: bytes
) -> bytes:
    """The body of an answer that was held, with what is added to it. Learns from it, and tells `account` why
    it is an error."""
    fingerprint, identity = session.cluster.fingerprint, account.identity
    if space is not None:
        body = mounted.answer(space, allowed.path, status, body)
    if status == 503:
        account.reason = "upstream"
        return answers.errors(answers.unavailable(body))
    if allowed.kind is Kind.LOGIN:
        assert identity is not None
        if status == 200:
            _learn_login(session, account, body, identity)
        elif status in (400, 403):
            account.reason = "role"
            return answers.refused_login(body, fingerprint, identity, account.role)
    elif status == 200 and allowed.path == _RENEW_SELF:
        _learn_renewal(session, body)
    elif status == 200 and allowed.path == _LOOKUP_SELF:
        holder = Holder(fingerprint, minting.holder(body, session.services.now()))
        session.services.holders.note(login.token_hash(allowed.token), holder)
    elif status == 403:
        if seating.is_dead(body):
            session.services.seats.free(login.token_hash(allowed.token))
        if allowed.path == _RENEW_SELF:
            return body
        account.reason = "policy"
        if allowed.token:
            return answers.denied_read(body, fingerprint, identity, allowed.path)
    return body


def _learn_login(session: Session, account: Account, body: bytes, identity: PodIdentity) -> None:
    issued = login.read_answer(body)
    if account.seat is not None:
        hashed, seconds = (issued.token_hash, issued.lease_seconds) if issued else (b"", 0.0)
        account.seat.take(hashed, seconds, session.loop.time())
        if account.seat.second:
            account.reason = "second_login"
    if issued is None:
        return
    session.services.holders.note(issued.token_hash, Holder(session.cluster.fingerprint, identity))
    if issued.namespace_id:
        session.cluster.namespace_id = issued.namespace_id


def _learn_renewal(session: Session, body: bytes) -> None:
    issued = login.read_answer(body)
    if issued is None:
        return
    services = session.services
    services.holders.note(issued.token_hash, Holder(session.cluster.fingerprint, None))
    services.seats.renewed(issued.token_hash, issued.lease_seconds, session.loop.time())
