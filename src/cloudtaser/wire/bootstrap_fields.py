"""Bootstrap fields: what each field of a bootstrap message may hold.

Used by `bootstrap` for every message, when it is made as well as when it is read. ProtocolError names the
field and never repeats what was in it. Pure.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, Final

from cloudtaser.errors import ProtocolError
from cloudtaser.wire.hashes import is_fingerprint

MAX_KEYS: Final = 64

_MAX_PEM: Final = 32768
_MAX_SIGNATURE: Final = 1024
_MAX_MESSAGE_TEXT: Final = 512
CSR: Final = re.compile(
    r"-----BEGIN CERTIFICATE REQUEST-----\s[A-Za-z0-9+/=\s]+-----END CERTIFICATE REQUEST-----\s*", re.ASCII
)
CERTIFICATES: Final = re.compile(
    r"(?:-----BEGIN CERTIFICATE-----\s[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----\s*)+", re.ASCII
)
PRIVATE_KEY: Final = re.compile(
    r"-----BEGIN PRIVATE KEY-----\s[A-Za-z0-9+/=\s]+-----END PRIVATE KEY-----\s*", re.ASCII
)
CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_MAX_TOKEN: Final = 16384
_PRINTABLE: Final = re.compile(r"[\x21-\x7e]+", re.ASCII)
HEX_HASH: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


def bad_field(name: str) -> ProtocolError:
    """The error of a field that is not what it is for; it never holds the value."""
    return ProtocolError(f"a bootstrap message has a bad {name}")


def text_field(fields: dict[str, Any], name: str) -> str:
    """A field that is text."""
    value = fields.get(name)
    if not isinstance(value, str):
        raise bad_field(name)
    return value


def object_field(fields: dict[str, Any], name: str) -> dict[str, Any]:
    """A field that is an object."""
    value = fields.get(name)
    if not isinstance(value, dict):
        raise bad_field(name)
    return value


def signature_field(fields: dict[str, Any]) -> bytes:
    """Field `sig`, decoded."""
    try:
        return base64.b64decode(text_field(fields, "sig"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad_field("sig") from error


def check_fingerprint(value: str) -> None:
    """ProtocolError unless it is a fingerprint."""
    if not is_fingerprint(value):
        raise bad_field("fingerprint")


def check_pem(value: str, form: re.Pattern[str], name: str) -> None:
    """ProtocolError unless `value` is all of one `form`."""
    if len(value) > _MAX_PEM or not form.fullmatch(value):
        raise bad_field(name)


def check_signature(value: bytes) -> None:
    """ProtocolError unless a signature could have that length."""
    if not 0 < len(value) <= _MAX_SIGNATURE:
        raise bad_field("sig")


def check_token(value: str) -> None:
    """ProtocolError unless it looks like a JWT."""
    if len(value) > _MAX_TOKEN or not _TOKEN.fullmatch(value):
        raise bad_field("token")


def check_text(value: str, name: str, limit: int) -> None:
    """ProtocolError unless it is printable ASCII without blanks, of `limit` characters at most."""
    if len(value) > limit or not _PRINTABLE.fullmatch(value):
        raise bad_field(name)


def check_keys(jwks: dict[str, Any]) -> None:
    """ProtocolError unless it is a set of at least one key and at most MAX_KEYS."""
    keys = jwks.get("keys")
    if (
        not isinstance(keys, list)
        or not 0 < len(keys) <= MAX_KEYS
        or not all(isinstance(k, dict) for k in keys)
    ):
        raise bad_field("jwks")


def one_line(text: str) -> str:
    """`text` as one printable line: it is shown to a person, and comes from the other side."""
    printable = "".join(c if c.isprintable() else " " for c in text[: 2 * _MAX_MESSAGE_TEXT])
    return " ".join(printable.split())[:_MAX_MESSAGE_TEXT]
