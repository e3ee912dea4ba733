"""What the API server says of a token counts only as a refusal; nobody asked is no yes; few ask at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from cloudtaser.bridge import review
from cloudtaser.bridge.cluster import Cluster
from cloudtaser.bridge.refusal import RequestRefused
from cloudtaser.bridge.review import MISMATCH, REFUSED, YES, Reviews, judge, question
from cloudtaser.bridge.tokens import KeySet, PodIdentity
from cloudtaser.errors import CloudtaserError, NotAuthorisedError, ProtocolError, UnavailableError
from cloudtaser.openbao.records import Grants, Initialized, Registered
from cloudtaser.secret import Secret

FINGERPRINT = "0ad50c05-1153-4508-9237-4cb2912e2c23"
NOW = 1_800_000_000.0
AUDIENCE = "cloudtaser:0ad50c05"
SUBJECT = "system:serviceaccount:shop:web"
WEB = PodIdentity("shop", "web", "web-1", "pod-uid", SUBJECT, NOW + 600, AUDIENCE, "account-uid")
OPERATOR = replace(WEB, pod_name="", pod_uid="")


def answer(**changes: Any) -> dict[str, Any]:
    """What an API server says of WEB's token."""
    user = {
        "username": SUBJECT,
        "uid": "account-uid",
        "extra": {"authentication.kubernetes.io/pod-uid": ["pod-uid"]},
    }
    status = {"authenticated": True, "user": user, "audiences": [AUDIENCE]}
    return {"kind": "TokenReview", "status": status | changes}


def user(**changes: Any) -> dict[str, Any]:
    """The same, of somebody else."""
    return answer(user=answer()["status"]["user"] | changes)


def test_the_question_names_token_and_audience() -> None:
    assert json.loads(question("a.b.c", AUDIENCE))["spec"] == {"token": "a.b.c", "audiences": [AUDIENCE]}


@pytest.mark.parametrize("identity", [WEB, OPERATOR])
def test_what_the_api_server_confirms_passes(identity: PodIdentity) -> None:
    assert judge(answer(), identity) == YES


@pytest.mark.parametrize(
    "said",
    [
        answer(authenticated=False),
        answer(authenticated="true"),
        {"kind": "TokenReview", "status": {"user": {}, "error": "invalid bearer token"}},
        answer(audiences=["cloudtaser:ffffffff"]),
        answer(audiences=None),
        answer(audiences=AUDIENCE),
    ],
)
def test_a_token_that_does_not_hold_for_this_audience_is_refused(said: dict[str, Any]) -> None:
    assert judge(said, WEB) == REFUSED


@pytest.mark.parametrize(
    "said",
    [
        user(username="system:serviceaccount:shop:other"),
        user(uid="another account of that name"),
        user(uid=None),
        user(extra={"authentication.kubernetes.io/pod-uid": ["another pod"]}),
        user(extra={"authentication.kubernetes.io/pod-uid": ["pod-uid", "another pod"]}),
        user(extra={}),
        user(extra=None),
        answer(user=None),
    ],
)
def test_an_answer_about_somebody_else_is_a_refusal(said: dict[str, Any]) -> None:
    assert judge(said, WEB) == MISMATCH


def test_a_token_that_does_not_say_its_accounts_uid_cannot_be_compared() -> None:
    assert judge(user(uid=""), replace(WEB, serviceaccount_uid="")) == MISMATCH


