"""Strict JSON: one object, read the one way every reader must read it.

Used by `opening`, `bootstrap` and whoever takes JSON from a peer. Duplicate keys, NaN, lone surrogates, bad
UTF-8 and nesting beyond reason are refused, because two parsers could read them differently or not at all.
"""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn

from cloudtaser.errors import ProtocolError

MAX_DEPTH: Final = 16


def parse_object(data: bytes, *, what: str, limit: int) -> dict[str, Any]:
    """The JSON object in `data`, at most `limit` bytes. ProtocolError, naming `what`, on anything else."""
    if len(data) > limit:
        raise ProtocolError(f"{what} is longer than {limit} bytes")
    try:
        value = json.loads(bytes(data).decode(), object_pairs_hook=_once, parse_constant=_no_constant)
        if b"\\u" in data:  # a lone surrogate survives parsing and fails wherever it is next written
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"{what} is not strict JSON") from error
    if not isinstance(value, dict):
        raise ProtocolError(f"{what} is not a JSON object")
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise ProtocolError(f"{what} is nested too deeply")
    return value


def dump_object(value: dict[str, Any]) -> bytes:
    """`value` as compact JSON, in ASCII."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("duplicate key")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _depth(value: object) -> int:
    level: list[object] = [value]
    depth = 0
    while level:
        depth += 1
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return depth
