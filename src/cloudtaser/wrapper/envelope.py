"""The unseal envelope, version 2, on the receiving side: the one way in for a token from outside.

`sealing` hands over what was posted. The signature is checked before the key is used for anything, and the
token is decrypted straight into secret memory. spec/wire.md, "Unseal envelope, version 2"; the operator's
side, and the same format for tools, is `cloudtaser.wire.envelope`, held to the same vectors.
"""

import binascii

from cloudtaser.wrapper import jsontext
from cloudtaser.wrapper.buffers import Buffer, Span
from cloudtaser.wrapper.config import sha256
from cloudtaser.wrapper.errors import WrapperError
from cloudtaser.wrapper.extension import native
from cloudtaser.wrapper.jsontext import JsonError, Node

VERSION = 2
KEY_BYTES = 32
MAX_ENVELOPE = 8192
MAX_LEAF = 2048
MAX_TOKEN = 2048
MAX_TTL = 10 * 365 * 24 * 3600
INFO = b"cloudtaser/unseal/v2"
SIGNATURE_LABEL = b"cloudtaser/unseal/v2/sig"

_TAG = 16
_NONCE = bytes(12)  # the key is used once
_MAX_PLAINTEXT = MAX_TOKEN + 64
_MAX_SIGNATURE = 256
_MEMBERS = frozenset(("v", "epk", "ct", "leaf", "sig"))
_TOKEN = frozenset(range(33, 127))


class EnvelopeError(WrapperError):
    """Not an envelope for this start of this container. The phrase holds nothing of its content."""


class Recipient:
    """Who this is: the pod, the container, the cluster whose operator may seal, and the authorities (PEM) it
    must be certified by.
    """

    __slots__ = ("authorities", "container", "fingerprint", "pod_uid")

    def __init__(self, pod_uid: str, container: str, fingerprint: str, authorities: str) -> None:
        self.pod_uid = pod_uid
        self.container = container
        self.fingerprint = fingerprint
        self.authorities = authorities

    def info(self) -> bytes:
        """What key and ciphertext are bound to."""
        return INFO + b"\0" + self.pod_uid.encode() + b"\0" + self.container.encode()


class Key:
    """An X25519 key for one sealing. Its private half stays in secret memory until `wipe`."""

    __slots__ = ("_private", "public")

    def __init__(self) -> None:
        self._private = Buffer(KEY_BYTES, KEY_BYTES)
        with self._private.space(KEY_BYTES) as space:
            self.public: bytes = native.x25519_generate(space)
        self._private.advance(KEY_BYTES)

    def agree(self, peer: bytes, shared: memoryview) -> None:
        """Write into `shared` what both keys agree on. Raises ValueError for a point of small order."""
        with self._private.view() as private:
            native.x25519(private, peer, shared)

    def wipe(self) -> None:
        """Nothing that was sealed for this key can be opened any more."""
        self._private.wipe()


def open_envelope(body: Buffer, key: Key, recipient: Recipient, now: int) -> Span:
    """The token in a posted envelope. Raises EnvelopeError, which says what is not right about it.

    `now` is in seconds since the epoch.
    """
    fields = _parse(body, "the envelope")
    if _digits(body, fields.get("v")) != b"2":
        raise EnvelopeError("an envelope of another version")
    if fields.members.keys() != _MEMBERS:
        raise EnvelopeError("an envelope with other members than v, epk, ct, leaf and sig")
    epk = _decode(body, fields, "epk", KEY_BYTES, KEY_BYTES)
    ciphertext = _decode(body, fields, "ct", _TAG + 1, _TAG + _MAX_PLAINTEXT)
    leaf = _decode(body, fields, "leaf", 1, MAX_LEAF)
    signature = _decode(body, fields, "sig", 1, _MAX_SIGNATURE)
    message = signed_message(epk, key.public, recipient, ciphertext, leaf)
    uri = f"cloudtaser://{recipient.fingerprint}/operator"
    try:
        native.check_leaf(recipient.authorities.encode(), leaf, uri, now)
        native.verify(leaf, message, signature)
        plaintext = _decrypt(key, epk, ciphertext, recipient.info())
    except ValueError as error:
        raise EnvelopeError(str(error)) from None
    return _read(plaintext)


