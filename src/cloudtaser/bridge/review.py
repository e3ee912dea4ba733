"""Review: the cluster's API server is asked whether a token still holds, at every login in strict mode.

Made by `station`, used by `seating` and `migration` after the bridge's own checks, never instead of them: an
answer can only refuse. A token outlives its pod by up to ten minutes; its review does not. Whoever cannot be
asked has not agreed. Bounded in number and time, so that a flood of logins is no flood of reviews; an answer
counts a few seconds for the same token, by its hash (spec/openbao.md, "Two ways a pod authenticates").
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cloudtaser.bridge.apiserver import ask
from cloudtaser.bridge.background import Background
from cloudtaser.bridge.cluster import Cluster
from cloudtaser.bridge.refusal import RequestRefused
from cloudtaser.bridge.tokens import PodIdentity
from cloudtaser.errors import CloudtaserError, ProtocolError, UnavailableError
from cloudtaser.net.tunnel import Tunnel
from cloudtaser.secret import Secret
from cloudtaser.wire.strict_json import dump_object, parse_object

PATH: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
TIMEOUT: Final = 5.0
"""Seconds for a review, the wait for its turn included."""
AT_A_TIME: Final = 16
"""Reviews of one cluster under way."""
WAITING: Final = 256
"""Reviews of one cluster under way or waiting for their turn."""
YES_COUNTS: Final = 10.0
"""Seconds for which a token is not asked about again: so long may a deleted pod's still log in."""
NO_COUNTS: Final = 5.0
"""The same after a refusal."""
REMEMBERED: Final = 1024
"""Answers of one cluster that are kept."""
MAX_ANSWER: Final = 64 * 1024
_POD_UID: Final = "authentication.kubernetes.io/pod-uid"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a review; an empty `reason` is a yes."""

    reason: str = ""
    status: int = 0
    what: str = ""
    wait: float = 0.0

    def require(self) -> None:
        """RequestRefused unless it is a yes."""
        if self.reason:
            raise RequestRefused(self.status, self.what, self.reason, wait=self.wait)


YES: Final = Verdict()
REFUSED: Final = Verdict(
    "review_refused",
    403,
    "the cluster's API server says that this token does not hold (any more); its pod may be deleted",
)
MISMATCH: Final = Verdict(
    "review_mismatch", 403, "the cluster's API server says that this token is somebody else's"
)
AWAY: Final = Verdict(
    "review_unavailable",
    503,
    "the cluster's API server cannot be asked about this token, as strict mode demands; try again",
    2.0,
)
BUSY: Final = Verdict(
    "review_busy", 503, "too many logins wait for the cluster's API server; come back a little later", 1.0
)


class Reviews:
    """The reviews of one cluster."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        pick: Callable[[], Tunnel | None],
        credential: Callable[[], Secret | None],
        now: Callable[[], float],
        on_failed: Callable[[CloudtaserError], None],
    ) -> None:
        """`pick` gives a tunnel to ask through, `credential` the reviewer's token; `now` is the wall clock;
        `on_failed` hears why nobody could be asked."""
        self._loop = asyncio.get_running_loop()
        self._cluster = cluster
        self._pick = pick
        self._credential = credential
        self._now = now
        self._on_failed = on_failed
        self._background = Background("bridge.review")
        self._turns = asyncio.Semaphore(AT_A_TIME)
        self._asking: dict[bytes, asyncio.Future[Verdict]] = {}
        self._known: OrderedDict[bytes, tuple[Verdict, float]] = OrderedDict()  # until when, loop's clock

    async def check(self, jwt: str, identity: PodIdentity) -> None:
        """Let through what the API server confirms: the token, its audience, and that it is `identity`'s, as
        the bridge read it from the token. RequestRefused otherwise."""
        key = hashlib.sha256(jwt.encode()).digest()
        verdict = self._remembered(key)
        if verdict is None:
            answer = self._asking.get(key)
            if answer is None:
                if len(self._asking) >= WAITING:
                    BUSY.require()
                answer = self._asking[key] = self._loop.create_future()
                self._background.start(self._settle(key, jwt, identity, answer))
            verdict = await asyncio.shield(answer)  # others may wait for the same one
        verdict.require()

    async def close(self) -> None:
        """Ask no more; whoever still waits is refused."""
        await self._background.close()

    async def _settle(
        self, key: bytes, jwt: str, identity: PodIdentity, answer: asyncio.Future[Verdict]
    ) -> None:
        verdict = AWAY
        try:
            async with asyncio.timeout(TIMEOUT), self._turns:
                verdict = judge(await self._ask(jwt, identity.audience), identity)
            self._remember(key, verdict, identity.expires_at - self._now())
        except TimeoutError:
            self._on_failed(UnavailableError(f"no answer within {TIMEOUT:g} s", on=f"POST {PATH}"))
        except CloudtaserError as error:
            self._on_failed(error)
        finally:
            del self._asking[key]
            answer.set_result(verdict)

    async def _ask(self, jwt: str, audience: str) -> dict[str, Any]:
        initialized, tunnel, credential = self._cluster.initialized, self._pick(), self._credential()
        if initialized is None or not initialized.cluster_ca:
            raise UnavailableError(
                "the CA of the cluster's API server is not recorded",
                fix="strict mode needs a registration and an operator that was initialised",
            )
        if tunnel is None:
            raise UnavailableError("there is no tunnel to ask the API server through")
        if credential is None:
            raise UnavailableError("the operator has not handed over the reviewer's token yet")
        answer = await ask(
            tunnel,
            initialized.cluster_ca,
            credential,
            b"POST",
            PATH,
            question(jwt, audience),
            timeout=TIMEOUT,
            limit=MAX_ANSWER,
        )
        return parse_object(answer, what="the token review", limit=MAX_ANSWER)

    def _remembered(self, key: bytes) -> Verdict | None:
        verdict, until = self._known.get(key, (None, 0.0))
        return verdict if self._loop.time() < until else None

    def _remember(self, key: bytes, verdict: Verdict, left: float) -> None:
        seconds = NO_COUNTS if verdict.reason else min(YES_COUNTS, left)
        self._known[key] = verdict, self._loop.time() + seconds
        self._known.move_to_end(key)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)


def question(jwt: str, audience: str) -> bytes:
    """The body of a TokenReview: is this token good for that audience."""
    return dump_object(
        {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": jwt, "audiences": [audience]},
        }
    )


def judge(review: Mapping[str, Any], identity: PodIdentity) -> Verdict:
    """What an answer means for the one whom the bridge believes to see. A field that is missing agrees with
    nothing. ProtocolError when it is no answer to a TokenReview."""
    status = review.get("status")
    if review.get("kind") != "TokenReview" or not isinstance(status, dict):
        raise ProtocolError("the answer is no token review", on=f"POST {PATH}")
    if status.get("authenticated") is not True:
        return REFUSED
    audiences, user = status.get("audiences"), status.get("user")
    if not isinstance(audiences, list) or identity.audience not in audiences:
        return REFUSED
    if not isinstance(user, dict) or user.get("username") != identity.subject:
        return MISMATCH
    if not identity.serviceaccount_uid or user.get("uid") != identity.serviceaccount_uid:
        return MISMATCH
    extra = user.get("extra")
    pod = extra.get(_POD_UID) if isinstance(extra, dict) else None
    if identity.pod_uid and pod != [identity.pod_uid]:
        return MISMATCH
    return YES
