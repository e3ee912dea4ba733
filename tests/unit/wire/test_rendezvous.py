"""Rendezvous: the hello's vectors, and a visitor that hears the same however the bytes arrive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.errors import ProtocolError
from cloudtaser.wire.rendezvous import (
    HELLO_SIZE,
    MATCHED,
    PARKED,
    Hello,
    Matched,
    Parked,
    Refusal,
    Refused,
    Role,
    Visitor,
    encode_refusal,
)

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors" / "hello.json").read_text())
ROOM = bytes(range(32))
Event = Parked | Matched | Refused


def visit(*pieces: bytes) -> list[Event]:
    """Everything a visitor hears; bytes behind a match are joined to it, as the shell would hand them on."""
    visitor = Visitor(Role.BRIDGE, ROOM)
    events: list[Event] = []
    for piece in pieces:
        if events and isinstance(events[-1], Matched):
            events[-1] = Matched(events[-1].early + piece)
        elif not (events and isinstance(events[-1], Refused)):
            events += visitor.receive(piece)
    return [event for event in events if not isinstance(event, Parked)]


def test_hellos_give_their_vectors_both_ways() -> None:
    for vector in VECTORS["hellos"]:
        hello = Hello(Role[vector["role"].upper()], bytes.fromhex(vector["room"]), vector["flags"])
        assert hello.encode().hex() == vector["bytes"]
        assert Hello.decode(bytes.fromhex(vector["bytes"])) == hello


@pytest.mark.parametrize("vector", VECTORS["bad"], ids=lambda vector: vector["why"])
def test_a_bad_hello_is_refused(vector: dict[str, str]) -> None:
    with pytest.raises(ProtocolError):
        Hello.decode(bytes.fromhex(vector["bytes"]))


@pytest.mark.parametrize("vector", VECTORS["answers"], ids=lambda vector: vector["bytes"])
def test_answers_give_their_vectors(vector: dict[str, Any]) -> None:
    last = Visitor(Role.BROKER, ROOM).receive(bytes.fromhex(vector["bytes"]))[-1]
    if vector["event"] == "parked":
        assert last == Parked()
    elif vector["event"] == "matched":
        assert last == Matched(bytes.fromhex(vector["early"]))
    else:
        assert last == Refused(Refusal(vector["letter"]), vector["retry_ms"])


@given(st.binary(min_size=HELLO_SIZE, max_size=HELLO_SIZE) | st.binary(max_size=64))
def test_any_bytes_are_a_hello_that_encodes_back_or_a_typed_error(data: bytes) -> None:
    try:
        hello = Hello.decode(data)
    except ProtocolError:
        return
    assert hello.encode() == data


def test_a_room_of_another_size_is_never_sent() -> None:
    with pytest.raises(ProtocolError):
        Visitor(Role.BRIDGE, b"short")


def test_a_visitor_is_parked_reminded_and_matched_with_the_peers_first_bytes() -> None:
    visitor = Visitor(Role.BRIDGE, ROOM)
    assert visitor.hello() == Hello(Role.BRIDGE, ROOM).encode()
    assert visitor.receive(PARKED) == [Parked()]
    assert visitor.receive(PARKED) == [Parked()]
    assert visitor.receive(MATCHED + b"W\x16") == [Matched(b"W\x16")]
    with pytest.raises(ProtocolError):
        visitor.receive(b"x")


def test_a_flood_of_reminders_is_one_event() -> None:
    assert Visitor(Role.BRIDGE, ROOM).receive(PARKED * 10_000) == [Parked()]


@given(st.sampled_from(Refusal), st.integers(-5, 100_000))
def test_a_refusal_is_heard_as_it_was_said(refusal: Refusal, retry_ms: int) -> None:
    encoded = encode_refusal(refusal, retry_ms)
    assert len(encoded) == 3
    heard = Refused(refusal, min(max(retry_ms, 0), 0xFFFF))
    for cut in range(4):
        assert visit(PARKED, encoded[:cut], encoded[cut:]) == [heard]


@given(st.lists(st.binary(max_size=8) | st.sampled_from([b"W", b"M", b"H\0\1", b"WWM", b"S"]), max_size=8))
def test_any_chunking_of_any_bytes_is_heard_alike(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)

    def heard(*parts: bytes) -> list[Event] | str:
        try:
            return visit(*parts)
        except ProtocolError as error:
            return str(error)

    assert heard(whole) == heard(*pieces) == heard(*[whole[i : i + 1] for i in range(len(whole))])


@pytest.mark.parametrize("magic", [b"CTB0", b"CTB2", b"CTB9"])
def test_a_hello_of_another_release_is_named_as_one(magic: bytes) -> None:
    hello = magic + Hello(Role.BRIDGE, bytes(32)).encode()[4:]
    with pytest.raises(ProtocolError, match=f"newer or older release: it speaks {magic.decode()}, we CTB1"):
        Hello.decode(hello)
    for other_length in (hello[:4], hello[:30], hello + b"more"):
        with pytest.raises(ProtocolError, match="newer or older release"):
            Hello.decode(other_length)
    with pytest.raises(ProtocolError, match="wrong magic"):
        Hello.decode(b"SSH-" + hello[4:])
