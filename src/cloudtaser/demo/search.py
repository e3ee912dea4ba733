"""Looking for a secret in bytes that crossed a part, in every form it could have taken there.

Used by the demo ("what the beacon saw") and by the tests that hold beacon, broker, logs and errors to it.
"""

from __future__ import annotations

import base64
import binascii
import json
import urllib.parse
from collections.abc import Iterable, Mapping

_ALIGNMENTS = 3
_SHORTEST_NEEDLE = 6


def forms(secret: bytes) -> dict[str, bytes]:
    """`secret` raw, hex, base64 at each alignment, JSON-escaped and percent-encoded, by the form's name.

    Base64 of a longer text shows the secret differently at each of three alignments, and mixes its ends with
    the neighbours: only what depends on the secret alone is looked for.
    """
    found = {"raw": secret, "hex": binascii.hexlify(secret), "HEX": binascii.hexlify(secret).upper()}
    for offset in range(_ALIGNMENTS):
        encoded = base64.b64encode(b"\0" * offset + secret)
        first = -(-offset * 8 // 6)
        last = (offset + len(secret)) * 8 // 6
        found[f"base64+{offset}"] = encoded[first:last]
        found[f"base64url+{offset}"] = base64.urlsafe_b64encode(b"\0" * offset + secret)[first:last]
    text = secret.decode("utf-8", "replace")
    found["json"] = json.dumps(text)[1:-1].encode()
    found["json-utf8"] = json.dumps(text, ensure_ascii=False)[1:-1].encode()
    found["json-go"] = found["json-utf8"]  # Go escapes what HTML would read
    for letter in b"<>&":
        found["json-go"] = found["json-go"].replace(bytes([letter]), b"\\u%04x" % letter)
    found["json-escaped"] = "".join(
        f"\\u{ord(letter):04x}" for letter in text if ord(letter) < 0x10000
    ).encode()
    found["percent"] = urllib.parse.quote(text, safe="").encode()
    return {name: form for name, form in found.items() if len(form) >= _SHORTEST_NEEDLE}


def occurrences(haystack: bytes, secrets: Mapping[str, bytes] | Iterable[tuple[str, bytes]]) -> list[str]:
    """`<secret's name> as <form>` for each form of each secret that `haystack` holds; empty when blind."""
    items = secrets.items() if isinstance(secrets, Mapping) else secrets
    return [
        f"{name} as {form}"
        for name, secret in items
        for form, needle in forms(secret).items()
        if needle in haystack
    ]
