"""Noise: the one handshake `Noise_NNpsk0_25519_ChaChaPoly_SHA256` and the channel framed on it.

Used by `net.frames` for the bootstrap, in both roles. Both sides prove that they know the psk and agree on
fresh keys; nobody between them, the beacon included, reads or changes a byte. (The Noise Protocol Framework,
revision 34; framing of spec/wire.md, "Bootstrap".) Verified against the published vectors and an independent
library.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from cloudtaser.errors import ProtocolError

PROTOCOL_NAME: Final = b"Noise_NNpsk0_25519_ChaChaPoly_SHA256"
KEY_SIZE: Final = 32
TAG_SIZE: Final = 16
MAX_MESSAGE: Final = 65535
MAX_PAYLOAD: Final = MAX_MESSAGE - TAG_SIZE

_HEADER: Final = 2
_HANDSHAKE_MESSAGE: Final = KEY_SIZE + TAG_SIZE  # an ephemeral key and an encrypted empty payload
_FAILED: Final = -1
_LAST_NONCE: Final = 2**64 - 1  # reserved by the framework (§5.1)


class CipherState:
    """One direction's key and nonce (§5.1)."""

    __slots__ = ("_aead", "_nonce")

    def __init__(self, key: bytes) -> None:
        self._aead = ChaCha20Poly1305(key)
        self._nonce = 0

    def encrypt(self, plaintext: bytes, associated: bytes = b"") -> bytes:
        """The ciphertext with its 16-byte tag."""
        return self._aead.encrypt(self._next_nonce(), plaintext, associated)

    def decrypt(self, ciphertext: bytes, associated: bytes = b"") -> bytes:
        """The plaintext. ProtocolError when its tag does not fit: the stream is over then."""
        try:
            return self._aead.decrypt(self._next_nonce(), ciphertext, associated)
        except InvalidTag as error:
            raise ProtocolError("an encrypted message fails its check") from error

    def _next_nonce(self) -> bytes:
        if self._nonce >= _LAST_NONCE:
            raise ProtocolError("a channel has used up its nonces")
        nonce = bytes(4) + self._nonce.to_bytes(8, "little")
        self._nonce += 1
        return nonce


class Handshake:
    """One side of `psk, e` / `e, ee` (§5.3): the initiator writes the first, then reads the second.

    `ephemeral` fixes the private key and is for test vectors only.
    """

    __slots__ = ("_cipher", "_ck", "_ephemeral", "_h", "_initiator", "_psk", "_remote", "_step")

    def __init__(self, initiator: bool, psk: bytes, prologue: bytes, ephemeral: bytes | None = None) -> None:
        if len(psk) != KEY_SIZE:
            raise ValueError(f"a psk has {KEY_SIZE} bytes")
        self._initiator = initiator
        self._psk = psk
        self._ephemeral = (
            X25519PrivateKey.from_private_bytes(ephemeral) if ephemeral else X25519PrivateKey.generate()
        )
        self._remote: X25519PublicKey | None = None
        self._cipher: CipherState | None = None
        self._h = hashlib.sha256(PROTOCOL_NAME).digest()  # the name is longer than a hash
        self._ck = self._h
        self._step = 0
        self._mix_hash(prologue)

    @property
    def done(self) -> bool:
        """Whether both messages have been exchanged."""
        return self._step == 2

    @property
    def hash(self) -> bytes:
        """The 32-byte handshake hash h, which names this one handshake."""
        return self._h

    def write_message(self, payload: bytes = b"") -> bytes:
        """Our message, with `payload` encrypted in it."""
        if self._step != (0 if self._initiator else 1):
            raise ProtocolError("a handshake message out of turn")
        if self._step == 0:
            self._mix_psk()
        public = self._ephemeral.public_key().public_bytes_raw()
        self._mix_public(public)
        if self._step == 1:
            self._mix_exchange()
        self._step += 1
        ciphertext = self._encrypt(payload)
        if len(public) + len(ciphertext) > MAX_MESSAGE:
            raise ProtocolError("a handshake payload too large for one message")
        return public + ciphertext

    def read_message(self, message: bytes) -> bytes:
        """The payload of the other side's message. ProtocolError on any failure, which ends the handshake."""
        if self._step != (1 if self._initiator else 0):
            raise ProtocolError("a handshake message out of turn")
        step, self._step = self._step, _FAILED
        if not _HANDSHAKE_MESSAGE <= len(message) <= MAX_MESSAGE:
            raise ProtocolError("a handshake message of the wrong size")
        if step == 0:
            self._mix_psk()
        public = bytes(message[:KEY_SIZE])
        self._remote = X25519PublicKey.from_public_bytes(public)
        self._mix_public(public)
        if step == 1:
            self._mix_exchange()
        payload = self._decrypt(bytes(message[KEY_SIZE:]))
        self._step = step + 1
        return payload

    def split(self) -> tuple[CipherState, CipherState]:
        """The states for sending and for receiving, after the handshake."""
        if not self.done or self._remote is None:
            raise ProtocolError("a handshake that is not finished")
        first, second = _hkdf(self._ck, b"", 2)
        if self._initiator:
            return CipherState(first), CipherState(second)
        return CipherState(second), CipherState(first)

    def _mix_hash(self, data: bytes) -> None:
        self._h = hashlib.sha256(self._h + data).digest()

    def _mix_key(self, secret: bytes) -> None:
        self._ck, key = _hkdf(self._ck, secret, 2)
        self._cipher = CipherState(key)

    def _mix_psk(self) -> None:
        self._ck, mixed, key = _hkdf(self._ck, self._psk, 3)
        self._mix_hash(mixed)
        self._cipher = CipherState(key)

    def _mix_public(self, public: bytes) -> None:
        self._mix_hash(public)
        self._mix_key(public)  # §9.2: in a psk handshake `e` goes into the key too

    def _mix_exchange(self) -> None:
        assert self._remote is not None
        try:
            shared = self._ephemeral.exchange(self._remote)
        except ValueError as error:  # an all-zero result: a point of low order
            raise ProtocolError("a handshake with a worthless public key") from error
        self._mix_key(shared)

    def _encrypt(self, payload: bytes) -> bytes:
        assert self._cipher is not None
        ciphertext = self._cipher.encrypt(payload, self._h)
        self._mix_hash(ciphertext)
        return ciphertext

    def _decrypt(self, ciphertext: bytes) -> bytes:
        assert self._cipher is not None
        payload = self._cipher.decrypt(ciphertext, self._h)
        self._mix_hash(ciphertext)
        return payload


