"""What OpenBao's refusals mean to a person: status and messages become one line and a fix.

Used by `client`, which raises these; whoever cares for one case catches it here. Several are also a general
error of cloudtaser's (NotAuthorisedError, UnavailableError), so that callers above need not know OpenBao.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cloudtaser.errors import CloudtaserError, NotAuthorisedError, UnavailableError

_PASSING: Final = ((400, "Upgrading from non-versioned"), (500, "transaction commit failed"))
_MAX_MESSAGE: Final = 300  # characters of the server's own words that a line repeats
_CAPABILITY: Final = {
    "GET": "read",
    "LIST": "list",
    "SCAN": "scan",
    "POST": "create and update",
    "PUT": "create and update",
    "PATCH": "patch",
    "DELETE": "delete",
}


class OpenBaoError(CloudtaserError):
    """OpenBao understood the request and did not do it."""

    def __init__(
        self, what: str, *, on: str = "", fix: str = "", status: int = 0, messages: tuple[str, ...] = ()
    ) -> None:
        super().__init__(what, on=on, fix=fix)
        self.status = status
        self.messages = messages

    @property
    def passes(self) -> bool:
        """Whether the same request succeeds in a moment, and this one changed nothing.

        A KV v2 mount may still be in preparation; a storage transaction may have lost against another that
        wrote the same entry, as when two bridges store a cluster's keys at once.
        """
        return any(
            self.status == status and said in text for status, said in _PASSING for text in self.messages
        )


class NotFoundError(OpenBaoError):
    """Nothing is at that path, or the namespace or mount does not exist."""


class CasConflict(OpenBaoError):
    """A check-and-set write came too late: somebody else wrote first."""


class PermissionDenied(OpenBaoError, NotAuthorisedError):
    """The token, if it is one, may not do this."""


class NotServing(OpenBaoError, UnavailableError):
    """Sealed, standby, not initialised, or over a rate limit."""


def error_for(
    status: int, method: str, path: str, namespace: str, answer: Mapping[str, Any], *, address: str
) -> OpenBaoError:
    """The error for an answer of `status` (300 and up)."""
    messages = tuple(_printable(str(text)) for text in answer.get("errors") or ())
    said = "; ".join(messages)
    on = f"{method} {namespace}/{path}" if namespace else f"{method} {path}"
    if status == 403:
        return PermissionDenied(
            "permission denied by OpenBao",
            on=on,
            fix=f"the token must be valid and its policy grant {_capability(method, path)} there",
            status=status,
            messages=messages,
        )
    if status == 404 or (status in (400, 500) and any(said.startswith(text) for text in _ABSENT)):
        return NotFoundError(said or "nothing is there", on=on, status=status, messages=messages)
    if status == 400 and "check-and-set" in said:
        return CasConflict(
            "somebody else changed the record at the same time", on=on, fix="run it again",
            status=status, messages=messages,
        )  # fmt: skip
    if status in (429, 501, 502, 503, 504) or 300 <= status < 400:
        return NotServing(
            _not_serving(status, said), on=address, fix=_NOT_SERVING_FIX.get(status, ""),
            status=status, messages=messages,
        )  # fmt: skip
    return OpenBaoError(said or f"OpenBao answered status {status}", on=on, status=status, messages=messages)


# Of what OpenBao keeps for holders of `sudo`, what we use.
_SUDO: Final = ("sys/leases/lookup/", "sys/leases/revoke-prefix/")


def _capability(method: str, path: str) -> str:
    needed = _CAPABILITY.get(method, method)
    return f"{needed}, and sudo," if path.startswith(_SUDO) else needed


# OpenBao's other words for 404
_ABSENT: Final = ("No secret engine mount at", "No auth engine at", "1 error occurred: * no default issuer")
_NOT_SERVING_FIX: Final = {
    429: "try again later, or raise the quota",
    501: "initialise it with `bao operator init`",
    503: "unseal it with `bao operator unseal`",
}


def _not_serving(status: int, said: str) -> str:
    if status == 503:
        return (
            "OpenBao is sealed" if "sealed" in said.lower() or not said else f"OpenBao is not ready: {said}"
        )
    if status == 501:
        return "OpenBao is not initialised"
    if status == 429:
        return "OpenBao limits the rate of requests"
    if status < 400:
        return "OpenBao is a standby here and redirects; give the active server's or the balancer's address"
    return f"OpenBao cannot answer now (status {status})"


def _printable(text: str) -> str:
    kept = "".join(character if character.isprintable() else " " for character in text[: _MAX_MESSAGE + 1])
    return (
        " ".join(kept.split()) if len(text) <= _MAX_MESSAGE else f"{' '.join(kept.split())[:_MAX_MESSAGE]}…"
    )
