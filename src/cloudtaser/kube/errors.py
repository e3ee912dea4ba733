"""What the Kubernetes API server can answer that a caller has to tell apart.

Raised by `transport` and `verbs`; caught by name in `operator`. Each is one line for a person.
"""

from __future__ import annotations

from cloudtaser.errors import CloudtaserError, NotAuthorisedError, RefusedError, UnavailableError


class KubeUnauthorisedError(NotAuthorisedError):
    """401: the API server does not accept the token itself."""


class KubeForbiddenError(NotAuthorisedError):
    """403: the token is good, its ServiceAccount lacks the permission that the message names."""


class NotFoundError(CloudtaserError):
    """404: the object does not exist."""


class ConflictError(RefusedError):
    """409: somebody else created or changed the object first, or owns a field that was applied; read it
    again."""


class GoneError(CloudtaserError):
    """410: the resourceVersion or the list's continuation is too old; list anew."""


class KubeRefusedError(RefusedError):
    """Any other 4xx: the request was understood and not accepted."""


class KubeUnavailableError(UnavailableError):
    """The API server cannot be reached, timed out, or answered 429 or 5xx. `retry_after`: seconds for which
    it asked to be left alone, 0 when it did not."""

    def __init__(self, what: str, *, on: str = "", fix: str = "", retry_after: float = 0.0) -> None:
        super().__init__(what, on=on, fix=fix)
        self.retry_after = retry_after


class AnswerTooLargeError(KubeUnavailableError):
    """The answer is larger than we take; of a list, fewer objects at a time may fit."""
