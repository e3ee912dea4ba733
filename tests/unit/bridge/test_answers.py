"""What the bridge says itself."""

from __future__ import annotations

import json
import shlex

from cloudtaser.bridge import answers
from cloudtaser.bridge.tokens import PodIdentity

WEB = PodIdentity("shop", "web", "p", "u", "s", 0.0, "a")
FINGERPRINT = "0ad50c05-0000-4000-8000-000000000001"


def said(body: bytes) -> list[str]:
    found = json.loads(body)["errors"]
    assert all(isinstance(line, str) for line in found)
    return list(found)


def test_a_denied_read_keeps_openbaos_words_and_names_path_and_command() -> None:
    lines = said(
        answers.denied_read(b'{"errors":["permission denied"]}', FINGERPRINT, WEB, "secret/data/other/x")
    )
    assert lines[0] == "permission denied"
    assert "shop/web may not read secret/data/other/x" in lines[1]
    command = f"cloudtaser-cli source allow {FINGERPRINT} --namespace shop --serviceaccount web"
    assert lines[1].endswith(f"{command} --path secret/data/other/x")


def test_a_path_cannot_break_out_of_the_command() -> None:
    path = "secret/data/x; rm -rf ~ '$(id)'"
    line = answers.allow_line(FINGERPRINT, WEB, path)
    assert shlex.split(line)[-1] == path


def test_a_holder_that_is_not_known_leaves_its_place_open() -> None:
    assert "--namespace NAMESPACE --serviceaccount SERVICEACCOUNT" in answers.allow_line(
        FINGERPRINT, None, "x"
    )


def test_a_refused_login_names_role_and_command() -> None:
    body = b'{"errors":["role \\"x\\" could not be found"]}'
    lines = said(answers.refused_login(body, FINGERPRINT, WEB, "x"))
    assert lines[0] == 'role "x" could not be found'
    assert "source allow" in lines[1]
    assert "--path secret/data/shop/NAME" in lines[1]


def test_unavailability_is_one_clear_line() -> None:
    assert answers.unavailable(b'{"errors":["Vault is sealed"]}') == answers.SEALED
    assert "no active node" in answers.unavailable(
        b'{"errors":["local node not active but active cluster node"]}'
    )
    assert answers.unavailable(b'{"errors":["out of\\nspace"]}').endswith("out of space")
    for odd in (b"", b"<html>", b"[]", b'{"errors":7}', b'{"errors":[7]}', b"\xff"):
        assert answers.unavailable(odd) == "OpenBao is unavailable"
