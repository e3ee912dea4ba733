"""Which strings are OpenBao tokens, and of which namespace."""

from __future__ import annotations

import pytest

from cloudtaser.bridge.refusal import RequestRefused
from cloudtaser.bridge.token_forms import check_token, foreign, token_of, token_suffix
from cloudtaser.bridge.verdict import Kind, Pin


def test_foreign_reads_identifiers_as_openbao_does() -> None:
    assert not foreign("pki/issue/r/dwJV.idAAAA", "idAAAA")
    assert not foreign("s.x.idAAAA", "idAAAA")
    for other in (
        "pki/issue/r/dwJV.idBBBB",
        "pki/issue.idAAAA/r/dwJV",
        "dwJV",
        "",
        ".idAAAA",
        "x.idAAAA/",
        "x.",
    ):
        assert foreign(other, "idAAAA")
    assert token_suffix("s.x.idAAAA") == "idAAAA"
    assert token_suffix("root") == ""


def test_the_token_of_a_request_is_in_one_header() -> None:
    assert token_of({b"x-vault-token": b"s.x"}) == "s.x"
    assert token_of({b"authorization": b"bEARER  s.x"}) == "s.x"
    assert token_of({}) == ""
    for taken in (
        {b"authorization": b"Basic abc"},
        {b"authorization": b"Bearer s.x y"},
        {b"authorization": b"Bearer s.x", b"x-vault-token": b"s.x"},
        {b"x-vault-token": b"s.\xff"},
    ):
        with pytest.raises(RequestRefused):
            token_of(taken)


def test_a_token_is_the_spaces_or_cannot_be_told_yet() -> None:
    pin = Pin("cloudtaser/aaaaaaaa", "idAAAA")
    assert not check_token("s.x.idAAAA", Kind.FORWARD, pin)
    assert check_token("s.x.idBBBB", Kind.FORWARD, Pin("cloudtaser/aaaaaaaa", None))
    for token in ("s.x.idBBBB", "s.x", "root", "eyJh.eyJi.idAAAA"):
        with pytest.raises(RequestRefused) as error:
            check_token(token, Kind.FORWARD, pin)
        assert token not in error.value.diagnostic()
