"""A Secret cannot be seen by accident."""

import json
import pickle

import pytest

from cloudtaser.secret import Secret

CANARY = "hvs.canary-7f3a"


@pytest.mark.parametrize("shown", [str, repr, "{}".format, "{!r:>9}".format, "%s".__mod__])
def test_no_way_of_printing_shows_the_value(shown: object) -> None:
    assert callable(shown)
    text = shown(Secret(CANARY))
    assert CANARY not in text
    assert "***" in text


def test_a_secret_inside_a_container_or_an_exception_is_masked() -> None:
    assert CANARY not in repr({"token": [Secret(CANARY)]})
    assert CANARY not in str(ValueError(Secret(CANARY)))


def test_equal_values_are_equal_and_others_are_not() -> None:
    assert Secret("a") == Secret(b"a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"


def test_it_does_not_leave_the_process_or_serve_as_a_key() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(Secret(CANARY))
    with pytest.raises(TypeError):
        json.dumps(Secret(CANARY))
    with pytest.raises(TypeError):
        hash(Secret(CANARY))


def test_only_reveal_gives_the_bytes() -> None:
    assert Secret("grün").reveal() == "grün".encode()
    assert Secret("grün").reveal_text() == "grün"
    assert not Secret("")
