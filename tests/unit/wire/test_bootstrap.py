"""Bootstrap: keys and prologues give their vectors, messages are strict, and the whole dialogue runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from noise.connection import NoiseConnection  # an independent implementation

from cloudtaser.errors import ProtocolError
from cloudtaser.wire import bootstrap
from cloudtaser.wire.bootstrap import (
    InitAnswer,
    InitRequest,
    Mode,
    Refusal,
    ReturnProof,
    ReturnRequest,
    VersionError,
    decode_answer,
    refusal_in,
)
from cloudtaser.wire.noise import MAX_PAYLOAD, PROTOCOL_NAME, Channel

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors" / "bootstrap.json").read_text())
FP = VECTORS["fingerprint"]
ROOM = bytes.fromhex(VECTORS["room"])
CSR = "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"
CERT = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
JWKS: dict[str, Any] = {"keys": [{"kty": "RSA", "kid": "k", "n": "AQAB", "e": "AQAB"}]}
INIT = InitRequest(FP, CSR, b"signature", "a.b.c", "https://kubernetes.default.svc", JWKS, CERT, "system:x:y")
ANSWER = InitAnswer(CERT, CERT, CERT + CERT, "ab" * 32, "cloudtaser/3f1c8a52")
PROOF = ReturnProof(CERT, b"signature")
RETURN = ReturnRequest(FP, CSR, "a.b.c")
DECODERS: list[Callable[[bytes], object]] = [
    InitRequest.decode,
    InitAnswer.decode,
    Refusal.decode,
    ReturnProof.decode,
    ReturnRequest.decode,
    decode_answer,
]


def test_keys_and_prologues_give_their_vectors() -> None:
    assert bootstrap.derive_psk(FP).hex() == VECTORS["psk"]
    assert bootstrap.derive_psk(FP, VECTORS["join_code"]).hex() == VECTORS["psk_with_code"]
    for mode in Mode:
        assert bootstrap.prologue(ROOM, mode).hex() == VECTORS["prologues"][str(int(mode))]


def test_the_two_signatures_cannot_stand_for_each_other() -> None:
    h = b"h" * 32
    assert bootstrap.init_signature_message(h) == b"cloudtaser-init-1" + h
    assert bootstrap.return_signature_message(h) == b"cloudtaser-return-1" + h


def test_every_message_is_read_back_as_it_was_written() -> None:
    assert InitRequest.decode(INIT.encode()) == INIT
    assert InitAnswer.decode(ANSWER.encode()) == ANSWER
    assert decode_answer(ANSWER.encode()) == ANSWER
    assert ReturnProof.decode(PROOF.encode()) == PROOF
    assert ReturnRequest.decode(RETURN.encode()) == RETURN
    refusal = Refusal("busy", "another bridge is at it")
    assert Refusal.decode(refusal.encode()) == decode_answer(refusal.encode()) == refusal


def test_the_messages_have_the_fields_of_the_specification() -> None:
    assert set(json.loads(INIT.encode())) == {
        "v", "fingerprint", "csr", "sig", "token", "issuer", "jwks", "cluster_ca", "subject",
    }  # fmt: skip
    assert set(json.loads(ANSWER.encode())) == {"v", "tunnel_ca", "pod_ca", "cert", "info_hash", "space"}
    assert set(json.loads(RETURN.encode())) == {"v", "fingerprint", "csr", "token"}
    assert set(json.loads(Refusal("busy", "x").encode())) == {"error", "message"}


def test_no_token_shows_when_a_message_is_printed() -> None:
    token = "aaaa.canary.cccc"
    assert "canary" not in repr(replace(INIT, token=token))
    assert "canary" not in repr(replace(RETURN, token=token))


def changed(message: bytes, /, **fields: object) -> bytes:
    document = json.loads(message)
    document.update(fields)
    return json.dumps(document).encode()


def test_unknown_fields_are_ignored() -> None:
    assert InitRequest.decode(changed(INIT.encode(), later=[1, {"a": 2}])) == INIT


@pytest.mark.parametrize("version", [2, 0, -1, 10**30])
def test_another_version_is_refused_in_one_clear_line(version: int) -> None:
    for decode, message in (
        (InitRequest.decode, INIT),
        (decode_answer, ANSWER),
        (ReturnRequest.decode, RETURN),
    ):
        with pytest.raises(ProtocolError, match=r"speaks version .* upgrade the older") as refused:
            decode(changed(message.encode(), v=version))
        assert "\n" not in refused.value.diagnostic()


@pytest.mark.parametrize("version", [None, True, 1.0, "1", [1]])
def test_a_message_without_a_proper_version_is_refused(version: object) -> None:
    with pytest.raises(ProtocolError, match="version"):
        InitRequest.decode(changed(INIT.encode(), v=version))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fingerprint", FP.upper()),
        ("fingerprint", None),
        ("csr", CERT),
        ("csr", KEY),
        ("csr", CSR + CSR),
        ("csr", CSR + KEY),
        ("csr", "x" + CSR),
        ("csr", CSR.replace("AAAA", "A" * 40_000)),
        ("sig", "not base64!"),
        ("sig", ""),
        ("sig", "A" * 2000),
        ("sig", 7),
        ("token", "a.b"),
        ("token", "a.b.c\n"),
        ("token", "a.b.c.d"),
        ("token", "a" * 20_000 + ".b.c"),
        ("issuer", ""),
        ("issuer", "https://a b"),
        ("issuer", "x" * 3000),
        ("jwks", []),
        ("jwks", {}),
        ("jwks", {"keys": []}),
        ("jwks", {"keys": ["x"]}),
        ("jwks", {"keys": [{}] * 65}),
        ("cluster_ca", KEY),
        ("cluster_ca", CERT + KEY),
        ("cluster_ca", ""),
        ("subject", "a\nb"),
        ("subject", "\ud800"),
    ],
)
def test_a_field_that_is_not_what_it_should_be_is_refused(name: str, value: object) -> None:
    with pytest.raises(ProtocolError):
        InitRequest.decode(changed(INIT.encode(), **{name: value}))


@pytest.mark.parametrize("name", ["tunnel_ca", "pod_ca", "cert", "info_hash", "space"])
@pytest.mark.parametrize("value", [None, "", KEY, "AB" * 32, 1, {"a": 1}])
def test_a_bad_answer_is_refused(name: str, value: object) -> None:
    if name == "space" and value == "AB" * 32:
        value = "a b"
    with pytest.raises(ProtocolError):
        decode_answer(changed(ANSWER.encode(), **{name: value}))


def test_an_answer_says_what_a_rotation_adds_only_while_there_is_one() -> None:
    rotating = replace(ANSWER, endorsement=CERT, former_pod_cas=CERT + CERT)
    assert decode_answer(rotating.encode()) == rotating
    assert set(json.loads(rotating.encode())) - set(json.loads(ANSWER.encode())) == {
        "endorsement",
        "former_pod_cas",
    }


def test_a_key_travels_only_in_its_own_field_and_shows_nowhere() -> None:
    stored = replace(ANSWER, key=KEY)
    assert decode_answer(stored.encode()) == stored
    assert "AAAA" not in repr(InitAnswer(CERT, CERT, CERT, "ab" * 32, "s", key=KEY)).replace(repr(CERT), "")
    for bad in (CERT, KEY + CERT, KEY.replace("PRIVATE", "EC PRIVATE"), 1, None):
        with pytest.raises(ProtocolError):
            decode_answer(changed(ANSWER.encode(), key=bad))


def test_another_version_is_refused_in_words_that_both_sides_can_show() -> None:
    for message, decode in ((INIT, InitRequest.decode), (RETURN, ReturnRequest.decode)):
        with pytest.raises(VersionError, match="version 2 of the bootstrap, this one version 1") as told:
            decode(changed(message.encode(), v=2))
    refusal = Refusal.of_version(told.value, "bridge", "operator")
    assert refusal.message.startswith("the bridge speaks version 1 of the bootstrap, this operator 2")
    assert decode_answer(refusal.encode()) == refusal_in(refusal.encode()) == refusal
    assert (refusal.error, refusal.speaks) == ("version", (1,))
    assert refusal_in(RETURN.encode()) is None


def test_a_refusal_of_a_newer_release_is_a_refusal_all_the_same() -> None:
    newer = b'{"v":7,"error":"not_on_sundays","message":"come\\nback","until":"Monday"}'
    assert decode_answer(newer) == Refusal("not_on_sundays", "come back")


@pytest.mark.parametrize("name", ["endorsement", "former_pod_cas"])
@pytest.mark.parametrize("value", [None, KEY, CERT + KEY, 1, [CERT], "x", CERT * 2000])
def test_what_a_rotation_adds_is_certificates_and_nothing_else(name: str, value: object) -> None:
    with pytest.raises(ProtocolError):
        decode_answer(changed(ANSWER.encode(), **{name: value}))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b'{"v":1,"v":1}',
        b'{"error":"busy","error":"denied","message":""}',
        b'{"error":"So sorry","message":""}',
        b'{"error":"version","message":"","speaks":2}',
        b'{"error":"version","message":"","speaks":["2"]}',
        b'{"error":"busy"}',
        b'{"error":"busy","message":1}',
        b'{"error":"busy","message":"x","cert":"y"}',
        b'{"v":1}',
        b"{" * 100_000,
        b"[" * 60_000,
        b'{"v":1,"x":' + b"9" * 5000 + b"}",
        b'{"v":1e400}',
        b"\xef\xbb\xbf{}",
        b" " * (MAX_PAYLOAD + 1),
    ],
)
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_answer(data)


def test_a_duplicate_key_is_refused_at_any_depth() -> None:
    data = INIT.encode().replace(b'"kty":"RSA"', b'"kty":"RSA","kty":"oct"')
    assert data != INIT.encode()
    with pytest.raises(ProtocolError):
        InitRequest.decode(data)


def test_a_message_too_large_for_one_noise_message_is_not_written() -> None:
    keys = {"keys": [{"n": "x" * 1100} for _ in range(64)]}
    with pytest.raises(ProtocolError, match="fit"):
        replace(INIT, jwks=keys).encode()


def test_a_refusal_is_shown_as_one_printable_line() -> None:
    refusal = decode_answer(b'{"error":"denied","message":"no\\n\\u001b[31mred\\u0007  here"}')
    assert refusal == Refusal("denied", "no [31mred here")
    assert isinstance(refusal, Refusal)
    long = Refusal.decode(Refusal("denied", "x\n" * 10_000).encode())
    assert len(long.message) <= 512


@given(st.binary(max_size=300))
def test_any_bytes_give_a_message_or_a_typed_error(data: bytes) -> None:
    for decode in DECODERS:
        try:
            decode(data)
        except ProtocolError:
            pass


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3),
)


@given(
    st.sampled_from([INIT.encode(), ANSWER.encode(), PROOF.encode(), RETURN.encode()]),
    st.sampled_from(["v", "csr", "sig", "token", "jwks", "cert", "error", "message", "info_hash", "space"]),
    JSON,
)
def test_any_value_in_any_field_gives_a_message_or_a_typed_error(
    message: bytes, name: str, value: object
) -> None:
    for decode in DECODERS:
        try:
            decode(changed(message, **{name: value}))
        except ProtocolError:
            pass


def test_a_whole_first_meeting_runs_over_one_channel() -> None:
    psk, prologue = bootstrap.derive_psk(FP), bootstrap.prologue(ROOM, Mode.INIT)
    operator, bridge = Channel.initiator(psk, prologue), Channel.responder(psk, prologue)
    bridge.receive(operator.data_to_send())
    operator.receive(bridge.data_to_send())
    operator.send(INIT.encode())
    (request,) = bridge.receive(operator.data_to_send())
    assert InitRequest.decode(request) == INIT
    bridge.send(ANSWER.encode())
    (answer,) = operator.receive(bridge.data_to_send())
    assert decode_answer(answer) == ANSWER


def test_a_whole_return_runs_against_an_independent_library() -> None:
    """The other side is a bridge made of another Noise library and plain JSON."""
    psk, prologue = bootstrap.derive_psk(FP), bootstrap.prologue(ROOM, Mode.RETURN)
    operator = Channel.initiator(psk, prologue)
    bridge = NoiseConnection.from_name(PROTOCOL_NAME)
    bridge.set_psks(bytes.fromhex(VECTORS["psk"]))
    bridge.set_prologue(bytes.fromhex(VECTORS["prologues"]["2"]))
    bridge.set_as_responder()
    bridge.start_handshake()

    def framed(message: bytes) -> bytes:
        return len(message).to_bytes(2, "big") + message

    bridge.read_message(operator.data_to_send()[2:])
    proof = json.dumps({"v": 1, "cert": CERT, "sig": "c2ln"}).encode()
    data = framed(bytes(bridge.write_message())) + framed(bytes(bridge.encrypt(proof)))
    assert [ReturnProof.decode(p) for p in operator.receive(data)] == [ReturnProof(CERT, b"sig")]
    assert operator.handshake_hash == bridge.get_handshake_hash()
    operator.send(RETURN.encode())
    request = json.loads(bytes(bridge.decrypt(operator.data_to_send()[2:])))
    assert request == {"v": 1, "fingerprint": FP, "csr": CSR, "token": "a.b.c"}
    answer = {"v": 1, "tunnel_ca": CERT, "pod_ca": CERT, "cert": CERT, "info_hash": "0" * 64, "space": "s"}
    (received,) = operator.receive(framed(bytes(bridge.encrypt(json.dumps(answer).encode()))))
    assert decode_answer(received) == InitAnswer(CERT, CERT, CERT, "0" * 64, "s")
