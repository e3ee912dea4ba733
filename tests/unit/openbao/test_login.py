"""A token is read from anywhere without ever being shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudtaser.errors import ConfigError
from cloudtaser.openbao.login import TokenFile, TokenValue, parse_token
from cloudtaser.secret import Secret


def test_white_space_around_a_token_does_not_count(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("  s.abc\n")
    assert TokenFile(file).read() == Secret("s.abc")
    assert TokenValue(Secret("s.abc")).read() == Secret("s.abc")


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"canary canary", b"canary\ncanary", b"canary\x00", b"x" * 9000]
)
def test_what_is_no_token_is_refused_without_showing_it(content: bytes) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_token(content, "--vault-token")
    assert "canary" not in refused.value.diagnostic()
    assert "--vault-token" in refused.value.diagnostic()


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        TokenFile(tmp_path / "none").read()
