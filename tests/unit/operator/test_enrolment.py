"""Enrolment never falls back to the fingerprint, waits for other replicas, and always has a next step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.operator.enrolment import (
    LOOKS_BEFORE_ASKING,
    ComeBack,
    Enrolled,
    Enrolment,
    Introduce,
    Outcome,
    ReadTrust,
    Reporter,
)
from cloudtaser.wire.bootstrap import Mode

READING = [Outcome.TRUST_KNOWN, Outcome.TRUST_UNKNOWN, Outcome.TRUST_UNREADABLE]
ASKING = [
    Outcome.CERTIFIED,
    Outcome.NOBODY_CAME,
    Outcome.ALREADY_INITIALISED,
    Outcome.REFUSED,
    Outcome.BROKEN,
    Outcome.TRUST_DIFFERS,
]


def test_a_cluster_that_was_never_initialised_introduces_itself() -> None:
    machine = Enrolment(join_code=False)
    assert machine.step == ReadTrust()
    step = machine.report(Outcome.TRUST_UNKNOWN)
    assert isinstance(step, Introduce)
    assert step.mode is Mode.INIT
    assert machine.report(Outcome.CERTIFIED) == Enrolled()
    assert machine.trust_known


def test_a_known_tunnel_ca_means_coming_back() -> None:
    machine = Enrolment(join_code=False)
    step = machine.report(Outcome.TRUST_KNOWN)
    assert isinstance(step, ComeBack)
    assert step.delay == 0.0
    assert machine.report(Outcome.CERTIFIED) == Enrolled()


def test_already_initialised_polls_for_another_replicas_trust_before_asking_again() -> None:
    machine = Enrolment(join_code=False, poll=2.0)
    machine.report(Outcome.TRUST_UNKNOWN)
    assert machine.report(Outcome.ALREADY_INITIALISED) == ReadTrust(2.0)
    for _ in range(LOOKS_BEFORE_ASKING):
        assert machine.report(Outcome.TRUST_UNKNOWN) == ReadTrust(2.0)
    assert isinstance(machine.report(Outcome.TRUST_UNKNOWN), Introduce)
    machine.report(Outcome.ALREADY_INITIALISED)
    assert isinstance(machine.report(Outcome.TRUST_KNOWN), ComeBack)


def test_another_replica_that_was_faster_with_another_ca_is_followed_by_coming_back() -> None:
    machine = Enrolment(join_code=False)
    machine.report(Outcome.TRUST_UNKNOWN)
    assert machine.report(Outcome.TRUST_DIFFERS) == ReadTrust(0.0)
    assert isinstance(machine.report(Outcome.TRUST_KNOWN), ComeBack)


def test_failures_are_tried_again_ever_more_slowly_up_to_a_limit() -> None:
    machine = Enrolment(join_code=False, limit=30.0)
    machine.report(Outcome.TRUST_KNOWN)
    delays = []
    for _ in range(12):
        step = machine.report(Outcome.BROKEN)
        assert isinstance(step, ComeBack)
        delays.append(step.delay)
    assert delays == sorted(delays)
    assert delays[0] == 0.5
    assert delays[-1] == 30.0


def test_an_outcome_that_cannot_be_is_a_bug() -> None:
    machine = Enrolment(join_code=False)
    with pytest.raises(ValueError, match="CERTIFIED does not follow ReadTrust"):
        machine.report(Outcome.CERTIFIED)
    machine.report(Outcome.TRUST_UNKNOWN)
    with pytest.raises(ValueError, match="TRUST_KNOWN does not follow Introduce"):
        machine.report(Outcome.TRUST_KNOWN)


@given(st.data(), st.booleans())
def test_whatever_happens_the_fingerprint_is_never_used_once_trust_is_known(
    data: st.DataObject, join_code: bool
) -> None:
    machine = Enrolment(join_code=join_code)
    known = False
    for _ in range(30):
        step = machine.step
        if isinstance(step, Enrolled):
            break
        outcome = data.draw(st.sampled_from(READING if isinstance(step, ReadTrust) else ASKING))
        known = known or outcome is Outcome.TRUST_KNOWN
        step = machine.report(outcome)
        if known:
            assert isinstance(step, ComeBack | Enrolled)
        if isinstance(step, Introduce):
            assert step.mode is (Mode.INIT_WITH_CODE if join_code else Mode.INIT)
        if isinstance(step, ReadTrust | ComeBack):
            assert 0.0 <= step.delay <= 30.0


def test_the_same_thing_is_said_once_a_minute() -> None:
    reporter = Reporter(60.0)
    assert reporter.due("waiting", 0.0)
    assert not reporter.due("waiting", 59.0)
    assert reporter.due("refused", 59.0)
    assert reporter.due("waiting", 60.0)