@pytest.mark.parametrize("said", [{}, {"kind": "Status", "status": "Failure"}, {"kind": "TokenReview"}])
def test_what_is_no_review_is_no_answer(said: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        judge(said, WEB)


class House:
    """An API server that the test answers for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        registered = Registered(FINGERPRINT, "", "", "", "", "", "", "", "x", "cloudtaser/x", "subject")
        self.cluster = Cluster(FINGERPRINT, registered, Grants(), KeySet())
        self.cluster.initialized = Initialized("", "b", {}, "https://issuer", "a CA", "subject", "")
        self.tunnel: object | None = object()
        self.token: Secret | None = Secret("reviewer")
        self.failures: list[str] = []
        self.said: dict[str, Any] = answer()
        self.failing: CloudtaserError | None = None
        self.asked = self.under_way = self.most = 0
        self.arrived = asyncio.Semaphore(0)
        self.hold = asyncio.Event()
        self.hold.set()
        self.reviews = Reviews(
            self.cluster,
            pick=lambda: self.tunnel,  # type: ignore[arg-type,return-value]  # nobody looks into it
            credential=lambda: self.token,
            now=lambda: NOW,
            on_failed=lambda error: self.failures.append(error.diagnostic()),
        )
        monkeypatch.setattr(review, "ask", self.ask)

    async def ask(self, *_: object, **__: object) -> bytes:
        self.asked += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        self.arrived.release()
        try:
            await self.hold.wait()
        finally:
            self.under_way -= 1
        if self.failing:
            raise self.failing
        return json.dumps(self.said).encode()

    async def reason(self, jwt: str = "a.b.c") -> str:
        """Why a login is refused; empty when it is not."""
        refused: RequestRefused | None = None
        try:
            await self.reviews.check(jwt, WEB)
        except RequestRefused as error:
            refused = error
        if refused is None:
            return ""
        assert jwt not in refused.diagnostic()
        assert (refused.status == 503) == bool(refused.wait)
        return refused.reason


@pytest.fixture
async def house(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    made = House(monkeypatch)
    yield made
    await made.reviews.close()


async def test_a_yes_lets_through_and_a_no_does_not(house: House) -> None:
    assert await house.reason("one") == ""
    house.said = answer(authenticated=False)
    assert await house.reason("two") == "review_refused"
    house.said = user(uid="another")
    assert await house.reason("three") == "review_mismatch"


async def test_whoever_cannot_be_asked_has_not_agreed(house: House) -> None:
    for failing in (
        UnavailableError("the stream was reset"),
        NotAuthorisedError("the API server refused the reviewer's token"),
        ProtocolError("no HTTP"),
    ):
        house.failing = failing
        assert await house.reason() == "review_unavailable"
    house.failing, house.said = None, {"kind": "Status"}
    assert await house.reason() == "review_unavailable"
    assert len(house.failures) == 4
    house.said = answer()
    assert await house.reason() == ""


async def test_without_tunnel_reviewer_or_recorded_ca_nobody_is_asked_and_nobody_let_through(
    house: House,
) -> None:
    house.tunnel = None
    assert await house.reason() == "review_unavailable"
    house.tunnel, house.token = object(), None
    assert await house.reason() == "review_unavailable"
    house.token, initialized = Secret("reviewer"), house.cluster.initialized
    assert initialized is not None
    for house.cluster.initialized in (None, replace(initialized, cluster_ca="")):
        assert await house.reason() == "review_unavailable"
    assert house.asked == 0


async def test_an_api_server_that_says_nothing_is_waited_for_a_bounded_time(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(review, "TIMEOUT", 0.05)
    house.hold.clear()
    assert await house.reason() == "review_unavailable"
    assert "no answer within" in house.failures[0]


async def test_logins_with_one_token_at_the_same_time_are_one_question(house: House) -> None:
    house.hold.clear()
    logins = [asyncio.create_task(house.reason()) for _ in range(10)]
    await house.arrived.acquire()
    logins[0].cancel()  # whoever asked first may leave
    house.hold.set()
    assert await asyncio.gather(*logins[1:]) == [""] * 9
    assert house.asked == 1


async def test_an_answer_counts_a_few_seconds_and_no_longer(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [await house.reason(), await house.reason()] == ["", ""]
    assert house.asked == 1
    monkeypatch.setattr(review, "YES_COUNTS", 0.0)
    monkeypatch.setattr(review, "NO_COUNTS", 0.0)
    assert await house.reason("another") == ""
    house.said = answer(authenticated=False)
    assert await house.reason("another") == "review_refused"
    assert await house.reason("another") == "review_refused"
    assert house.asked == 4


async def test_a_yes_ends_with_the_token(house: House) -> None:
    await house.reviews.check("a.b.c", replace(WEB, expires_at=NOW))
    await house.reviews.check("a.b.c", replace(WEB, expires_at=NOW))
    assert house.asked == 2


async def test_no_answer_is_remembered(house: House) -> None:
    house.failing = UnavailableError("away")
    assert [await house.reason(), await house.reason()] == ["review_unavailable"] * 2
    assert house.asked == 2


async def test_a_flood_of_logins_is_no_flood_of_questions(house: House) -> None:
    house.hold.clear()
    logins = [asyncio.create_task(house.reason(f"token-{number}")) for number in range(review.WAITING + 50)]
    for _ in range(review.AT_A_TIME):
        await house.arrived.acquire()
    house.hold.set()
    reasons = await asyncio.gather(*logins)
    assert house.most == review.AT_A_TIME
    assert (reasons.count(""), reasons.count("review_busy")) == (review.WAITING, 50)
    assert await house.reason("later") == ""


async def test_what_is_remembered_is_bounded(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review, "REMEMBERED", 3)
    for number in range(10):
        assert await house.reason(f"token-{number}") == ""
    assert len(house.reviews._known) == 3


async def test_at_the_end_whoever_still_waits_is_refused(house: House) -> None:
    house.hold.clear()
    login = asyncio.create_task(house.reason())
    await house.arrived.acquire()
    await house.reviews.close()
    assert await login == "review_unavailable"
