"""Turn: one request, from its head to its line in the audit.

Made by `session`, one at a time on a stream. The gate judges the head; what it lets through goes to OpenBao
as it comes, except for the few bodies that are read whole because they name a token; OpenBao's answer comes
back as it comes, except for errors that get a line added. Nothing of a body is kept beyond that.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final

from cloudtaser.bridge import answers, login
from cloudtaser.bridge.audit import Verdict
from cloudtaser.bridge.bodies import rewrite
from cloudtaser.bridge.exchange import AnswerEvent, Exchange
from cloudtaser.bridge.gate import CORRELATION_HEADER, Allowed, Kind, Refused, judge, shown
from cloudtaser.bridge.holders import Holder
from cloudtaser.bridge.identification import identify, prove, reviewer
from cloudtaser.bridge.refusal import RequestRefused
from cloudtaser.bridge.reply import Reply
from cloudtaser.bridge.tokens import PodIdentity, Reason, TokenRefused
from cloudtaser.errors import CloudtaserError, ProtocolError, UnavailableError
from cloudtaser.wire.http1 import (
    LAST_CHUNK,
    Body,
    HttpError,
    RequestHead,
    ResponseHead,
    chunk,
    encode_request,
)

if TYPE_CHECKING:
    from cloudtaser.bridge.session import Session

MAX_BODY: Final = 32 * 1024 * 1024
"""Bytes of a request's body, as OpenBao's own bound."""
MAX_READ_WHOLE: Final = 16384
"""Bytes of a body that is read whole before anything is sent."""

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_READS: Final = frozenset({b"GET", b"LIST", b"SCAN"})
_WHOLE: Final = frozenset({Kind.INSPECT, Kind.LOGIN, Kind.REVIEWER})
_REVOKE_SELF: Final = "auth/token/revoke-self"


class Turn:
    """One request. Its Receiver half is called by `upstream`, the rest by `session`."""

    def __init__(self, session: Session, head: RequestHead | None) -> None:
        self._session = session
        self._head = head
        self._allowed: Allowed | None = None
        self._identity: PodIdentity | None = None
        self._known = False  # the token has worked before
        self._hash = b""
        self._path = ""
        self._role = ""
        self._verdict: Verdict = "refused"
        self._reason = ""
        self._reply = Reply()
        self._started = session.loop.time()
        self._exchange: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._whole: list[bytes] | None = None  # the body, where it is read whole
        self._unsent = b""  # the request's head, until the first of its body goes with it
        self._size = 0
        self._pressed = False
        self._discard = False
        self._request_ended = False
        self._answered = False
        self._over = False

    # from the session

    @property
    def takes_body(self) -> bool:
        """Whether the next part of the body is wanted now."""
        return self._discard or not (self._pressed or (self._task is not None and self._whole is None))

    def begin(self) -> None:
        """Judge the head, and start."""
        session, head = self._session, self._head
        assert head is not None
        self._reply.last = not head.keep_alive
        verdict = judge(head.method, head.target, head.headers, session.pin)
        if isinstance(verdict, Refused):
            self._path = verdict.path
            self._refuse(verdict.status, verdict.message, verdict.reason, wait=self._stranger())
            return
        self._allowed = verdict
        self._path = verdict.path
        self._reply.correlation = (
            dict(verdict.headers).get(CORRELATION_HEADER, b"").decode() or session.correlation()
        )
        if not self._may_go_on(verdict):
            return
        if head.expect_continue and (head.chunked or head.content_length):
            session.write(_CONTINUE)
        if verdict.kind in _WHOLE:
            if (head.content_length or 0) > MAX_READ_WHOLE:
                self._refuse(413, f"the body is longer than {MAX_READ_WHOLE} bytes", "body_too_long")
            else:
                self._whole = []
        elif verdict.kind in (Kind.HEALTH, Kind.SEAL_STATUS):
            self._whole = []
        elif (head.content_length or 0) > MAX_BODY:
            self._refuse(413, f"the body is longer than {MAX_BODY} bytes", "body_too_long")
        elif verdict.unproven:
            self._spawn(self._prove(self._forward))
        else:
            self._forward()

    def body(self, data: bytes) -> None:
        """The next part of the request's body."""
        self._size += len(data)
        if self._discard:
            if self._size > MAX_READ_WHOLE:
                self._reply.last = True
                self._finish()
            return
        head = self._head
        assert head is not None
        if self._whole is not None:
            if self._size > MAX_READ_WHOLE:
                self._refuse(413, f"the body is longer than {MAX_READ_WHOLE} bytes", "body_too_long")
            else:
                self._whole.append(data)
        elif self._size > MAX_BODY:
            self._refuse(413, f"the body is longer than {MAX_BODY} bytes", "body_too_long")
        elif self._exchange is None:
            self._start(
                self._unsent + (chunk(data) if head.chunked else data),
                ended=self._size == head.content_length,
            )
        else:
            self._exchange.send(
                chunk(data) if head.chunked else data,
                last=not head.chunked and self._size == head.content_length,
            )

    def end(self) -> None:
        """The request's body is whole."""
        self._request_ended = True
        head = self._head
        assert head is not None
        if self._discard:
            self._finish()
        elif self._whole is not None:
            self._read_whole(b"".join(self._whole))
        elif head.chunked:
            if self._exchange is None:
                self._start(self._unsent + LAST_CHUNK, ended=True)
            else:
                self._exchange.send(LAST_CHUNK, last=True)

    def spoilt(self, error: HttpError) -> None:
        """What follows is no HTTP that has one reading."""
        self._reply.last = True
        if self._reply.begun:
            self.cancel()
            self._session.abort()
        else:
            self._refuse(error.status, error.what, "http")

    def too_late(self) -> None:
        """The time for this request is over."""
        self._reply.last = True
        if self._reply.begun:
            self.cancel()
            self._session.abort()
        elif self._answered:
            self._session.over(close=True)
        else:
            self._fail(504, "OpenBao did not answer in time; try again", "timeout")

    def pause_answer(self) -> None:
        """The pod reads slower than OpenBao answers."""
        if self._exchange is not None:
            self._exchange.pause()

    def resume_answer(self) -> None:
        """The pod has caught up."""
        if self._exchange is not None:
            self._exchange.resume()

    def cancel(self) -> None:
        """Nobody waits for the answer any more."""
        if self._over:
            return
        if not self._answered:
            self._reason = self._reason or "gone"
            self._reply.status = self._reply.status or 499
            self._note()
        self._over = True
        self._stop()

    # from the upstream

    def answered(self, events: Sequence[AnswerEvent]) -> None:
        """Part of OpenBao's answer."""
        if self._over or self._answered:
            return
        out: list[bytes] = []
        reply = self._reply
        for event in events:
            if isinstance(event, Body):
                out.append(reply.data(event.data))
            elif isinstance(event, ResponseHead):
                if not self._receive_head(event, out):
                    return
            else:
                self._exchange = None
                held = reply.held()
                out.append(reply.end() if held is None else reply.release(self._explain(*held)))
                self._answered = True
        data = b"".join(out)
        if data:
            self._session.write(data)
        if self._answered:
            self._finish()

    def failed(self, error: CloudtaserError) -> None:
        """No answer from OpenBao, or no rest of it."""
        self._exchange = None
        if self._over:
            return
        if self._reply.begun:
            self._reply.status = 502
            self._reason = "cut_off"
            self.cancel()
            self._session.abort()
        else:
            self._fail(502 if isinstance(error, ProtocolError) else 503, error.diagnostic(), "upstream")

    def pause_sending(self) -> None:
        """OpenBao reads slower than the pod sends."""
        self._pressed = True
        self._session.steer()

    def resume_sending(self) -> None:
        """OpenBao has caught up."""
        self._pressed = False
        self._session.steer()

    # judging

    def _stranger(self) -> float:
        session = self._session
        return session.services.limits.take_stranger(
            session.cluster.fingerprint, session.peer, session.loop.time()
        )

    def _may_go_on(self, allowed: Allowed) -> bool:
        """Rate limits, and whose token it is."""
        session = self._session
        cluster, services = session.cluster, session.services
        if cluster.registered.suspended:
            self._refuse(403, "this cluster is suspended on the vault's side", "suspended")
            return False
        holder = None
        if allowed.token and allowed.kind is not Kind.REVIEWER:
            self._hash = login.token_hash(allowed.token)
            holder = services.holders.find(self._hash)
        if holder is None:
            wait = self._stranger()
        elif holder.fingerprint != cluster.fingerprint:
            self._refuse(403, "permission denied: the token belongs to another space", "foreign_token")
            return False
        else:
            self._known = True
            self._identity = holder.identity
            wait = services.limits.take_holder(cluster.fingerprint, self._hash, session.loop.time())
        if wait:
            self._refuse(429, "too many requests; come back a little later", "rate_limit", wait=wait)
            return False
        return True

    # forwarding

    def _forward(self) -> None:
        """Send the request on; a body goes as it comes."""
        head, allowed = self._head, self._allowed
        assert head is not None
        assert allowed is not None
        length = head.content_length
        if length is None and not head.chunked and allowed.method not in _READS:
            length = 0
        data = self._encode(allowed, length, chunked=head.chunked)
        if length or head.chunked:
            self._unsent = data
        else:
            self._start(data, ended=True, repeatable=allowed.method in _READS)

    def _encode(self, allowed: Allowed, length: int | None, *, chunked: bool = False) -> bytes:
        session = self._session
        headers = ((b"host", session.services.upstream.host_header), *allowed.headers)
        if not any(name == CORRELATION_HEADER for name, _ in allowed.headers):
            headers = (*headers, (CORRELATION_HEADER, self._reply.correlation.encode()))
        return encode_request(allowed.method, allowed.target, headers, content_length=length, chunked=chunked)

    def _start(self, data: bytes, *, ended: bool, repeatable: bool = False) -> None:
        allowed = self._allowed
        assert allowed is not None
        self._unsent = b""
        self._verdict = "allowed"
        exchange = self._session.services.upstream.send(
            allowed.method, data, self, ended=ended, repeatable=repeatable
        )
        if not self._answered and not self._over:
            self._exchange = exchange

    def _send_whole(self, body: bytes) -> None:
        allowed = self._allowed
        assert allowed is not None
        self._start(self._encode(allowed, len(body)) + body, ended=True)

    def _read_whole(self, body: bytes) -> None:
        allowed = self._allowed
        assert allowed is not None
        match allowed.kind:
            case Kind.HEALTH | Kind.SEAL_STATUS:
                self._spawn(self._tell_health(allowed.kind))
            case Kind.LOGIN:
                self._spawn(self._login(body))
            case Kind.REVIEWER:
                self._spawn(self._take_reviewer(body, allowed.token))
            case _ if allowed.unproven:
                self._spawn(self._prove(lambda: self._inspect(body)))
            case _:
                self._inspect(body)

    def _inspect(self, body: bytes) -> None:
        try:
            written = rewrite(self._path, body, self._session.cluster.namespace_id)
        except RequestRefused as refused:
            self._refuse(refused.status, refused.diagnostic(), refused.reason)
        else:
            self._send_whole(written)

    async def _prove(self, then: Callable[[], None]) -> None:
        assert self._allowed is not None
        await prove(self._session.cluster, self._session.services, self._allowed.token)
        then()

    async def _login(self, body: bytes) -> None:
        session = self._session
        request = login.parse(body)
        identity = await identify(
            session.cluster, session.services, request, on_operator_stream=session.pin.operator
        )
        self._identity = identity
        self._role = login.role_for(request.role, identity, session.cluster.grants.roles)
        self._send_whole(login.build(self._role, request.jwt))

    async def _take_reviewer(self, body: bytes, jwt: str) -> None:
        session = self._session
        self._identity, token = await reviewer(session.cluster, session.services, body, jwt)
        session.services.reviewer_token(session.cluster, token)
        self._verdict = "allowed"
        self._say(204, b"")

    async def _tell_health(self, kind: Kind) -> None:
        health = await self._session.services.health.read()
        self._verdict = "allowed"
        if not health.reachable:
            self._say(503, answers.errors(health.problem))
        elif kind is Kind.HEALTH:
            self._say(health.status, health.health)
        else:
            self._say(200, health.seal_status)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._task = task = self._session.loop.create_task(self._guarded(work))
        task.add_done_callback(self._task_done)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except TokenRefused as refused:
            status = 400 if refused.reason is Reason.MALFORMED else 403
            self._refuse(status, refused.diagnostic(), refused.reason.value)
        except RequestRefused as refused:
            self._refuse(refused.status, refused.diagnostic(), refused.reason)
        except UnavailableError as error:
            self._fail(503, error.diagnostic(), "upstream")
        except CloudtaserError as error:
            self._fail(502, error.diagnostic(), "upstream")

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if task.cancelled() or self._over:
            return
        error = task.exception()
        if error is not None:
            self._session.loop.call_exception_handler({"message": "a request failed", "exception": error})
            self._fail(500, "the bridge failed at this request; its log says more", "internal")
        else:
            self._session.steer()

    # answering

    def _receive_head(self, head: ResponseHead, out: list[bytes]) -> bool:
        """Decide how the answer goes back. False when the bridge answers in OpenBao's place."""
        allowed = self._allowed
        assert allowed is not None
        status = head.status
        if 300 <= status < 400 and status != 304:
            self._drop_exchange()
            self._fail(503, answers.STANDBY, "redirect")
            return False
        if allowed.kind is Kind.LOGIN or status == 503 or (status == 403 and allowed.method in _READS):
            self._reply.hold(head)
            return True
        if status < 300 and self._hash:
            self._learn(allowed)
        out.append(self._reply.open(head))
        return True

    def _learn(self, allowed: Allowed) -> None:
        services = self._session.services
        if allowed.path == _REVOKE_SELF:
            services.holders.forget(self._hash)
        elif not self._known:
            services.holders.note(self._hash, Holder(self._session.cluster.fingerprint, None))

    def _explain(self, status: int, body: bytes) -> bytes:
        """The whole of an answer is there: learn from it, or add to it."""
        allowed = self._allowed
        assert allowed is not None
        fingerprint = self._session.cluster.fingerprint
        if status == 503:
            self._reason = "upstream"
            return answers.errors(answers.unavailable(body))
        if allowed.kind is Kind.LOGIN:
            assert self._identity is not None
            if status == 200:
                self._learn_login(body, self._identity)
            elif status in (400, 403):
                self._reason = "role"
                return answers.refused_login(body, fingerprint, self._identity, self._role)
        elif status == 403:
            self._reason = "policy"
            if allowed.token:
                return answers.denied_read(body, fingerprint, self._identity, self._path)
        return body

    def _learn_login(self, body: bytes, identity: PodIdentity) -> None:
        issued = login.read_answer(body)
        if issued is None:
            return
        session = self._session
        session.services.holders.note(issued.token_hash, Holder(session.cluster.fingerprint, identity))
        if issued.namespace_id:
            session.cluster.namespace_id = issued.namespace_id

    def _refuse(self, status: int, message: str, reason: str, *, wait: float = 0.0) -> None:
        """Say no."""
        self._verdict = "refused"
        if wait:
            status, reason = 429, "rate_limit"
            message = "too many requests; come back a little later"
        self._fail(status, message, reason, wait=wait)

    def _fail(self, status: int, message: str, reason: str, *, wait: float = 0.0) -> None:
        self._reason = reason
        headers = [(b"retry-after", b"%d" % max(1, math.ceil(wait)))] if wait or status == 503 else []
        self._say(status, answers.errors(message), headers)

    def _say(self, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """The bridge's own answer."""
        if self._answered or self._over:
            return
        self._drop_exchange()
        head = self._head
        if not self._request_ended and head is not None and head.expect_continue and not self._size:
            self._reply.last = True  # the pod may or may not send the body now
        if not self._reply.correlation:
            self._reply.correlation = self._session.correlation()
        self._answered = True
        self._session.write(self._reply.whole(status, body, headers))
        self._finish()

    def _finish(self) -> None:
        """Answered. Over once the request's body has been read too, at least as far as that makes sense."""
        if self._over:
            return
        if not self._request_ended and not self._reply.last:
            self._discard = True
            self._size = 0
            self._session.steer()
            return
        self._over = True
        self._note()
        self._stop()
        self._session.over(close=self._reply.last)

    def _drop_exchange(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.cancel()

    def _stop(self) -> None:
        self._drop_exchange()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    def _note(self) -> None:
        """The line in the audit."""
        session = self._session
        identity = self._identity
        head = self._head
        session.services.audit.write(
            now=session.services.now(),
            cluster=session.cluster.fingerprint,
            id=self._reply.correlation,
            peer=session.peer,
            namespace=identity.namespace if identity else "",
            serviceaccount=identity.serviceaccount if identity else "",
            pod=identity.pod_name if identity else "",
            method=head.method.decode("latin-1")[:16] if head else "",
            path=shown(self._path) if self._path else "",
            verdict=self._verdict,
            status=self._reply.status,
            milliseconds=(session.loop.time() - self._started) * 1000,
            reason=self._reason,
        )
