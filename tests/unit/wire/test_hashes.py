"""Hashes: the vectors, computed by coreutils' sha256sum over literal bytes, and what is no fingerprint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.errors import UsageError
from cloudtaser.wire import hashes

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors" / "hashes.json").read_text())
FINGERPRINT = VECTORS["fingerprint"]
DER = bytes.fromhex(VECTORS["ca_der"])


def test_every_derivation_gives_its_vector() -> None:
    room = hashes.init_room(FINGERPRINT)
    assert room.hex() == VECTORS["init_room"]
    assert hashes.operational_room(DER).hex() == VECTORS["operational_room"]
    assert hashes.return_room(DER).hex() == VECTORS["return_room"]
    assert hashes.route_key(room) == VECTORS["init_route_key"]
    assert hashes.pod_ca_label(DER) == VECTORS["pod_ca_label"]
    assert hashes.spki_pin(DER) == VECTORS["spki_pin"]
    assert hashes.short_fingerprint(FINGERPRINT) == VECTORS["fp8"]


def test_a_fingerprint_is_returned_as_it_is() -> None:
    assert hashes.check_fingerprint(FINGERPRINT) == FINGERPRINT


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        FINGERPRINT.upper(),
        FINGERPRINT[:-1],
        FINGERPRINT + "\n",
        FINGERPRINT.replace("-", ""),
        "{" + FINGERPRINT + "}",
    ],
)
def test_anything_but_a_lower_case_uuid_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        hashes.check_fingerprint(text)
    assert repr(text[:80]) in refused.value.what
    assert "kube-system" in refused.value.fix


@given(st.text())
def test_no_text_does_more_than_be_refused(text: str) -> None:
    if not hashes.is_fingerprint(text):
        with pytest.raises(UsageError):
            hashes.check_fingerprint(text)