class Channel:
    """A handshake and then messages, each framed by a 2-byte big-endian length.

    The handshake's own payloads are empty. After a ProtocolError the channel is over: close the connection.
    """

    __slots__ = ("_buffer", "_failed", "_handshake", "_out", "_receiving", "_sending")

    def __init__(self, initiator: bool, psk: bytes, prologue: bytes) -> None:
        self._handshake = Handshake(initiator, psk, prologue)
        self._sending: CipherState | None = None
        self._receiving: CipherState | None = None
        self._buffer = bytearray()
        self._out: list[bytes] = []
        self._failed = False
        if initiator:
            self._queue(self._handshake.write_message())

    @classmethod
    def initiator(cls, psk: bytes, prologue: bytes) -> Channel:
        """The side that speaks first; its first message is queued at once."""
        return cls(True, psk, prologue)

    @classmethod
    def responder(cls, psk: bytes, prologue: bytes) -> Channel:
        """The side that answers."""
        return cls(False, psk, prologue)

    @property
    def established(self) -> bool:
        """Whether payloads can be sent: both sides have shown that they know the psk.

        (The responder has seen the initiator's proof, and the initiator the responder's.)
        """
        return self._sending is not None and not self._failed

    @property
    def handshake_hash(self) -> bytes:
        """h, final once `established`."""
        return self._handshake.hash

    def receive(self, data: bytes) -> list[bytes]:
        """The payloads that `data` completes, in order. ProtocolError on any failure."""
        if self._failed:
            raise ProtocolError("bytes for a channel that has failed")
        self._buffer += data
        try:
            return self._read()
        except ProtocolError:
            self._failed = True
            self._buffer.clear()
            raise

    def send(self, payload: bytes) -> None:
        """Queue one payload of at most 65,519 bytes."""
        if self._sending is None or self._failed:
            raise ProtocolError("a payload for a channel that is not established")
        if len(payload) > MAX_PAYLOAD:
            raise ProtocolError(f"a payload of {len(payload)} bytes; a message holds {MAX_PAYLOAD}")
        self._queue(self._sending.encrypt(payload))

    def data_to_send(self) -> bytes:
        """All that is queued; it is the caller's from now on."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def _read(self) -> list[bytes]:
        payloads: list[bytes] = []
        buffer = self._buffer
        start = 0
        while len(buffer) - start >= _HEADER:
            size = int.from_bytes(buffer[start : start + _HEADER], "big")
            self._check_size(size)
            end = start + _HEADER + size
            if len(buffer) < end:
                break
            message = bytes(buffer[start + _HEADER : end])
            start = end
            if self._receiving is None:
                self._shake(message)
            else:
                payloads.append(self._receiving.decrypt(message))
        del buffer[:start]
        return payloads

    def _check_size(self, size: int) -> None:
        if self._receiving is None and size != _HANDSHAKE_MESSAGE:
            raise ProtocolError("not a handshake of ours")
        if size < TAG_SIZE:
            raise ProtocolError("an encrypted message without its check")

    def _shake(self, message: bytes) -> None:
        try:
            self._handshake.read_message(message)
        except ProtocolError as error:
            raise ProtocolError(
                "the other side does not share our key",
                fix="check that both have the same fingerprint and join code, and meet for the same purpose",
            ) from error
        if not self._handshake.done:
            self._queue(self._handshake.write_message())
        self._sending, self._receiving = self._handshake.split()

    def _queue(self, message: bytes) -> None:
        self._out.append(len(message).to_bytes(_HEADER, "big"))
        self._out.append(message)


def _hkdf(chaining_key: bytes, material: bytes, outputs: int) -> list[bytes]:
    """The framework's HKDF (§4.3): `outputs` keys of 32 bytes."""
    key = hmac.digest(chaining_key, material, "sha256")
    results: list[bytes] = []
    last = b""
    for counter in range(1, outputs + 1):
        last = hmac.digest(key, last + bytes((counter,)), "sha256")
        results.append(last)
    return results
