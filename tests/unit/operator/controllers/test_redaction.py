"""Redaction: what looks like a credential is struck out, what a person needs stays."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.operator.controllers.redaction import redact, redacted

HEADER = base64.urlsafe_b64encode(json.dumps({"alg": "RS256"}).encode()).decode().rstrip("=")
JWT = f"{HEADER}.eyJhdWQiOiJ4In0.c2lnbmF0dXJlLWNhbmFyeQ"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"the token {JWT} was refused", JWT),
        (f"half of it: {JWT[:30]}", JWT[:30]),
        ("login gave hvs.CAESICanaryCanaryCanary", "CanaryCanary"),
        ("login gave s.CanaryCanaryCanaryCanary", "CanaryCanary"),
        ("Authorization: Bearer canary-opaque-token", "canary-opaque"),
        ("sent 'authorization': 'Basic Y2FuYXJ5OmNhbmFyeQ=='", "Y2FuYXJ5"),
        ("dial https://user:canary@host.example failed", "canary"),
        ("password=canary123, host=db", "canary123"),
        ('{"secret_id": "canary-secret-id"}', "canary-secret-id"),
        ("VAULT_TOKEN=canary-root", "canary-root"),
        ("joinCode: canary-code; join_code=canary-code2", "canary-code2"),
        (f"parked in room {'ab' * 32}", "ab" * 32),
        ("-----BEGIN EC PRIVATE KEY-----\ncanary\n-----END EC PRIVATE KEY-----", "canary"),
        ("-----BEGIN PRIVATE KEY-----\ncanary, cut off", "canary"),
        ("AKIAABCDEFGHIJKLMNOP is the key", "AKIAABCDEFGHIJKLMNOP"),
    ],
)
def test_a_credential_is_struck_out(text: str, secret: str) -> None:
    assert secret not in redact(text)
    assert "[redacted]" in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "cannot reach the API server: Connection refused (https://10.0.0.1:443); check that it is up",
        "registry.example.com/app@sha256:" + "ab" * 32,
        "secret/data/shop/db has no field 'password'",
        "Pod shop/web-7d9f8b6c5d-abcde is not injected",
        "0ad50c05-1153-4508-9237-4cb2912e2c23",
    ],
)
def test_what_a_person_needs_stays(text: str) -> None:
    assert redact(text) == text


def test_every_text_of_a_tree_is_looked_at() -> None:
    tree = {"a": [{"b": f"x {JWT}"}, 5, None, True], "c": "plain"}
    assert redacted(tree) == {"a": [{"b": "x [redacted]"}, 5, None, True], "c": "plain"}


def test_a_text_has_a_bound() -> None:
    assert len(redact("x" * 100_000)) < 5000


@given(st.text(), st.text())
def test_a_token_is_found_wherever_it_stands(before: str, after: str) -> None:
    assert "c2lnbmF0dXJlLWNhbmFyeQ" not in redact(f"{before} {JWT} {after}")
