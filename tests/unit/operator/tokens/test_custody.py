"""Custody: whatever fails, and wherever it is cut off, no token is out that nobody could take back."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.operator.tokens.custody import (
    TRIES,
    WRAPPER_TRIES,
    Annotate,
    Custody,
    Deliver,
    End,
    Ended,
    Forget,
    Look,
    Mint,
    Outcome,
    Record,
    Revoke,
    Step,
)

POSSIBLE: dict[type[Step], tuple[Outcome, ...]] = {
    Look: (Outcome.DONE, Outcome.SUPERSEDED, Outcome.REFUSED, Outcome.UNANSWERED, Outcome.FAILED),
    Mint: (Outcome.DONE, Outcome.SUPERSEDED, Outcome.REFUSED, Outcome.FAILED),
    Record: (Outcome.DONE, Outcome.FAILED),
    Deliver: (Outcome.DONE, Outcome.SUPERSEDED, Outcome.REFUSED, Outcome.FAILED),
    Annotate: (Outcome.DONE, Outcome.GONE, Outcome.FAILED),
    Revoke: (Outcome.DONE, Outcome.FAILED),
    Forget: (Outcome.DONE, Outcome.FAILED),
}


@dataclass
class World:
    """Tokens at OpenBao, the ledger, and what the pod has, as the steps leave them.

    A step that failed may have had its effect all the same: `lost` says whether it had.
    """

    tokens: set[str] = field(default_factory=lambda: {"former"})
    ledger: set[str] = field(default_factory=lambda: {"former"})
    annotation: str = "former"
    delivered: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    """Tokens whose accessor never reached the operator."""
    made: int = 0

    def do(self, custody: Custody, outcome: Outcome, lost: bool) -> None:
        step = custody.step
        takes_effect = outcome is Outcome.DONE or (outcome is Outcome.FAILED and lost)
        match step:
            case Mint() if takes_effect:
                self.made += 1
                accessor = f"token-{self.made}"
                self.tokens.add(accessor)
                if outcome is Outcome.DONE:
                    custody.minted(accessor)
                    return
                self.unknown.add(accessor)
            case Record(accessor) if takes_effect:
                self.ledger.add(accessor)
            case Deliver() if takes_effect:
                assert custody.accessor in self.ledger, "a token left before it was written down"
                self.delivered.add(custody.accessor)
            case Annotate(accessor) if takes_effect:
                replaced, self.annotation = self.annotation, accessor
                if outcome is Outcome.DONE:
                    custody.annotated(replaced)
                    return
            case Revoke(accessor) if takes_effect:
                self.tokens.discard(accessor)
            case Forget(accessor) if takes_effect:
                assert accessor not in self.tokens, "a token was forgotten that was not revoked"
                self.ledger.discard(accessor)
        custody.report(outcome)


@given(st.data())
def test_at_any_moment_each_token_is_in_the_ledger_or_was_never_seen_by_anybody(data: st.DataObject) -> None:
    world, custody = World(), Custody()
    steps = 0
    while not isinstance(custody.step, Ended):
        if data.draw(st.booleans(), "killed") and data.draw(st.booleans(), "really"):
            break
        outcome = data.draw(st.sampled_from(POSSIBLE[type(custody.step)]))
        world.do(custody, outcome, data.draw(st.booleans(), "lost"))
        steps += 1
        assert steps < 40, "it does not end"
    held = {custody.accessor} - {""} if not isinstance(custody.step, Ended) else set()
    kept = world.ledger | world.unknown | held
    assert world.tokens <= kept
    assert not world.delivered & world.unknown
    assert world.delivered & world.tokens <= world.ledger


def drive(*outcomes: Outcome) -> Custody:
    custody = Custody()
    for outcome in outcomes:
        if isinstance(custody.step, Mint) and outcome is Outcome.DONE:
            custody.minted("new")
        else:
            custody.report(outcome)
    return custody


DONE, FAILED = Outcome.DONE, Outcome.FAILED


def test_a_token_is_written_down_before_it_is_delivered_and_named_in_the_annotation_after() -> None:
    custody = drive()
    seen: list[Step] = [custody.step]
    seen.append(custody.report(DONE))
    seen.append(custody.minted("new"))
    seen.append(custody.report(DONE))
    seen.append(custody.report(DONE))
    seen.append(custody.annotated(""))
    assert seen == [Look(), Mint(), Record("new"), Deliver(), Annotate("new"), Ended(End.UNSEALED)]


def test_the_token_of_an_earlier_start_is_revoked_when_the_next_one_has_arrived() -> None:
    custody = drive(DONE, DONE, DONE, DONE)
    assert custody.annotated("old") == Revoke("old")
    assert custody.report(DONE) == Forget("old")
    assert custody.report(DONE) == Ended(End.UNSEALED)


def test_nothing_is_minted_for_a_wrapper_that_waits_for_none() -> None:
    assert drive(Outcome.SUPERSEDED).step == Ended(End.SUPERSEDED)


@pytest.mark.parametrize("outcome", [Outcome.SUPERSEDED, Outcome.REFUSED, FAILED])
def test_a_token_that_was_not_taken_is_revoked_and_not_sent_twice(outcome: Outcome) -> None:
    custody = drive(DONE, DONE, DONE, outcome)
    assert custody.step == Revoke("new")
    assert custody.report(DONE) == Forget("new")
    assert isinstance(custody.report(DONE), Ended)


def test_a_pod_that_was_deleted_meanwhile_gets_no_token_of_lasting_life() -> None:
    custody = drive(DONE, DONE, DONE, DONE, Outcome.GONE)
    assert custody.step == Revoke("new")


def test_what_cannot_be_written_down_is_revoked() -> None:
    custody = drive(DONE, DONE, *[FAILED] * TRIES)
    assert custody.step == Revoke("new")
    assert not custody.needs_token


def test_what_fails_is_tried_again_a_few_times_and_later_each_time() -> None:
    custody = Custody()
    delays = []
    while isinstance(custody.report(FAILED), Look):
        assert isinstance(custody.step, Look)
        delays.append(custody.step.delay)
    assert delays == sorted(delays)
    assert len(delays) == TRIES - 1
    assert custody.step == Ended(End.FAILED)


def test_a_wrapper_that_does_not_answer_is_asked_less_often_than_an_api_server() -> None:
    assert WRAPPER_TRIES < TRIES
    assert isinstance(drive(FAILED, FAILED, *[Outcome.UNANSWERED] * (WRAPPER_TRIES - 1)).step, Look)
    assert drive(*[Outcome.UNANSWERED] * WRAPPER_TRIES).step == Ended(End.FAILED)


def test_an_outcome_that_cannot_be_is_a_bug() -> None:
    with pytest.raises(ValueError, match="GONE does not follow Look"):
        Custody().report(Outcome.GONE)
    with pytest.raises(ValueError, match="a token does not follow Look"):
        Custody().minted("new")
    with pytest.raises(ValueError, match="an annotation does not follow Look"):
        Custody().annotated("")
