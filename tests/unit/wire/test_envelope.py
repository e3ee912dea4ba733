"""The unseal envelope: what is sealed for one start of one container opens there and nowhere else."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.errors import ProtocolError
from cloudtaser.secret import Secret
from cloudtaser.wire.envelope import MAX_TOKEN, Recipient, Token, open_envelope, seal
from tests.sealing import FINGERPRINT, OTHER_FINGERPRINT, VECTORS, Authority, p256, public

VECTOR: dict[str, Any] = json.loads(VECTORS.read_text())
MINE = X25519PrivateKey.from_private_bytes(bytes.fromhex(VECTOR["private_key"]))
ME = Recipient(bytes.fromhex(VECTOR["public_key"]), VECTOR["pod_uid"], VECTOR["container"])
AT = datetime(1970, 1, 1) + timedelta(seconds=VECTOR["at"])
CA = x509.load_pem_x509_certificate(VECTOR["authority"].encode())
GOOD = VECTOR["good"]["P-256"].encode()


def opened(envelope: bytes, key: X25519PrivateKey = MINE, whom: Recipient = ME) -> Token:
    return open_envelope(envelope, key, whom, authority=CA, fingerprint=VECTOR["fingerprint"], at=AT)


@pytest.mark.parametrize("name", VECTOR["good"])
def test_the_vectors_open(name: str) -> None:
    assert ME.info().hex() == VECTOR["info"]
    token = opened(VECTOR["good"][name].encode())
    assert token == Token(Secret(VECTOR["token"]), VECTOR["ttl"])


@pytest.mark.parametrize("name", VECTOR["refused"])
def test_the_vectors_with_something_wrong_are_refused(name: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        opened(VECTOR["refused"][name].encode("latin-1"))
    assert VECTOR["token"] not in str(caught.value)


@given(st.data())
def test_a_changed_byte_is_never_accepted(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(GOOD) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != GOOD[at]))
    with pytest.raises(ProtocolError):
        opened(GOOD[:at] + bytes((byte,)) + GOOD[at + 1 :])


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_in_one_way(envelope: bytes) -> None:
    with pytest.raises(ProtocolError):
        opened(envelope)


TOKENS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=MAX_TOKEN)
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True)


@given(TOKENS, st.integers(0, 10**8), NAMES, NAMES, st.booleans())
def test_whatever_is_sealed_opens_for_whom_it_was_sealed(
    text: str, ttl: int, pod: str, container: str, is_edwards: bool
) -> None:
    authority = Authority(AT - timedelta(hours=1))
    key = ed25519.Ed25519PrivateKey.generate() if is_edwards else p256()
    mine = X25519PrivateKey.generate()
    token, whom = Token(Secret(text), ttl), Recipient(public(mine), pod, container)
    envelope = seal(token, whom, authority.leaf(key), key)
    assert text not in envelope.decode() or len(text) < 8
    assert seal(token, whom, authority.leaf(key), key) != envelope

    def receive(key: X25519PrivateKey, whom: Recipient, fingerprint: str = FINGERPRINT) -> Token:
        return open_envelope(
            envelope, key, whom, authority=authority.certificate, fingerprint=fingerprint, at=AT
        )

    assert receive(mine, whom) == token
    other = X25519PrivateKey.generate()
    for wrong, whose, cluster in (
        (mine, Recipient(whom.public_key, pod + "x", container), FINGERPRINT),
        (mine, Recipient(whom.public_key, pod, container + "x"), FINGERPRINT),
        (other, Recipient(public(other), pod, container), FINGERPRINT),
        (other, whom, FINGERPRINT),
        (mine, whom, OTHER_FINGERPRINT),
    ):
        with pytest.raises(ProtocolError):
            receive(wrong, whose, cluster)


def test_a_zero_key_is_sealed_for_by_nobody() -> None:
    key, authority = p256(), Authority(AT)
    with pytest.raises(ProtocolError, match="agrees on nothing"):
        seal(Token(Secret("s.x"), 1), Recipient(bytes(32), "p", "c"), authority.leaf(key), key)


@pytest.mark.parametrize("text", ["", "a b", "a\nb", "é", "x" * (MAX_TOKEN + 1)])
def test_what_is_no_token_is_not_sealed(text: str) -> None:
    key, authority = p256(), Authority(AT)
    with pytest.raises(ProtocolError):
        seal(Token(Secret(text), 1), ME, authority.leaf(key), key)


@pytest.mark.parametrize(("pod", "container"), [("a\0b", "c"), ("", "c"), ("a", ""), ("a", "b/c")])
def test_a_name_that_could_end_early_is_no_name(pod: str, container: str) -> None:
    with pytest.raises(ProtocolError):
        Recipient(ME.public_key, pod, container).info()
