"""The agent's side of its socket, as bytes in and events out."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.ebpf.protocol import (
    MAX_FRAME,
    Conversation,
    Event,
    Malformed,
    Refusal,
    Register,
    Score,
    encode,
)


def frame(message: Any) -> bytes:
    body = json.dumps(message).encode()
    return struct.pack(">I", len(body)) + body


REGISTER = frame({"v": 1, "register": {"container": "app"}})


def registered() -> Conversation:
    conversation = Conversation()
    assert conversation.receive(REGISTER) == [Register("app")]
    conversation.accept(mode="enforce", tier="lsm", known=46, hold=43)
    return conversation


def test_a_registration_and_then_a_score() -> None:
    conversation = registered()
    assert conversation.receive(frame({"v": 1, "score": {"total": 90}})) == [Score({"total": 90})]
    assert json.loads(conversation.thank()[4:]) == {"v": 1, "ok": True}


def test_the_answer_is_that_of_the_contract() -> None:
    answer = Conversation().accept(mode="enforce", tier="lsm", known=46, hold=43)
    assert struct.unpack(">I", answer[:4])[0] == len(answer) - 4
    assert json.loads(answer[4:]) == {
        "v": 1,
        "ok": True,
        "mode": "enforce",
        "tier": "lsm",
        "vectors": {"known": 46, "hold": 43},
    }


def test_a_refusal_names_its_reason_in_one_line() -> None:
    answer = json.loads(Conversation().refuse(Refusal.HELD, "gdb\nhas it")[4:])
    assert answer == {"v": 1, "ok": False, "error": "held", "message": "gdb has it"}


def test_members_that_are_not_known_are_ignored() -> None:
    message = {"v": 1, "register": {"container": "", "new": [1]}, "more": True}
    assert Conversation().receive(frame(message)) == [Register("")]


@pytest.mark.parametrize("version", [0, 2, "1", None, True])
def test_another_version_is_refused_in_words(version: object) -> None:
    (event,) = Conversation().receive(frame({"v": version, "register": {"container": ""}}))
    assert isinstance(event, Malformed)
    assert event.refusal is Refusal.VERSION


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">I", 0),
        struct.pack(">I", MAX_FRAME + 1),
        frame([]),
        frame({"v": 1}),
        frame({"v": 1, "register": None}),
        frame({"v": 1, "register": {"container": 7}}),
        frame({"v": 1, "register": {"container": "a\nb"}}),
        frame({"v": 1, "register": {"container": "x" * 254}}),
        frame({"v": 1, "score": {}}),
        struct.pack(">I", 2) + b"\xff\xff",
        struct.pack(">I", 15) + b'{"v":1,"v":1  }',
    ],
)
def test_what_the_protocol_does_not_have_ends_the_conversation(data: bytes) -> None:
    conversation = Conversation()
    (event,) = conversation.receive(data)
    assert isinstance(event, Malformed)
    assert event.refusal is Refusal.BAD_REQUEST
    assert conversation.receive(REGISTER) == []


def test_one_registration_a_connection() -> None:
    (event,) = registered().receive(REGISTER)
    assert isinstance(event, Malformed)


def test_a_score_before_the_answer_counts_for_nothing() -> None:
    conversation = Conversation()
    events = conversation.receive(REGISTER + frame({"v": 1, "score": {}}))
    assert isinstance(events[1], Malformed)


def test_a_score_may_change() -> None:
    conversation = registered()
    for total in (10, 20, 30):
        assert conversation.receive(frame({"v": 1, "score": {"total": total}})) == [Score({"total": total})]


def kinds(conversation: Conversation, pieces: list[bytes]) -> list[Event]:
    return [event for piece in pieces for event in conversation.receive(piece)]


@given(st.binary(max_size=200), st.lists(st.integers(1, 9), max_size=30))
def test_no_bytes_do_more_than_end_it_and_cuts_change_nothing(noise: bytes, cuts: list[int]) -> None:
    data = REGISTER + noise
    pieces, at = [], 0
    for cut in cuts:
        pieces.append(data[at : at + cut])
        at += cut
    pieces.append(data[at:])
    assert kinds(Conversation(), pieces) == kinds(Conversation(), [data])


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=8,
)


@given(
    st.lists(
        st.dictionaries(st.sampled_from(["v", "register", "score", "x"]), values, max_size=4), max_size=5
    )
)
def test_any_messages_give_events_and_never_an_exception(messages: list[dict[str, Any]]) -> None:
    conversation = Conversation()
    for message in messages:
        for event in conversation.receive(frame(message)):
            assert isinstance(event, Register | Score | Malformed)


@given(st.text(max_size=2000))
def test_every_refusal_fits_a_frame(message: str) -> None:
    answer = Conversation().refuse(Refusal.NOT_ALLOWED, message)
    assert len(answer) <= 4 + MAX_FRAME
    assert encode({"a": 1})[4:] == b'{"a":1}'
