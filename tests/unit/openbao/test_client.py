"""Where OpenBao may be, decided before a token goes anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudtaser.errors import ConfigError
from cloudtaser.openbao.client import OpenBao, check_address
from cloudtaser.openbao.steps import covers
from cloudtaser.secret import Secret


@pytest.mark.parametrize(
    "address",
    ["https://vault.example", "https://vault.example:8200/", "http://127.0.0.1:8200", "http://[::1]:8200",
     "http://localhost:8200", "https://[2001:db8::1]:8200"],
)  # fmt: skip
def test_https_anywhere_and_http_on_this_machine_are_addresses(address: str) -> None:
    assert check_address(address) == address.rstrip("/")


@pytest.mark.parametrize(
    "address",
    ["", "vault.example", "vault.example:8200", "ftp://vault.example", "https://", "https://x:99999", "https://[::1",
     "http://vault.example:8200", "http://10.0.0.1", "http://localhost.example", "https://user:secret@vault.example",
     "https://vault.example/v1/", "https://vault.example?x=1", "ht!tp://x y"],
)  # fmt: skip
def test_anything_else_is_refused_in_one_line_without_a_password(address: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_address(address)
    assert "\n" not in refused.value.diagnostic()
    assert "secret" not in refused.value.diagnostic()


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_bad_authority_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read"):
        OpenBao("https://vault.example", ca_file=str(file), token=Secret("t"))


def test_what_is_stored_covers_what_is_wanted_field_by_field() -> None:
    assert covers({"a": 1, "b": None, "extra": 2}, {"a": 1, "b": []})
    assert covers({"m": {"x": "y"}}, {"m": {"x": "y"}})
    assert not covers({"m": {"x": "y", "more": "z"}}, {"m": {"x": "y"}})
    assert not covers({"a": True}, {"a": False})
    assert not covers({}, {"a": 1})
