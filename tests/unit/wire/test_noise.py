"""Noise: the published vector, an independent library in both roles, and a channel that fails closed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noise.connection import Keypair, NoiseConnection  # an independent implementation

from cloudtaser.errors import ProtocolError
from cloudtaser.wire.noise import MAX_PAYLOAD, PROTOCOL_NAME, Channel, Handshake

VECTOR: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors" / "noise.json").read_text())
PSK = b"k" * 32
PROLOGUE = b"cloudtaser-bootstrap-1" + bytes(33)

# The points of small order on Curve25519 and its twist, and other spellings of them: RFC 7748 §6.1 asks to
# refuse the all-zero result that each of them gives.
LOW_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


def pair() -> tuple[Channel, Channel]:
    operator, bridge = Channel.initiator(PSK, PROLOGUE), Channel.responder(PSK, PROLOGUE)
    assert bridge.receive(operator.data_to_send()) == []
    assert operator.receive(bridge.data_to_send()) == []
    assert operator.established
    assert bridge.established
    assert operator.handshake_hash == bridge.handshake_hash
    return operator, bridge


def test_the_published_vector_holds_in_both_roles() -> None:
    assert VECTOR["protocol_name"].encode() == PROTOCOL_NAME
    psk, prologue = bytes.fromhex(VECTOR["psk"]), bytes.fromhex(VECTOR["prologue"])
    initiator = Handshake(True, psk, prologue, bytes.fromhex(VECTOR["init_ephemeral"]))
    responder = Handshake(False, psk, prologue, bytes.fromhex(VECTOR["resp_ephemeral"]))
    messages = [(bytes.fromhex(m["payload"]), bytes.fromhex(m["ciphertext"])) for m in VECTOR["messages"]]
    for number, (writer, reader) in enumerate([(initiator, responder), (responder, initiator)]):
        payload, ciphertext = messages[number]
        assert writer.write_message(payload) == ciphertext
        assert reader.read_message(ciphertext) == payload
    assert initiator.done
    assert responder.done
    assert initiator.hash.hex() == responder.hash.hex() == VECTOR["handshake_hash"]
    i_send, i_receive = initiator.split()
    r_send, r_receive = responder.split()
    for number, (payload, ciphertext) in enumerate(messages[2:]):
        sending, receiving = ((i_send, r_receive), (r_send, i_receive))[number % 2]
        assert sending.encrypt(payload) == ciphertext
        assert receiving.decrypt(ciphertext) == payload


def independent(initiator: bool) -> Any:
    connection = NoiseConnection.from_name(PROTOCOL_NAME)
    connection.set_psks(PSK)
    connection.set_prologue(PROLOGUE)
    if initiator:
        connection.set_as_initiator()
    else:
        connection.set_as_responder()
    connection.start_handshake()
    return connection


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


@pytest.mark.parametrize("we_initiate", [True, False])
def test_an_independent_library_talks_with_us_in_either_role(we_initiate: bool) -> None:
    other = independent(initiator=not we_initiate)
    ours = Channel.initiator(PSK, PROLOGUE) if we_initiate else Channel.responder(PSK, PROLOGUE)
    if we_initiate:
        assert bytes(other.read_message(ours.data_to_send()[2:])) == b""
        assert ours.receive(framed(bytes(other.write_message()))) == []
    else:
        assert ours.receive(framed(bytes(other.write_message()))) == []
        assert bytes(other.read_message(ours.data_to_send()[2:])) == b""
    assert ours.established
    assert other.handshake_finished
    assert other.get_handshake_hash() == ours.handshake_hash
    for number in range(3):
        text = b"message %d" % number * 1000
        ours.send(text)
        assert bytes(other.decrypt(ours.data_to_send()[2:])) == text
        assert ours.receive(framed(bytes(other.encrypt(text)))) == [text]


def test_the_independent_library_agrees_on_the_published_keys() -> None:
    """It makes the vector's first message from the vector's keys: the vector holds no typing error."""
    other = NoiseConnection.from_name(PROTOCOL_NAME)
    other.set_psks(bytes.fromhex(VECTOR["psk"]))
    other.set_prologue(bytes.fromhex(VECTOR["prologue"]))
    other.set_as_initiator()
    other.set_keypair_from_private_bytes(Keypair.EPHEMERAL, bytes.fromhex(VECTOR["init_ephemeral"]))
    with pytest.warns(UserWarning, match="ephemeral"):
        other.start_handshake()
    first = VECTOR["messages"][0]
    assert bytes(other.write_message(bytes.fromhex(first["payload"]))).hex() == first["ciphertext"]


@pytest.mark.parametrize(("psk", "prologue"), [(b"x" * 32, PROLOGUE), (PSK, PROLOGUE[:-1] + b"\x02")])
def test_another_key_or_another_purpose_gets_nowhere(psk: bytes, prologue: bytes) -> None:
    stranger, bridge = Channel.initiator(psk, prologue), Channel.responder(PSK, PROLOGUE)
    with pytest.raises(ProtocolError, match="does not share our key"):
        bridge.receive(stranger.data_to_send())
    assert not bridge.established
    assert bridge.data_to_send() == b""
    with pytest.raises(ProtocolError):
        bridge.receive(b"")
    with pytest.raises(ProtocolError):
        bridge.send(b"x")


@pytest.mark.parametrize("point", LOW_ORDER)
def test_a_public_key_that_makes_the_shared_key_zero_is_refused(point: str) -> None:
    initiator = Handshake(True, PSK, PROLOGUE)
    initiator.write_message()
    with pytest.raises(ProtocolError, match="worthless"):
        initiator.read_message(bytes.fromhex(point) + bytes(16))
    with pytest.raises(ProtocolError):
        initiator.split()


def test_messages_out_of_turn_are_refused() -> None:
    initiator, responder = Handshake(True, PSK, PROLOGUE), Handshake(False, PSK, PROLOGUE)
    with pytest.raises(ProtocolError):
        responder.write_message()
    with pytest.raises(ProtocolError):
        initiator.read_message(bytes(48))
    message = initiator.write_message()
    with pytest.raises(ProtocolError):
        initiator.write_message()
    with pytest.raises(ProtocolError):
        initiator.split()
    responder.read_message(message)
    with pytest.raises(ProtocolError):
        responder.read_message(message)


def test_a_handshake_that_has_failed_takes_no_second_attempt() -> None:
    first = Handshake(True, PSK, PROLOGUE).write_message()
    responder = Handshake(False, PSK, PROLOGUE)
    with pytest.raises(ProtocolError):
        responder.read_message(first[:-1] + bytes([first[-1] ^ 1]))
    with pytest.raises(ProtocolError, match="out of turn"):
        responder.read_message(first)


def test_a_psk_of_another_size_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="32"):
        Handshake(True, b"short", PROLOGUE)


def test_a_recorded_handshake_cannot_be_replayed_into_another_channel() -> None:
    operator, bridge = Channel.initiator(PSK, PROLOGUE), Channel.responder(PSK, PROLOGUE)
    first = operator.data_to_send()
    bridge.receive(first)
    operator.receive(bridge.data_to_send())
    operator.send(b"request")
    recorded = operator.data_to_send()
    other = Channel.responder(PSK, PROLOGUE)
    other.receive(first)
    with pytest.raises(ProtocolError):
        other.receive(recorded)


def test_a_message_repeated_or_changed_ends_the_channel() -> None:
    spoils: list[Callable[[bytes], bytes]] = [
        lambda m: m + m,
        lambda m: m[:-1] + bytes([m[-1] ^ 1]),
        lambda m: b"\0\0" + m,
    ]
    for spoil in spoils:
        operator, bridge = pair()
        operator.send(b"once")
        with pytest.raises(ProtocolError):
            bridge.receive(spoil(operator.data_to_send()))
        with pytest.raises(ProtocolError):
            bridge.receive(b"")


def test_a_payload_of_the_bound_fits_and_one_byte_more_does_not() -> None:
    operator, bridge = pair()
    operator.send(bytes(MAX_PAYLOAD))
    assert bridge.receive(operator.data_to_send()) == [bytes(MAX_PAYLOAD)]
    with pytest.raises(ProtocolError):
        operator.send(bytes(MAX_PAYLOAD + 1))


def test_a_wrong_length_is_refused_before_its_bytes_are_awaited() -> None:
    bridge = Channel.responder(PSK, PROLOGUE)
    with pytest.raises(ProtocolError, match="not a handshake of ours"):
        bridge.receive(b"\xff\xff")


@settings(max_examples=50)
@given(st.lists(st.binary(max_size=300), max_size=5), st.integers(1, 50))
def test_payloads_arrive_alike_in_any_chunks(payloads: list[bytes], size: int) -> None:
    operator, bridge = pair()
    for payload in payloads:
        operator.send(payload)
    data = operator.data_to_send()
    received = [p for i in range(0, len(data), size) for p in bridge.receive(data[i : i + size])]
    assert received == payloads


@given(st.binary(max_size=200), st.booleans(), st.integers(1, 60))
def test_any_bytes_in_any_chunks_end_in_a_typed_error_or_wait(
    data: bytes, plausible: bool, size: int
) -> None:
    stream = (b"\0\x30" + data) if plausible else data
    for channel in (Channel.initiator(PSK, PROLOGUE), Channel.responder(PSK, PROLOGUE)):
        try:
            for i in range(0, len(stream), size):
                assert channel.receive(stream[i : i + size]) == []
        except ProtocolError:
            pass
        assert not channel.established
