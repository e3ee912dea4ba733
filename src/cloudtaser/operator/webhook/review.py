"""AdmissionReview v1: what the API server asks and what it is answered, as plain data.

Used by `server` and `service`. Pure. Whatever does not look like a review is refused by one error, so that
garbage costs nothing more than reading it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from cloudtaser.operator.webhook.errors import UnreadableReviewError
from cloudtaser.operator.webhook.patch import Operation

Json = dict[str, Any]

API_VERSION: Final = "admission.k8s.io/v1"
MAX_WARNINGS: Final = 8
MAX_WARNING: Final = 240
"""Letters; the API server cuts at 256, and leaves out what goes beyond 4 KiB in all."""
MAX_MESSAGE: Final = 2000
_MAX_UID: Final = 128


@dataclass(frozen=True, slots=True)
class Review:
    """One question."""

    uid: str
    operation: str
    namespace: str
    name: str
    kind: str
    subresource: str
    dry_run: bool
    object: Json
    old: Json
    """The object as it was; empty when it is made."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said to it; no patch and no message: allowed as it is."""

    allowed: bool = True
    patch: tuple[Operation, ...] = ()
    warnings: tuple[str, ...] = ()
    message: str = ""
    code: int = 403
    audit: Mapping[str, str] | None = None


def read(body: bytes) -> Review:
    """The question in a request's body. UnreadableReviewError."""
    try:
        review = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise UnreadableReviewError("the body is not JSON") from None
    if not isinstance(review, dict) or review.get("kind") != "AdmissionReview":
        raise UnreadableReviewError("the body is no AdmissionReview")
    if review.get("apiVersion") != API_VERSION:
        raise UnreadableReviewError("the review's version is not known", fix=f"ask by {API_VERSION}")
    request = review.get("request")
    if not isinstance(request, dict):
        raise UnreadableReviewError("the review holds no request")
    uid, subject = request.get("uid"), request.get("object")
    if not isinstance(uid, str) or not 0 < len(uid) <= _MAX_UID:
        raise UnreadableReviewError("the request has no uid")
    if not isinstance(subject, dict):
        raise UnreadableReviewError("the request holds no object")
    kind, old = request.get("kind"), request.get("oldObject")
    return Review(
        uid=uid,
        operation=_text(request, "operation"),
        namespace=_text(request, "namespace"),
        name=_text(request, "name"),
        kind=_text(kind, "kind") if isinstance(kind, dict) else "",
        subresource=_text(request, "subResource"),
        dry_run=request.get("dryRun") is True,
        object=subject,
        old=old if isinstance(old, dict) else {},
    )


def write(uid: str, answer: Answer) -> bytes:
    """The answer as a response's body."""
    response: Json = {"uid": uid, "allowed": answer.allowed}
    if answer.patch:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(msgspec.json.encode(list(answer.patch))).decode()
    if answer.warnings:
        response["warnings"] = shortened(answer.warnings)
    if answer.audit:
        response["auditAnnotations"] = dict(answer.audit)
    if not answer.allowed:
        reason = "Invalid" if answer.code == 422 else "Forbidden"
        message = one_line(answer.message)
        response["status"] = {"status": "Failure", "message": message, "reason": reason, "code": answer.code}
    return msgspec.json.encode({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response})


def shortened(warnings: Sequence[str]) -> list[str]:
    """As many and as long as a client shows them; each says whose it is."""
    shown = [_cut("cloudtaser: " + " ".join(warning.split()), MAX_WARNING) for warning in warnings]
    if len(shown) > MAX_WARNINGS:
        left = len(shown) - MAX_WARNINGS + 1
        return [*shown[: MAX_WARNINGS - 1], f"cloudtaser: and {left} more"]
    return shown


def one_line(message: str) -> str:
    """A message as long as it may be, in an answer, a log or an event."""
    return _cut(" ".join(message.split()), MAX_MESSAGE)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _text(holder: Mapping[str, Any], name: str) -> str:
    value = holder.get(name)
    return value if isinstance(value, str) else ""