def signed_message(epk: bytes, rpk: bytes, recipient: Recipient, ciphertext: bytes, leaf: bytes) -> bytes:
    """What the signature is over: the label, then each part with its length in 4 bytes, big-endian."""
    parts = (
        bytes((VERSION,)),
        epk,
        rpk,
        recipient.pod_uid.encode(),
        recipient.container.encode(),
        ciphertext,
        sha256(leaf),
    )
    return SIGNATURE_LABEL + b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _decrypt(key: Key, epk: bytes, ciphertext: bytes, info: bytes) -> Buffer:
    """The content, in a buffer of its own. Raises ValueError."""
    shared, derived = Buffer(KEY_BYTES, KEY_BYTES), Buffer(KEY_BYTES, KEY_BYTES)
    size = len(ciphertext) - _TAG
    plaintext = Buffer(size, size)
    try:
        with (
            shared.space(KEY_BYTES) as secret,
            derived.space(KEY_BYTES) as aead,
            plaintext.space(size) as text,
        ):
            key.agree(epk, secret)
            native.hkdf_sha256(secret, epk + key.public, info, aead)
            native.aes_256_gcm_open(aead, _NONCE, ciphertext, info, text)
        plaintext.advance(size)
    finally:
        shared.wipe()
        derived.wipe()
    return plaintext


def _read(plaintext: Buffer) -> Span:
    fields = _parse(plaintext, "the envelope's content")
    token, ttl = fields.get("token"), _digits(plaintext, fields.get("ttl"))
    if fields.members.keys() != {"token", "ttl"} or token is None or token.kind != jsontext.STRING:
        raise EnvelopeError("the envelope's content is no token and ttl")
    if not ttl.isdigit() or len(ttl) > 9 or int(ttl) > MAX_TTL:
        raise EnvelopeError("the envelope's content is no token and ttl")
    return read_token(plaintext, token)


def read_token(data: Buffer, node: Node) -> Span:
    """The JSON string `node` as a token. Raises EnvelopeError for what no token looks like."""
    token = jsontext.decode(data, node)
    with token.view() as value:
        if not 0 < len(value) <= MAX_TOKEN or not _TOKEN.issuperset(value):
            raise EnvelopeError("what it holds is no token: up to 2048 printable characters without a blank")
    return token


def _parse(data: Buffer, what: str) -> Node:
    if len(data) > MAX_ENVELOPE:
        raise EnvelopeError(f"{what} is longer than {MAX_ENVELOPE} bytes")
    try:
        node = jsontext.parse(data)
    except JsonError:
        raise EnvelopeError(f"{what} is not strict JSON") from None
    if node.kind != jsontext.OBJECT:
        raise EnvelopeError(f"{what} is not a JSON object")
    return node


def _digits(data: Buffer, node: Node | None) -> bytes:
    """A number as it is written; nothing where there is none."""
    return (
        bytes(data.view(node.start, node.end)) if node is not None and node.kind == jsontext.NUMBER else b""
    )


def _decode(data: Buffer, fields: Node, name: str, low: int, high: int) -> bytes:
    """A member's bytes: base64 (RFC 4648, section 4) that could be written no other way. None is secret."""
    node = fields.members[name]
    text = jsontext.text(data, node).encode() if node.kind == jsontext.STRING else b""
    try:
        value = binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        value = b""
    if not low <= len(value) <= high or binascii.b2a_base64(value, newline=False) != text:
        raise EnvelopeError(f"an envelope whose {name} is not base64 of {low} to {high} bytes")
    return value
