"""A refusal says whether a token is dead or merely not permitted."""

from __future__ import annotations

import pytest

from cloudtaser.bridge.seating import is_dead


@pytest.mark.parametrize(
    "body",
    [
        b'{"errors":["permission denied"]}',
        b'{"errors":["2 errors occurred:\\n\\t* permission denied\\n\\t* invalid token\\n\\n"]}',
    ],
)
def test_a_token_that_openbao_does_not_know_is_dead(body: bytes) -> None:
    assert is_dead(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"errors":["1 error occurred:\\n\\t* permission denied\\n\\n"]}',
        b'{"errors":[]}',
        b'{"errors":null}',
        b'["permission denied"]',
        b"permission denied",
        b"",
    ],
)
def test_whatever_else_is_refused_says_nothing_of_the_token(body: bytes) -> None:
    assert not is_dead(body)
