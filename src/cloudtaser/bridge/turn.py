"""Turn: one request, from its head to its answer.

Made by `session`, one at a time on a stream. The gate judges the head; what it lets through goes to OpenBao
as it comes, except for the few bodies that are read whole because they name a token (`calls`); OpenBao's
answer comes back as it comes, except for errors that get a line added (`response`). Nothing of a body is kept
beyond that.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final

from cloudtaser.bridge import answers, calls, migration, response
from cloudtaser.bridge.account import Account
from cloudtaser.bridge.admission import Admitted, admit, admit_stranger
from cloudtaser.bridge.exchange import AnswerEvent
from cloudtaser.bridge.gate import judge
from cloudtaser.bridge.identification import prove
from cloudtaser.bridge.migration import Place
from cloudtaser.bridge.passage import MAX_BODY, Passage
from cloudtaser.bridge.refusal import RequestRefused, too_long
from cloudtaser.bridge.reply import Reply
from cloudtaser.bridge.tokens import Reason, TokenRefused
from cloudtaser.bridge.verdict import READS, Allowed, Kind, Refused
from cloudtaser.errors import CloudtaserError, ProtocolError, UnavailableError
from cloudtaser.openbao.layout import Space
from cloudtaser.wire.http1 import CONTINUE, Body, HttpError, RequestHead, ResponseHead

if TYPE_CHECKING:
    from cloudtaser.bridge.session import Session

_PASSES: Final = Kind.FORWARD


class Turn:
    """One request. Its Receiver half is called by an exchange, the rest by `session`."""

    def __init__(self, session: Session, head: RequestHead | None) -> None:
        self._session = session
        self._head = head
        self._account = Account(session.loop.time(), head.method if head else b"")
        self._reply = Reply()
        self._allowed: Allowed | None = None
        self._admitted: Admitted | None = None
        self._passage: Passage | None = None
        self._task: asyncio.Task[None] | None = None
        self._space: Space | None = None  # on a server without namespaces
        self._whole: list[bytes] | None = None  # the body, where it is read whole
        self._most = MAX_BODY  # bytes of it
        self._place: Place | None = None
        self._size = 0
        self._pressed = False  # OpenBao reads slower than the pod sends
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
        head = self._head
        assert head is not None
        self._reply.last = not head.keep_alive or self._session.leaving
        pin = self._session.pin
        if pin.admin is not None:
            self._account.via = "migrate" if head.target == migration.TARGET else "admin"
        self._space = pin.mounted
        verdict = judge(head.method, head.target, head.headers, pin)
        self._account.path = verdict.path
        try:
            if isinstance(verdict, Refused):
                admit_stranger(self._session)
                raise RequestRefused(verdict.status, verdict.message, verdict.reason)
            self._proceed(head, verdict)
        except RequestRefused as refused:
            self._refuse(refused)

    def body(self, data: bytes) -> None:
        """The next part of the request's body."""
        self._size += len(data)
        if self._discard:
            if self._size > calls.MAX_READ_WHOLE:
                self._reply.last = True
                self._finish()
        elif self._whole is not None:
            self._whole.append(data)
            if self._size > self._most:
                self._refuse(too_long(self._most))
        else:
            assert self._passage is not None
            try:
                self._passage.body(data)
            except RequestRefused as refused:
                self._refuse(refused)

    def end(self) -> None:
        """The request's body is whole."""
        self._request_ended = True
        if self._discard:
            self._finish()
        elif self._whole is not None:
            self._read_whole(b"".join(self._whole))
        elif self._passage is not None:
            self._passage.end()

    def spoilt(self, error: HttpError) -> None:
        """What follows is no HTTP that has one reading."""
        self._reply.last = True
        if self._answered:
            self._finish()
        elif self._reply.begun:
            self._break_off("http")
        else:
            self._refuse(RequestRefused(error.status, error.what, "http"))

    def too_late(self) -> None:
        """The time for this request is over."""
        self._reply.last = True
        if self._answered:
            self._finish()
        elif self._reply.begun:
            self._break_off("timeout")
        else:
            self._fail(504, "OpenBao did not answer in time; try again", "timeout")

    def pause_answer(self) -> None:
        """The pod reads slower than OpenBao answers."""
        if self._passage is not None:
            self._passage.pause()

    def resume_answer(self) -> None:
        """The pod has caught up."""
        if self._passage is not None:
            self._passage.resume()

    def cancel(self) -> None:
        """Nobody waits for the answer any more."""
        if not self._over:
            self._account.reason = self._account.reason or "gone"
            self._over = True
            self._stop()
            self._account.write(self._session, self._reply.correlation, self._reply.status or 499)

    # from the exchange

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
                assert self._passage is not None
                self._passage.answered()
                held = reply.held()
                out.append(reply.end() if held is None else reply.release(self._explained(*held)))
                self._answered = True
        data = b"".join(out)
        if data:
            self._session.write(data)
        if self._answered:
            self._finish()

    def failed(self, error: CloudtaserError) -> None:
        """No answer from OpenBao, or no rest of it."""
        if self._over or self._answered:
            return
        if self._reply.begun:
            self._break_off("cut_off")
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

    # going on

    def _proceed(self, head: RequestHead, allowed: Allowed) -> None:
        self._allowed = allowed
        self._reply.correlation = allowed.correlation or self._session.correlation()
        self._admitted = admit(self._session, allowed)
        if self._admitted.holder is not None:
            self._account.identity = self._admitted.holder.identity
        self._session.heard(self._account.identity)
        length = head.content_length or 0
        streams = allowed.kind is _PASSES
        if streams and allowed.method in READS and (length or head.chunked):
            raise RequestRefused(400, f"{allowed.method.decode()} takes no body here", "body_form")
        self._most = MAX_BODY if streams else calls.longest(allowed.kind)
        if length > self._most:
            raise too_long(self._most)
        if allowed.kind is Kind.MIGRATE:
            self._spawn(self._enter(head, allowed.token))
            return
        self._continue(head)
        if not streams:
            self._whole = []
        elif self._unproven:
            self._spawn(self._prove(head, allowed.token))
        else:
            self._forward().open(head)

    @property
    def _unproven(self) -> bool:
        """Whether nothing has shown yet that the token is the space's."""
        allowed, admitted = self._allowed, self._admitted
        assert allowed is not None
        assert admitted is not None
        unseen = admitted.token_hash and admitted.holder is None
        return allowed.unproven or bool(unseen and self._space is not None)

    def _continue(self, head: RequestHead) -> None:
        """Ask for the body, where the caller waits to be asked."""
        if head.expect_continue and (head.content_length or head.chunked):
            self._session.write(CONTINUE)

    def _forward(self) -> Passage:
        assert self._allowed is not None
        self._account.verdict = "allowed"
        session = self._session
        self._passage = passage = Passage(
            session.services.upstream,
            self,
            self._allowed,
            self._reply.correlation,
            owner=session.cluster.fingerprint,
        )
        return passage

    def _read_whole(self, body: bytes) -> None:
        allowed = self._allowed
        assert allowed is not None
        if allowed.kind is Kind.MIGRATE:
            self._spawn(self._migrate(body))
            return
        try:
            outcome = calls.at_once(self._session, allowed, self._space, body)
        except RequestRefused as refused:
            self._refuse(refused)
            return
        if outcome is None:
            self._spawn(self._ask(allowed, body))
        else:
            self._deliver(outcome)

    async def _ask(self, allowed: Allowed, body: bytes) -> None:
        assert self._admitted is not None
        known = self._admitted.holder is not None
        session, account = self._session, self._account
        self._deliver(await calls.after_asking(session, account, allowed, self._space, body, known=known))

    def _deliver(self, outcome: bytes | calls.OwnAnswer) -> None:
        if isinstance(outcome, bytes):
            self._forward().whole(outcome)
        else:
            self._account.verdict = "allowed"
            self._say(outcome.status, outcome.body)

    async def _prove(self, head: RequestHead, token: str) -> None:
        await prove(self._session.cluster, self._session.services, token)
        self._forward().open(head)

    async def _enter(self, head: RequestHead, jwt: str) -> None:
        """A migration's token is checked before its body is taken."""
        self._place = await migration.enter(self._session, self._account, jwt)
        self._whole = []
        self._continue(head)

    async def _migrate(self, body: bytes) -> None:
        place, self._place = self._place, None
        assert place is not None
        correlation = self._reply.correlation
        outcome = await migration.migrate(self._session, self._account, place, body, correlation)
        self._say(200 if outcome.created else 409, outcome.encode())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._task = self._session.loop.create_task(self._guarded(work))
        self._task.add_done_callback(self._task_done)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except RequestRefused as refused:
            self._refuse(refused)
        except TokenRefused as refused:
            status = 400 if refused.reason is Reason.MALFORMED else 403
            self._refuse(RequestRefused(status, refused.diagnostic(), refused.reason.value))
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
        allowed, admitted = self._allowed, self._admitted
        assert allowed is not None
        assert admitted is not None
        status = head.status
        if 300 <= status < 400 and status != 304:
            self._fail(503, answers.STANDBY, "redirect")
            return False
        if response.is_held(allowed, self._space, status):
            self._reply.hold(head)
        else:
            response.note(self._session, allowed, admitted, status)
            out.append(self._reply.open(head))
        return True

    def _explained(self, status: int, body: bytes) -> bytes:
        assert self._allowed is not None
        return response.explain(self._session, self._account, self._allowed, self._space, status, body)

    def _refuse(self, refused: RequestRefused) -> None:
        """Say no."""
        self._account.verdict = "refused"
        self._fail(refused.status, refused.diagnostic(), refused.reason, wait=refused.wait)

    def _fail(self, status: int, message: str, reason: str, *, wait: float = 0.0) -> None:
        self._account.reason = reason
        headers = [(b"retry-after", b"%d" % max(1, math.ceil(wait)))] if wait or status == 503 else []
        self._say(status, answers.errors(message), headers)

    def _say(self, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """The bridge's own answer."""
        if self._answered or self._over:
            return
        self._stop()
        head = self._head
        if not self._request_ended and head is not None and head.expect_continue and not self._size:
            self._reply.last = True  # the pod may or may not send the body now
        self._reply.correlation = self._reply.correlation or self._session.correlation()
        self._answered = True
        self._session.write(self._reply.whole(status, body, headers))
        self._finish()

    def _break_off(self, reason: str) -> None:
        """An answer that has begun cannot be another one: only its end can show that it is not whole."""
        self._account.reason = reason
        self.cancel()
        self._session.abort()

    def _finish(self) -> None:
        """Answered. Over once the request's body has been read too, as far as that makes sense."""
        if self._over:
            return
        self._account.write(self._session, self._reply.correlation, self._reply.status)
        if not self._request_ended and not self._reply.last:
            self._discard = True
            self._size = 0
            self._session.steer()
            return
        self._over = True
        self._stop()
        self._session.over(close=self._reply.last)

    def _stop(self) -> None:
        passage, self._passage = self._passage, None
        if passage is not None:
            passage.cancel()
        if self._place is not None:
            self._place.leave()
        if self._account.seat is not None:
            self._account.seat.leave()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
