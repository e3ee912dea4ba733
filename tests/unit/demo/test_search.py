"""The search finds a secret in each form that it could take."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.demo.search import occurrences

SECRET = b'p\xc3\xa4ss-w0rd/with+"odd"\\bits'


@pytest.mark.parametrize(
    "shown",
    [
        SECRET,
        SECRET.hex().encode(),
        SECRET.hex().upper().encode(),
        json.dumps({"a": SECRET.decode()}, ensure_ascii=False).encode(),
        json.dumps({"a": SECRET.decode()}).encode(),
    ],
)
def test_each_plain_form_is_found(shown: bytes) -> None:
    assert occurrences(b"noise " + shown + b" noise", {"s": SECRET})


@given(st.binary(max_size=20), st.binary(max_size=20), st.binary(min_size=9, max_size=60))
def test_base64_of_any_surroundings_is_found(before: bytes, after: bytes, secret: bytes) -> None:
    assert occurrences(base64.b64encode(before + secret + after), {"s": secret})
    assert occurrences(base64.urlsafe_b64encode(before + secret + after), {"s": secret})


def test_nothing_is_found_where_nothing_is() -> None:
    assert occurrences(b"\x17\x03\x03" + bytes(range(256)) * 40, {"s": SECRET}) == []
