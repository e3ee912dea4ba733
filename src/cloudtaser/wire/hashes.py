"""Hashes: a cluster's fingerprint, the rooms derived from it and from its CA, and the digits people compare.

Used by every program that enters a room or names a cluster. All derivations are those of spec/wire.md,
"Hashes and rooms", with test vectors in `tests/vectors/hashes.json`.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from cloudtaser.errors import UsageError

ROOM_SIZE: Final = 32
ROUTE_KEY_DIGITS: Final = 8

_FINGERPRINT: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)
_SHOWN: Final = 80


def is_fingerprint(text: str) -> bool:
    """Whether `text` is a lower-case UUID, the form in which a fingerprint enters every hash."""
    return _FINGERPRINT.fullmatch(text) is not None


def check_fingerprint(text: str) -> str:
    """`text` itself when it is a fingerprint; else UsageError naming it."""
    if not is_fingerprint(text):
        raise UsageError(
            f"not a cluster fingerprint: {text[:_SHOWN]!r}",
            fix="give the UID of namespace kube-system, a lower-case UUID such as "
            "3f1c8a52-7c7e-4e0b-9d5e-0c6f2b7a1d34",
        )
    return text


def short_fingerprint(fingerprint: str) -> str:
    """The first 8 characters: what names the cluster's space, audiences and log lines."""
    return fingerprint[:8]


def init_room(fingerprint: str) -> bytes:
    """The 32-byte room where an operator that knows only its fingerprint meets a bridge."""
    return hashlib.sha256(b"cloudtaser-init:" + fingerprint.encode()).digest()


def operational_room(tunnel_ca_der: bytes) -> bytes:
    """The 32-byte room of the tunnels: SHA-256 of the tunnel CA's DER."""
    return hashlib.sha256(tunnel_ca_der).digest()


def return_room(tunnel_ca_der: bytes) -> bytes:
    """The 32-byte room where an operator that holds the tunnel CA comes back."""
    return hashlib.sha256(b"cloudtaser-return:" + tunnel_ca_der).digest()


def route_key(room: bytes) -> str:
    """8 hex digits for the SNI's first label: picks a beacon of a fleet without showing the room."""
    return hashlib.sha256(b"cloudtaser-route:" + room).hexdigest()[:ROUTE_KEY_DIGITS]


def pod_ca_label(pod_ca_der: bytes) -> str:
    """8 hex digits naming a pod CA: the first label of the SNI that a wrapper sends."""
    return hashlib.sha256(pod_ca_der).hexdigest()[:8]


def spki_pin(spki_der: bytes) -> str:
    """The public pin of a SubjectPublicKeyInfo, as `operator.bridgePin` carries it."""
    return "spki-sha256:" + hashlib.sha256(spki_der).hexdigest()
