"""What the Kubernetes API server can answer that a caller has to tell apart.

Raised by `client`; caught by name in `operator`. Each is one line for a person.
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
    """409: somebody else created or changed the object first; read it again."""


class KubeRefusedError(RefusedError):
    """Any other 4xx: the request was understood and not accepted."""


class KubeUnavailableError(UnavailableError):
    """The API server cannot be reached, timed out, or answered 429 or 5xx."""
