"""Golden files: what a program printed when somebody last looked at it closely, kept word for word.

Used by tests whose subject is text for people or scripts. What differs from run to run (times, hashes,
tokens, addresses) is given a name first, the same one wherever the same value comes again. Set
UPDATE_GOLDEN=1 to write the files anew, and read the difference before it is committed.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent / "golden"

# kinds of values that differ from run to run: each value gets the kind's name and a number of its own
_NUMBERED: Final = (
    (re.compile(r"\b[0-9a-f]{64}\b"), "HASH"),
    (re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "ID"),
    (re.compile(r"(?<![0-9a-f]-)\b[0-9a-f]{12}\b"), "SHORT"),
    (re.compile(r"\b[0-9a-f]{8}\b(?!-[0-9a-f]{4}-)"), "LABEL"),
)
# YAML quotes a value that could be read as a number
_QUOTED: Final = re.compile(r"'([0-9a-f]{8}|[0-9a-f]{12}|[0-9a-f]{64})'")
_OTHERS: Final = (
    (re.compile(r"\b(?:s|hvs)\.[A-Za-z0-9_-]{20,}(?:\.[A-Za-z0-9]+)?"), "TOKEN"),
    (re.compile(r"\b[A-Za-z0-9]{24}\.[A-Za-z0-9]{6}\b"), "ACCESSOR"),
    (re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "TIME"),
    (re.compile(r"\b\d{4}-\d\d-\d\d\b"), "DATE"),
    (re.compile(r"\b[A-Z2-7]{26}\b"), "JOIN-CODE"),
    (re.compile(r"\bauth_jwt_[0-9a-f]{8}\b"), "JWT-ACCESSOR"),
    (re.compile(r"-----BEGIN [A-Z ]+-----[\s\S]+?-----END [A-Z ]+-----(?:\\n)?"), "PEM"),
    (re.compile(r"https?://127\.0\.0\.1:\d+"), "OPENBAO"),
)


class Names:
    """Gives every changing value of one transcript its name. `fixed` are values that the test chose."""

    def __init__(self, fixed: Iterable[str] = ()) -> None:
        self._fixed = frozenset(fixed)
        self._found: dict[str, str] = {}
        self._counts: Counter[str] = Counter()

    def settle(self, text: str) -> str:
        """`text` with names in place of what changes from run to run."""
        text = _QUOTED.sub(r"\1", text)
        for pattern, kind in _OTHERS:
            text = pattern.sub(kind, text)
        for pattern, kind in _NUMBERED:
            text = pattern.sub(lambda match, kind=kind: self._name(kind, match[0]), text)  # type: ignore[misc]
        return text

    def _name(self, kind: str, value: str) -> str:
        if value in self._fixed:
            return value
        if value not in self._found:
            self._counts[kind] += 1
            self._found[value] = f"{kind}-{self._counts[kind]}"
            if kind == "HASH":
                self._found[value[:12]] = f"{self._found[value]}[:12]"
        return self._found[value]


def check(name: str, text: str) -> None:
    """That `text` is what the golden file holds; with UPDATE_GOLDEN=1 it is written there instead."""
    path = FOLDER / name
    if os.environ.get("UPDATE_GOLDEN") == "1":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert path.exists(), f"no golden file {name}: set UPDATE_GOLDEN=1 to write it"
    assert text == path.read_text(), f"differs from tests/golden/{name}; if that is meant, UPDATE_GOLDEN=1"
