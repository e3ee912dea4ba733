"""Announcements: what is read of them, and whose the API server must say they are."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.errors import CloudtaserError, ProtocolError
from cloudtaser.kube.objects import TokenReview
from cloudtaser.operator.tokens.announcement import Announcement, Refusal, judge, read
from cloudtaser.operator.tokens.ports import PodRef

UID = "7a4b1c7e-58f3-4a3c-9a53-0d5a3d1c2b4a"
KEY = bytes(range(32))
JWT = "eyJhbGciOiJFUzI1NiJ9.eyJDQU5BUlkiOiJqd3QifQ.CANARYsignature"
AUDIENCE = "cloudtaser-unseal:0ad50c05"


def body(**changes: Any) -> bytes:
    fields = {
        "v": 2,
        "pod_uid": UID,
        "container": "web",
        "public_key": base64.b64encode(KEY).decode(),
        "jwt": JWT,
    }
    return json.dumps({**fields, **changes}).encode()


def review(**changes: Any) -> TokenReview:
    extra = {
        "authentication.kubernetes.io/pod-name": ("web-0",),
        "authentication.kubernetes.io/pod-uid": (UID,),
    }
    fields: dict[str, Any] = {
        "authenticated": True,
        "username": "system:serviceaccount:shop:web",
        "audiences": (AUDIENCE,),
        "extra": extra,
    }
    return TokenReview(**{**fields, **changes})


def test_an_announcement_is_read_as_the_wrapper_writes_it() -> None:
    announcement = read(body())
    assert (announcement.pod_uid, announcement.container, announcement.public_key) == (UID, "web", KEY)
    assert announcement.jwt.reveal_text() == JWT
    assert JWT not in repr(announcement)


@pytest.mark.parametrize(
    "bad",
    [
        {"v": 1},
        {"v": True},
        {"v": "2"},
        {"more": 1},
        {"pod_uid": ""},
        {"pod_uid": "../x"},
        {"pod_uid": 1},
        {"container": "Web"},
        {"container": "a" * 64},
        {"public_key": base64.b64encode(KEY[:31]).decode()},
        {"public_key": base64.b64encode(KEY).decode() + "\n"},
        {"public_key": base64.b64encode(KEY).decode().rstrip("=")},
        {"public_key": None},
        {"jwt": "s.CANARY"},
        {"jwt": "a.b.c\r\nX: y"},
        {"jwt": "a." + "b" * 20_000 + ".c"},
    ],
    ids=str,
)
def test_what_is_no_announcement_is_refused_without_being_repeated(bad: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError) as caught:
        read(body(**bad))
    assert "CANARY" not in caught.value.diagnostic()


@given(st.binary(max_size=300))
def test_no_bytes_do_anything_but_be_refused(data: bytes) -> None:
    with pytest.raises(CloudtaserError):
        read(data)


def announcement(**changes: Any) -> Announcement:
    return read(body(**changes))


def test_the_announcer_is_whom_the_api_server_says() -> None:
    announcer = judge(announcement(), review(), AUDIENCE)
    assert announcer.pod == PodRef("shop", "web-0", UID)
    assert announcer.service_account == "web"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"authenticated": False, "error": "expired"}, "unauthenticated"),
        ({"audiences": ()}, "audience"),
        ({"audiences": ("cloudtaser:0ad50c05",)}, "audience"),
        ({"audiences": ("cloudtaser-unseal:ffffffff",)}, "audience"),
        ({"username": "admin"}, "unbound"),
        ({"username": "system:serviceaccount:shop:web:more"}, "unbound"),
        ({"extra": {}}, "unbound"),
        ({"extra": {"authentication.kubernetes.io/pod-uid": (UID,)}}, "unbound"),
        (
            {
                "extra": {
                    "authentication.kubernetes.io/pod-name": ("web-0",),
                    "authentication.kubernetes.io/pod-uid": (UID, "other"),
                }
            },
            "unbound",
        ),
        (
            {
                "extra": {
                    "authentication.kubernetes.io/pod-name": ("web-1",),
                    "authentication.kubernetes.io/pod-uid": ("another-uid",),
                }
            },
            "other_pod",
        ),
    ],
)
def test_a_token_that_proves_less_than_the_pod_that_is_named_is_refused(
    changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Refusal) as caught:
        judge(announcement(), review(**changes), AUDIENCE)
    assert caught.value.reason == reason
