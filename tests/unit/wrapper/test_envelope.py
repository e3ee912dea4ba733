"""The wrapper's side of the envelope: the shared vectors, every flipped byte, and a key wiped after use."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.errors import ProtocolError
from cloudtaser.secret import Secret
from cloudtaser.wire import envelope as wire
from cloudtaser.wrapper.buffers import Buffer
from cloudtaser.wrapper.envelope import MAX_TOKEN, EnvelopeError, Key, Recipient, open_envelope
from tests.sealing import VECTORS, Authority, p256
from tests.unit.wire.test_envelope import AT

VECTOR: dict[str, Any] = json.loads(VECTORS.read_text())
ME = Recipient(VECTOR["pod_uid"], VECTOR["container"], VECTOR["fingerprint"], VECTOR["authority"])
GOOD = VECTOR["good"]["P-256"].encode()


def vector_key() -> Key:
    """The key of the vectors in the place of a fresh one."""
    key = Key()
    with key._private.view() as private:
        private[:] = bytes.fromhex(VECTOR["private_key"])
    key.public = bytes.fromhex(VECTOR["public_key"])
    return key


def opened(envelope: bytes, key: Key | None = None, me: Recipient = ME) -> bytes:
    body = Buffer(max(1, len(envelope)), 65_536)
    body.append(envelope)
    token = open_envelope(body, key or vector_key(), me, VECTOR["at"])
    return bytes(token.view())


@pytest.mark.parametrize("name", VECTOR["good"])
def test_the_vectors_open(name: str) -> None:
    assert opened(VECTOR["good"][name].encode()) == VECTOR["token"].encode()


@pytest.mark.parametrize("name", VECTOR["refused"])
def test_the_vectors_with_something_wrong_are_refused(name: str) -> None:
    with pytest.raises(EnvelopeError) as caught:
        opened(VECTOR["refused"][name].encode("latin-1"))
    assert VECTOR["token"] not in caught.value.diagnostic()
    assert "\n" not in caught.value.diagnostic()


def test_every_flipped_bit_of_a_byte_is_refused() -> None:
    key = vector_key()
    for at in range(len(GOOD)):
        with pytest.raises(EnvelopeError):
            opened(GOOD[:at] + bytes((GOOD[at] ^ 1 << at % 8,)) + GOOD[at + 1 :], key)


def test_every_truncation_is_refused() -> None:
    key = vector_key()
    for end in range(len(GOOD)):
        with pytest.raises(EnvelopeError):
            opened(GOOD[:end], key)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_one_way(envelope: bytes) -> None:
    with pytest.raises(EnvelopeError):
        opened(envelope)


class Operator:
    """Who signs with a good leaf whatever he likes."""

    def __init__(self) -> None:
        self.authority = Authority(AT)
        self.key = p256()
        self.leaf = self.authority.leaf(self.key)
        self.me = Recipient(ME.pod_uid, ME.container, ME.fingerprint, self.authority.pem())

    def recipient(self, key: Key) -> wire.Recipient:
        return wire.Recipient(key.public, ME.pod_uid, ME.container)

    def envelope(self, key: Key, epk: bytes, ciphertext: bytes) -> bytes:
        message = wire.signed_message(epk, self.recipient(key), ciphertext, self.leaf)
        signature = self.key.sign(message, ec.ECDSA(hashes.SHA256()))
        parts = {"epk": epk, "ct": ciphertext, "leaf": self.leaf, "sig": signature}
        coded = {name: base64.b64encode(part).decode() for name, part in parts.items()}
        return json.dumps({"v": 2} | coded).encode()


@pytest.mark.parametrize("point", ["00" * 32, "01" + "00" * 31, "ecff" + "ff" * 29 + "7f"])
def test_a_point_of_small_order_is_refused_even_when_it_is_signed(point: str) -> None:
    operator, key = Operator(), Key()
    with pytest.raises(EnvelopeError, match="agrees on nothing"):
        opened(operator.envelope(key, bytes.fromhex(point), bytes(40)), key, operator.me)


def test_content_that_does_not_decrypt_is_refused_even_when_it_is_signed() -> None:
    operator, key = Operator(), Key()
    epk = X25519PrivateKey.generate().public_key().public_bytes_raw()
    with pytest.raises(EnvelopeError, match="does not decrypt"):
        opened(operator.envelope(key, epk, bytes(40)), key, operator.me)


@pytest.mark.parametrize(
    "content",
    [
        b'{"token":"s.x"}',
        b'{"token":"s.x","ttl":"1"}',
        b'{"token":"s.x","ttl":-1}',
        b'{"token":"s.x","ttl":1.5}',
        b'{"token":"s.x","ttl":1e3}',
        b'{"token":"s.x","ttl":9999999999}',
        b'{"token":"s.x","ttl":1,"more":1}',
        b'{"token":7,"ttl":1}',
        b'{"token":"","ttl":1}',
        b'{"token":"a b","ttl":1}',
        b'{"token":"a\\u000ab","ttl":1}',
        b'{"token":"\xc3\xa9","ttl":1}',
        b'{"token":"s.x","ttl":1}x',
        b"no json",
    ],
)
def test_content_that_is_no_token_is_refused_by_both_sides(
    content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator, mine = Operator(), X25519PrivateKey.generate()
    key = Key()
    with key._private.view() as private:
        private[:] = mine.private_bytes_raw()
    key.public = mine.public_key().public_bytes_raw()
    monkeypatch.setattr(wire.Token, "plaintext", lambda _: content)
    whom = operator.recipient(key)
    envelope = wire.seal(wire.Token(Secret("-"), 0), whom, operator.leaf, operator.key)
    monkeypatch.undo()
    with pytest.raises(EnvelopeError):
        opened(envelope, key, operator.me)
    with pytest.raises(ProtocolError):
        wire.open_envelope(
            envelope,
            mine,
            whom,
            authority=operator.authority.certificate,
            fingerprint=ME.fingerprint,
            at=AT,
        )


def test_the_longest_token_fits() -> None:
    operator, key = Operator(), Key()
    token = wire.Token(Secret("x" * MAX_TOKEN), wire.MAX_TTL)
    envelope = wire.seal(token, operator.recipient(key), operator.leaf, operator.key)
    assert opened(envelope, key, operator.me) == b"x" * MAX_TOKEN


def test_several_authorities_may_be_pinned_and_a_broken_one_stops_everything() -> None:
    others = Authority(AT).pem(), Authority(AT).pem()
    both = Recipient(ME.pod_uid, ME.container, ME.fingerprint, others[0] + ME.authorities + others[1])
    assert opened(GOOD, me=both) == VECTOR["token"].encode()
    broken = others[0].replace("MII", "MIJ", 1)
    for text in ("", "no PEM", *others, ME.authorities + broken):
        with pytest.raises(EnvelopeError):
            opened(GOOD, me=Recipient(ME.pod_uid, ME.container, ME.fingerprint, text))


def test_a_wiped_key_opens_nothing() -> None:
    key = vector_key()
    key.wipe()
    with pytest.raises(EnvelopeError):
        opened(GOOD, key)


def test_keys_differ_and_have_no_printable_private_half() -> None:
    first, second = Key(), Key()
    assert first.public != second.public
    assert bytes(first._private.view()) not in (bytes(32), first.public)
    assert "***" in repr(first._private)
