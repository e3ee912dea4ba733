"""Refusal: a request that the bridge does not pass on, after its head was let through.

Raised by `bodies`, `login` and `identification`; `turn` makes the answer and the audit's word of it.
"""

from __future__ import annotations

from cloudtaser.errors import RefusedError


class RequestRefused(RefusedError):
    """HTTP `status` for the caller, and one word for the audit. The text never repeats a credential."""

    def __init__(self, status: int, what: str, reason: str) -> None:
        super().__init__(what)
        self.status = status
        self.reason = reason
