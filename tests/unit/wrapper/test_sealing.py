"""Sealing: one key for each sealing, one token for each key, and a log that a flood does not fill."""

from __future__ import annotations

import base64
import json

import pytest

from cloudtaser.wrapper.buffers import Buffer
from cloudtaser.wrapper.envelope import EnvelopeError
from cloudtaser.wrapper.listener import Tally
from cloudtaser.wrapper.loop import Loop
from cloudtaser.wrapper.sealing import NotSealedError, Sealing
from tests.integration.sealed.support import TOKEN, Sealer, recently
from tests.sealing import CONTAINER, FINGERPRINT, POD_UID

AUTHORITY = recently()
SEALER = Sealer.of(AUTHORITY)


def sealing(*, allow_plain: bool = False) -> Sealing:
    return Sealing(POD_UID, CONTAINER, FINGERPRINT, AUTHORITY.pem, allow_plain=allow_plain)


def body(content: bytes) -> Buffer:
    buffer = Buffer(max(1, len(content)), 65_536)
    buffer.append(content)
    return buffer


def taken(sealed: Sealing) -> bytes:
    loop = Loop()
    token = loop.run(loop.spawn(sealed.token(loop.now())))
    return bytes(token.view()) if token is not None else b""  # type: ignore[attr-defined]  # a Span


def test_it_waits_for_a_token_and_has_it_once() -> None:
    sealed = sealing()
    assert taken(sealed) == b""
    sealed.unseal(body(SEALER.envelope(sealed.public_key)))
    assert not sealed.is_sealed
    assert json.loads(sealed.status()) == {"sealed": False}
    assert taken(sealed) == TOKEN.encode()
    assert taken(sealed) == b""  # which seals it again
    assert sealed.is_sealed


def test_each_sealing_has_a_key_of_its_own() -> None:
    sealed = sealing()
    first = sealed.public_key
    envelope = SEALER.envelope(first)
    sealed.seal()
    assert sealed.public_key == first  # it was sealed anyway
    sealed.unseal(body(envelope))
    with pytest.raises(NotSealedError):
        sealed.unseal(body(envelope))
    sealed.seal()
    assert (sealed.count, sealed.public_key == first) == (2, False)
    with pytest.raises(EnvelopeError):
        sealed.unseal(body(envelope))
    assert json.loads(sealed.status()) == {"sealed": True, "public_key": sealed.public_key}


def test_a_token_that_could_not_be_tried_is_kept_for_the_next_attempt() -> None:
    sealed = sealing()
    sealed.unseal(body(SEALER.envelope(sealed.public_key)))
    loop = Loop()
    token = loop.run(loop.spawn(sealed.token(None)))
    sealed.give_back(token)  # type: ignore[arg-type]  # a Span
    assert taken(sealed) == TOKEN.encode()
    sealed.seal()
    sealed.give_back(token)  # type: ignore[arg-type]  # too late: it waits for another one
    assert taken(sealed) == b""


def test_a_failed_attempt_leaves_the_key_as_it_is() -> None:
    sealed = sealing()
    key = sealed.public_key
    for content in (b"", b"{}", b'{"token":"s.x"}', SEALER.envelope(key, container="other")):
        with pytest.raises(EnvelopeError):
            sealed.unseal(body(content))
    sealed.unseal(body(SEALER.envelope(key)))
    assert taken(sealed) == TOKEN.encode()


def test_a_plain_token_counts_where_it_is_allowed() -> None:
    sealed = sealing(allow_plain=True)
    with pytest.raises(EnvelopeError):
        sealed.unseal(body(b'{"token":"a\\u0000b"}'))
    sealed.unseal(body(b'{"token":"s.pl\\u0061in"}'))
    assert taken(sealed) == b"s.plain"


def test_whoever_waits_is_woken_by_the_token_and_by_a_new_sealing() -> None:
    sealed, loop = sealing(), Loop()
    waiting = loop.spawn(sealed.token(None))
    sealed.unseal(body(SEALER.envelope(sealed.public_key)))
    assert loop.run(waiting) is not None
    announcing = loop.spawn(sealed.until_sealed())
    assert not announcing.done
    sealed.seal()
    loop.run(announcing)
    assert len(base64.b64decode(sealed.public_key)) == 32


def test_of_a_flood_some_refusals_are_logged_and_the_others_counted() -> None:
    tally = Tally(0.0)
    assert [tally.line(0.0) for _ in range(50)] == [0] * 50
    assert [tally.line(1.0) for _ in range(1000)] == [None] * 1000
    assert tally.line(6.0) == 1000
    assert tally.line(6.1) is None
