"""The C extension's cryptography, against the published vectors and an independent library."""

from __future__ import annotations

import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

import _cloudtaser as native


def test_x25519_gives_the_secret_of_the_rfc() -> None:
    mine = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    point = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    shared = bytearray(32)  # RFC 7748, section 5.2
    native.x25519(mine, point, shared)
    assert shared.hex() == "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"


def test_both_ends_agree() -> None:
    mine, yours, first, second = (bytearray(32) for _ in range(4))
    my_public, your_public = native.x25519_generate(mine), native.x25519_generate(yours)
    native.x25519(mine, your_public, first)
    native.x25519(yours, my_public, second)
    assert first == second != bytearray(32)


@pytest.mark.parametrize("point", [bytes(32), b"\1" + bytes(31)])
def test_a_shared_secret_of_zeros_is_refused(point: bytes) -> None:
    mine, shared = bytearray(32), bytearray(b"x" * 32)
    native.x25519_generate(mine)
    with pytest.raises(ValueError):
        native.x25519(mine, point, shared)
    assert shared == bytearray(32)


@pytest.mark.parametrize("sizes", [(31, 32, 32), (32, 33, 32), (32, 32, 31), (0, 32, 32)])
def test_x25519_takes_32_bytes_each(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError):
        native.x25519(bytes(sizes[0]), bytes(sizes[1]), bytearray(sizes[2]))
    with pytest.raises(ValueError):
        native.x25519_generate(bytearray(33))


def test_hkdf_gives_the_key_of_the_rfc() -> None:
    key = bytearray(42)  # RFC 5869, A.1
    info = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9")
    native.hkdf_sha256(b"\x0b" * 22, bytes(range(13)), info, key)
    assert key.hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )


@given(st.binary(min_size=1, max_size=80), st.binary(max_size=80), st.binary(max_size=80))
def test_hkdf_agrees_with_another_library(secret: bytes, salt: bytes, info: bytes) -> None:
    key = bytearray(32)
    native.hkdf_sha256(secret, salt, info, key)
    assert bytes(key) == HKDF(SHA256(), 32, salt, info).derive(secret)


@given(st.binary(min_size=1, max_size=200), st.binary(max_size=80))
def test_gcm_opens_what_another_library_sealed(text: bytes, associated: bytes) -> None:
    key, nonce, out = os.urandom(32), os.urandom(12), bytearray(len(text))
    sealed = AESGCM(key).encrypt(nonce, text, associated)
    native.aes_256_gcm_open(key, nonce, sealed, associated, out)
    assert bytes(out) == text
    for wrong in (
        (key, nonce, sealed[:-1] + bytes((sealed[-1] ^ 1,)), associated),
        (key, nonce, bytes((sealed[0] ^ 1,)) + sealed[1:], associated),
        (key, nonce, sealed, associated + b"x"),
        (bytes(32), nonce, sealed, associated),
    ):
        with pytest.raises(ValueError):
            native.aes_256_gcm_open(*wrong, out)
        assert out == bytes(len(text))  # nothing unauthenticated is left


def test_gcm_writes_only_where_it_may() -> None:
    data = bytearray(64)
    with pytest.raises(ValueError):
        native.aes_256_gcm_open(bytes(32), bytes(12), data, b"", memoryview(data)[:48])
    for key, nonce, size in ((31, 12, 16), (32, 11, 16), (32, 12, 15), (32, 12, 17), (32, 12, 0)):
        with pytest.raises(ValueError):
            native.aes_256_gcm_open(bytes(key), bytes(nonce), bytes(32), b"", bytearray(size))
    with pytest.raises(TypeError):
        native.aes_256_gcm_open(bytes(32), bytes(12), bytes(32), b"", bytes(16))


def test_a_refusal_leaves_nothing_for_tls_to_stumble_over() -> None:
    import ssl

    with pytest.raises(ValueError):
        native.check_leaf(b"no PEM", b"no DER", "x", 0)
    with pytest.raises(ValueError):
        native.verify(b"no DER", b"", b"")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="x.example")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
