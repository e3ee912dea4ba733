"""Refusal: a request that the bridge does not pass on, and why.

Raised by `target` and `token_forms` for a head (`gate` makes a verdict of it), and by `admission`, `bodies`,
`login`, `passage` and `identification` after that; `turn` makes the answer and the audit's word of it.
"""

from __future__ import annotations

from cloudtaser.errors import RefusedError


class RequestRefused(RefusedError):
    """HTTP `status` for the caller, one word for the audit, and the seconds after which to come back, if that
    helps. The text never repeats a credential."""

    def __init__(self, status: int, what: str, reason: str, *, wait: float = 0.0) -> None:
        super().__init__(what)
        self.status = status
        self.reason = reason
        self.wait = wait


def too_long(limit: int) -> RequestRefused:
    """Of a body with more than `limit` bytes."""
    return RequestRefused(413, f"the body is longer than {limit} bytes", "body_too_long")
