"""A tunnel CA takes the place of a pinned one only with that one's endorsement, for exactly this cluster and
CA."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable

import pytest

from cloudtaser.errors import ProtocolError
from cloudtaser.operator.certificates import der
from cloudtaser.operator.succession import (
    LINEAGE_LIMIT,
    Former,
    decode_lineage,
    encode_lineage,
    succeed,
)
from cloudtaser.operator.trust import Trust
from cloudtaser.wire.names import bridge_uri, broker_uri, operator_uri, successor_uri
from tests.unit.operator.parties import (
    CLIENT,
    DOCUMENT_SIGNING,
    FINGERPRINT,
    OTHER_FINGERPRINT,
    SERVER,
    Authority,
    Leaf,
    now,
)

FIRST, NEXT, OTHER = Authority("tunnel"), Authority("tunnel"), Authority("tunnel")
NAME = successor_uri(FINGERPRINT, der(NEXT.certificate))


def accept(endorsement: str) -> Former:
    return succeed(FIRST.certificate, NEXT.certificate, endorsement, FINGERPRINT, now())


def test_an_endorsed_successor_is_accepted_and_remembered_with_its_endorsement() -> None:
    endorsement = FIRST.endorse(NEXT)
    assert accept(endorsement.pem) == Former(FIRST.pem, endorsement.pem)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: OTHER.endorse(NEXT), "not signed by the pinned one"),
        (lambda: Authority("x").endorse(NEXT), "not signed by the pinned one"),
        (lambda: NEXT.endorse(NEXT), "not signed by the pinned one"),
        (lambda: FIRST.endorse(NEXT, OTHER_FINGERPRINT), "no successor of this cluster"),
        (lambda: FIRST.endorse(OTHER), "names another one"),
        (lambda: FIRST.endorse(FIRST), "names another one"),
        (lambda: FIRST.issue([NAME, NAME], DOCUMENT_SIGNING), "exactly one name"),
        (lambda: FIRST.issue([NAME, bridge_uri(FINGERPRINT, "b1")], CLIENT), "exactly one name"),
        (lambda: FIRST.issue([NAME], DOCUMENT_SIGNING, dns=("a.example",)), "exactly one name"),
        (lambda: FIRST.issue([], DOCUMENT_SIGNING, dns=("a.example",)), "exactly one name"),
        (lambda: FIRST.issue([NAME], DOCUMENT_SIGNING, is_ca=True), "is itself a CA"),
        (lambda: FIRST.issue([NAME], DOCUMENT_SIGNING, start=dt.timedelta(hours=-25)), "expired"),
        (lambda: FIRST.issue([NAME], DOCUMENT_SIGNING, start=dt.timedelta(hours=1)), "clocks"),
        (lambda: FIRST.bridge(), "no successor of this cluster"),
        (lambda: FIRST.broker(), "no successor of this cluster"),
        (lambda: FIRST.issue([operator_uri(FINGERPRINT)], CLIENT), "no successor of this cluster"),
        (lambda: FIRST.issue([broker_uri(FINGERPRINT, "a" * 64)], SERVER), "no successor of this cluster"),
        (lambda: FIRST.issue([bridge_uri(FINGERPRINT, "a" * 64)], CLIENT), "no successor of this cluster"),
        (lambda: FIRST.issue([NAME + "0"], DOCUMENT_SIGNING), "no successor of this cluster"),
        (lambda: FIRST.issue([NAME.upper()], DOCUMENT_SIGNING), "no successor of this cluster"),
    ],
)
def test_any_other_endorsement_is_refused(make: Callable[[], Leaf], why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        accept(make().pem)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "without an endorsement"),
        ("nonsense", "not a PEM certificate"),
        (FIRST.endorse(NEXT).pem * 2, "2 certificates"),
        (FIRST.pem, "cannot be read"),
        (NEXT.pem, "not signed by the pinned one"),
    ],
)
def test_what_is_not_one_endorsement_is_refused(text: str, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        accept(text)


def lineage_of(*authorities: Authority) -> tuple[Former, ...]:
    steps = itertools.pairwise(authorities)
    return tuple(Former(ca.pem, ca.endorse(successor).pem) for ca, successor in steps)


def test_a_lineage_is_read_back_as_far_as_it_can_be_verified() -> None:
    first, second, third = (Authority(name) for name in ("one", "two", "three"))
    lineage = lineage_of(first, second, third)
    text = encode_lineage(lineage)
    assert decode_lineage(text, third.certificate, FINGERPRINT) == lineage
    assert decode_lineage("", third.certificate, FINGERPRINT) == ()
    assert decode_lineage("nonsense", third.certificate, FINGERPRINT) == ()
    assert decode_lineage(text, second.certificate, FINGERPRINT) == ()
    assert decode_lineage(text, third.certificate, OTHER_FINGERPRINT) == ()
    torn = encode_lineage((Former(OTHER.pem, lineage[0].endorsement), lineage[1]))
    assert decode_lineage(torn, third.certificate, FINGERPRINT) == lineage[1:]
    assert decode_lineage(first.pem + text, third.certificate, FINGERPRINT) == lineage


def test_an_endorsement_that_has_expired_since_still_tells_where_a_ca_came_from() -> None:
    old = FIRST.issue([NAME], DOCUMENT_SIGNING, start=dt.timedelta(days=-400))
    kept = (Former(FIRST.pem, old.pem),)
    assert decode_lineage(encode_lineage(kept), NEXT.certificate, FINGERPRINT) == kept


def test_a_lineage_is_bounded() -> None:
    authorities = [Authority(str(number)) for number in range(LINEAGE_LIMIT + 3)]
    text = encode_lineage(lineage_of(*authorities))
    read = decode_lineage(text, authorities[-1].certificate, FINGERPRINT)
    assert len(read) == LINEAGE_LIMIT
    assert read[-1].tunnel_ca == authorities[-2].pem


def test_trust_knows_what_it_took_over_from() -> None:
    first, second, third = (Authority(name) for name in ("one", "two", "three"))
    step_one, step_two = lineage_of(first, second, third)
    middle = Trust(second.pem, der(second.certificate), (step_one,))
    last = Trust(third.pem, der(third.certificate), (step_two,))
    assert last.succeeds(middle)
    assert not last.succeeds(first.trust)
    whole = last.behind(middle)
    assert whole.lineage == (step_one, step_two)
    assert whole.succeeds(first.trust)
    assert whole.behind(second.trust) == whole
    assert not middle.succeeds(last)
    assert not middle.succeeds(middle)
