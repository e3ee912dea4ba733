"""What the agent answers: understood, or refused in one way, whatever it is."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.ebpf.protocol import Conversation, Refusal, Register, Score
from cloudtaser.wrapper.agent import (
    MAX_FRAME,
    MODES,
    TIERS,
    RefusedByAgentError,
    frame,
    parse_ok,
    parse_registration,
)
from cloudtaser.wrapper.errors import EX_UNAVAILABLE, AgentError

COUNTS = st.integers(0, 10**6)


@given(st.sampled_from(MODES), st.sampled_from(TIERS), COUNTS, COUNTS)
def test_what_the_agents_side_writes_is_read_as_it_was_meant(
    mode: str, tier: str, one: int, two: int
) -> None:
    known, hold = max(one, two), min(one, two)
    conversation = Conversation()
    request = frame(b'{"v":1,"register":{"container":"app"}}')
    assert conversation.receive(request) == [Register("app")]
    answer = conversation.accept(mode=mode, tier=tier, known=known, hold=hold)
    found = parse_registration(answer[4:])
    assert (found.mode, found.tier, found.known, found.hold) == (mode, tier, known, hold)
    assert conversation.receive(frame(b'{"v":1,"score":{"score":1}}')) == [Score({"score": 1})]
    parse_ok(conversation.thank()[4:])


@pytest.mark.parametrize("refusal", Refusal)
def test_a_refusal_is_told_with_its_word(refusal: Refusal) -> None:
    with pytest.raises(RefusedByAgentError) as caught:
        parse_registration(Conversation().refuse(refusal, "two\nlines")[4:])
    assert refusal.value in caught.value.diagnostic()
    assert "\n" not in caught.value.diagnostic()
    assert caught.value.code == EX_UNAVAILABLE
    assert caught.value.is_final is (refusal.value in ("not_allowed", "version", "bad_request"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
MEMBERS = st.sampled_from(("v", "ok", "mode", "tier", "vectors", "known", "hold", "error", "message"))


@given(
    st.binary(max_size=200) | st.dictionaries(MEMBERS, JSON, max_size=6).map(lambda o: json.dumps(o).encode())
)
def test_anything_else_is_refused_in_one_way(answer: bytes) -> None:
    with pytest.raises(AgentError) as caught:
        parse_registration(answer[:MAX_FRAME])
    assert "\n" not in caught.value.diagnostic()
    assert len(caught.value.diagnostic()) < 600


def test_a_message_that_no_agent_takes_is_not_sent() -> None:
    assert frame(b"x" * MAX_FRAME)[:4] == b"\0\0\x10\0"
    with pytest.raises(AgentError):
        frame(b"x" * (MAX_FRAME + 1))
