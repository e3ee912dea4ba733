"""Which of OpenBao's answers are held until they are whole."""

from __future__ import annotations

import pytest

from cloudtaser.bridge.response import is_held
from cloudtaser.bridge.verdict import Allowed, Kind
from cloudtaser.openbao.form import Form
from cloudtaser.openbao.layout import Layout, Space

SPACE = Layout(form=Form.MOUNTS).space("8f14e45f-ceea-467f-a3f2-f7d2f1b4b0a1")
READ = Allowed(Kind.FORWARD, b"GET", b"/v1/secret/data/x", (), "secret/data/x")
WRITE = Allowed(Kind.FORWARD, b"PUT", b"/v1/transit/decrypt/x", (), "transit/decrypt/x")
LOGIN = Allowed(Kind.LOGIN, b"POST", b"/v1/auth/jwt/login", (), "auth/jwt/login")
ASKS = Allowed(Kind.INSPECT, b"POST", b"/v1/sys/capabilities-self", (), "sys/capabilities-self")


@pytest.mark.parametrize(
    ("allowed", "space", "status", "held"),
    [
        (READ, None, 200, False),
        (READ, None, 404, False),
        (READ, None, 403, True),
        (WRITE, None, 403, False),
        (WRITE, None, 503, True),
        (LOGIN, None, 200, True),
        (ASKS, None, 200, False),
        (READ, SPACE, 200, False),
        (READ, SPACE, 404, True),
        (WRITE, SPACE, 400, True),
        (ASKS, SPACE, 200, True),
    ],
)
def test_an_answer_is_held_only_where_it_teaches_or_gets_a_line(
    allowed: Allowed, space: Space | None, status: int, held: bool
) -> None:
    assert is_held(allowed, space, status) is held
