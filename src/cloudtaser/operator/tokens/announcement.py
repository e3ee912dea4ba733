"""Announcements: what a sealed wrapper says of itself, and whether its token proves it.

Used by `method`. Pure: bytes and the API server's verdict go in, who it is comes out, or a Refusal. Whoever
reaches the port can send anything, so nothing is believed but what the API server vouches for: that the token
was made for this purpose and is bound to exactly the pod that is named (spec/wire.md, "Unseal envelope").
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final

from cloudtaser.errors import ProtocolError, RefusedError
from cloudtaser.kube.objects import TokenReview
from cloudtaser.operator.tokens.ports import PodRef
from cloudtaser.secret import Secret
from cloudtaser.wire.envelope import KEY_BYTES, VERSION
from cloudtaser.wire.strict_json import parse_object

MAX_BODY: Final = 20_480
"""Bytes; the wrapper sends no more."""
MAX_JWT: Final = 16_384

_MEMBERS: Final = frozenset(("v", "pod_uid", "container", "public_key", "jwt"))
_UID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}", re.ASCII)
_CONTAINER: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_JWT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_USER: Final = re.compile(r"system:serviceaccount:([a-z0-9.-]{1,253}):([a-z0-9.-]{1,253})", re.ASCII)
_POD_NAME: Final = "authentication.kubernetes.io/pod-name"
_POD_UID: Final = "authentication.kubernetes.io/pod-uid"


class Refusal(RefusedError):
    """An announcement that is not believed. `reason` is one word, for the metric."""

    def __init__(self, reason: str, what: str) -> None:
        super().__init__(what)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Announcement:
    """The key of one start of one container, and the token that is to prove whose it is."""

    pod_uid: str
    container: str
    public_key: bytes
    jwt: Secret


@dataclass(frozen=True, slots=True)
class Announcer:
    """Whom the API server says it is."""

    pod: PodRef
    service_account: str


def read(body: bytes) -> Announcement:
    """The announcement in a request's body. ProtocolError when it is none."""
    fields = parse_object(body, what="an announcement", limit=MAX_BODY)
    if fields.get("v") != VERSION or type(fields["v"]) is not int:
        raise ProtocolError("an announcement of another version")
    if set(fields) != _MEMBERS:
        raise ProtocolError("an announcement with other members than v, pod_uid, container, public_key, jwt")
    jwt = fields["jwt"]
    if not isinstance(jwt, str) or len(jwt) > MAX_JWT or not _JWT.fullmatch(jwt):
        raise ProtocolError("an announcement without a token")
    return Announcement(
        _matching(fields["pod_uid"], _UID, "pod UID"),
        _matching(fields["container"], _CONTAINER, "container name"),
        _key(fields["public_key"]),
        Secret(jwt),
    )


def judge(announcement: Announcement, review: TokenReview, audience: str) -> Announcer:
    """Who announced. Refusal unless the token is good, for that audience, and bound to the pod it names."""
    if not review.authenticated:
        raise Refusal("unauthenticated", "the API server does not accept the pod's token")
    if audience not in review.audiences:
        raise Refusal("audience", "the token is not for this purpose")
    user = _USER.fullmatch(review.username)
    names, uids = review.extra.get(_POD_NAME, ()), review.extra.get(_POD_UID, ())
    if user is None or len(names) != 1 or len(uids) != 1:
        raise Refusal("unbound", "the token is not bound to a pod")
    if uids[0] != announcement.pod_uid:
        raise Refusal("other_pod", "the token is another pod's")
    return Announcer(PodRef(user.group(1), names[0], uids[0]), user.group(2))


def _matching(value: object, form: re.Pattern[str], what: str) -> str:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise ProtocolError(f"an announcement without a {what}")
    return value


def _key(value: object) -> bytes:
    """X25519, base64 that could be written no other way."""
    try:
        key = binascii.a2b_base64(value, strict_mode=True) if isinstance(value, str) else b""
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES or base64.b64encode(key).decode() != value:
        raise ProtocolError(f"an announcement without a key of {KEY_BYTES} bytes")
    return key
