"""Redaction: nothing that looks like a credential leaves in a report.

Used by `report_controller` on every text of a report, whoever wrote it: event notes and error messages come
from many places. Better a harmless word struck out than a token let through. Pure.
"""

from __future__ import annotations

import re
from typing import Any, Final

STRUCK: Final = "[redacted]"
_MAX_TEXT: Final = 4096
_RULES: Final = (
    re.compile(
        r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL
    ),
    re.compile(r"eyJ[A-Za-z0-9_=-]{4,}(?:\.[A-Za-z0-9_=-]*){0,4}"),  # a JWT, or the beginning of one
    re.compile(r"\b(?:hv[sbr]|[sbr])\.[A-Za-z0-9_-]{16,}"),  # tokens of OpenBao and Vault
    re.compile(r"(?<=://)[^/\s@]+:[^/\s@]+(?=@)"),  # a user and password in a URL
    re.compile(
        r"(?<!sha256:)(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])"
    ),  # a room's hash; an image's digest stays
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bgh[pousr]_[A-Za-z0-9]{20,}"),
)
_VALUES: Final = (
    re.compile(
        r"(?i)(\b(?:authorization|proxy-authorization)\b[\"']?\s*[:=]\s*[\"']?(?:bearer|basic)?\s*)[^\s\"',;]+"
    ),
    re.compile(r"(?i)(\bbearer\s+)[^\s\"',;]{8,}"),
    re.compile(
        r"(?i)((?:password|passwd|secret_?id|client_?secret|token|api_?key|private_?key|join_?code)"
        r"[\"']?\s*[:=]\s*[\"']?)[^\s\"',;&]{3,}"
    ),
)


def redact(text: str) -> str:
    """The text without what looks like a credential, and of bounded length."""
    if len(text) > 2 * _MAX_TEXT:  # not within a word, half of which no rule might know
        text = text[: 2 * _MAX_TEXT].rpartition(" ")[0] + " …"
    for rule in _RULES:
        text = rule.sub(STRUCK, text)
    for rule in _VALUES:
        text = rule.sub(rf"\1{STRUCK}", text)
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "…"


def redacted(value: Any) -> Any:
    """The same of every text in a tree of JSON; keys stay."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redacted(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(entry) for entry in value]
    return value
