"""Bodies of requests: small JSON objects of strings, none of which is a secret.

Used by `secrets`, `upkeep` and `diagnosis`. What carries a token is written by `login`, in secret memory.
"""

from cloudtaser.wrapper.buffers import Buffer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_MAX_BODY = 1 << 20


def json_object(members: "Iterable[tuple[str, str | list[str]]]") -> Buffer:
    """{"name": "value", "name": ["value", …]}. Raises OverflowError past a megabyte."""
    body = Buffer(256, _MAX_BODY)
    written = []
    for name, value in members:
        text = _string(value) if isinstance(value, str) else f"[{','.join(map(_string, value))}]"
        written.append(f"{_string(name)}:{text}")
    body.append(f"{{{','.join(written)}}}".encode())
    return body


def _string(text: str) -> str:
    escaped = (f"\\u{ord(letter):04x}" if letter < " " or letter in '"\\\x7f' else letter for letter in text)
    return f'"{"".join(escaped)}"'
