"""Challenges: what a registry wants to be shown, from its WWW-Authenticate fields.

Used by `auth`. Pure. (RFC 9110 §11.6.1; distribution's token authentication.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

MAX_FIELD: Final = 4096
_WORD: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER: Final = re.compile(rf'({_WORD})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_WORD}))', re.ASCII)
_SCHEME: Final = re.compile(rf"({_WORD})(?:[ \t]+|$|(?=,))", re.ASCII)
_SEPARATORS: Final = re.compile(r"[ \t,]*", re.ASCII)
_SCOPE: Final = re.compile(r"repository:([a-z0-9][a-z0-9._/-]{0,254}):([a-z*]+(?:,[a-z*]+)*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate; scheme and parameters' names in lower case."""

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict)


def parse_challenges(fields: Iterable[str]) -> tuple[Challenge, ...]:
    """All challenges of the header fields, in order. What is not understood ends the reading of its field."""
    found: list[Challenge] = []
    for text in fields:
        found.extend(_field(text[:MAX_FIELD]))
    return tuple(found)


def repository_of(scope: str) -> str | None:
    """The repository that a challenge's scope asks to read, or None."""
    match = _SCOPE.fullmatch(scope.strip())
    return match[1] if match and {"pull", "*"} & set(match[2].split(",")) else None


def _field(text: str) -> list[Challenge]:
    found: list[Challenge] = []
    at = _SEPARATORS.match(text).end()  # type: ignore[union-attr]  # matches nothing as well
    while at < len(text):
        parameter = _PARAMETER.match(text, at)
        if parameter is not None and found:
            quoted, plain = parameter[2], parameter[3]
            value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
            found[-1].parameters.setdefault(parameter[1].lower(), value)
            at = parameter.end()
        else:
            scheme = _SCHEME.match(text, at)
            if scheme is None:
                break
            found.append(Challenge(scheme[1].lower()))
            at = scheme.end()
        at = _SEPARATORS.match(text, at).end()  # type: ignore[union-attr]
    return found
