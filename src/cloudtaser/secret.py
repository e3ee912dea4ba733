"""Secret: bytes that must not be seen, from a token to a private key.

Used wherever a secret lives longer than a statement. It prints as `***`, has no length, no iteration and no
ordering, and compares in constant time, so that it cannot reach a log, an error or a metric by accident.
"""

from __future__ import annotations

import hmac
from typing import Final

_MASK: Final = "***"


class Secret:
    """Bytes behind a mask. `reveal()` is the one way to them, and easy to find with grep."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes | str) -> None:
        self._value = value.encode() if isinstance(value, str) else bytes(value)

    def reveal(self) -> bytes:
        """The bytes themselves, for the one call that needs them."""
        return self._value

    def reveal_text(self) -> str:
        """The bytes as UTF-8 text, for interfaces that take text only (headers, JSON)."""
        return self._value.decode()

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]  # a hash would leak through dictionary order and timing

    def __repr__(self) -> str:
        return _MASK

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return _MASK

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a Secret is not pickled")
