"""Certificates in files: all six settings or none, under either mode's names."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudtaser.bridge.config import Config, parse
from cloudtaser.bridge.config_files import PairFiles
from cloudtaser.errors import ConfigError

NEEDED = ["--vault-addr", "https://127.0.0.1:8200", "--beacon-address", "beacon.example.com:443"]
HASH = "ab" * 32
NAMES = ("tls-cert", "tls-key", "tls-ca", "pod-cert", "pod-key")


@pytest.fixture
def six(tmp_path: Path) -> dict[str, str]:
    for name in NAMES:
        (tmp_path / name).write_text("")
    return {"beacon-info-hash": HASH} | {name: str(tmp_path / name) for name in NAMES}


def read(settings: dict[str, str], **environment: str) -> PairFiles | None:
    flags = [part for name, value in settings.items() for part in (f"--{name}", value)]
    config = parse([*NEEDED, *flags], {"VAULT_TOKEN": "s.token", **environment})
    assert isinstance(config, Config)
    return config.files


def expected(six: dict[str, str]) -> PairFiles:
    return PairFiles(**{name.replace("-", "_"): value for name, value in six.items()})


def test_without_any_the_bridge_serves_what_is_registered() -> None:
    assert read({}) is None


def test_all_six_are_taken_from_flags_twins_or_reverse_modes_names(six: dict[str, str]) -> None:
    assert read(six) == expected(six)
    assert read(six | {"beacon-info-hash": HASH.upper()}) == expected(six)
    twins = {f"CLOUDTASER_BRIDGE_{name.upper().replace('-', '_')}": value for name, value in six.items()}
    assert read({}, **twins) == expected(six)
    aliases = {"client-cert": "tls-cert", "client-key": "tls-key", "ca-cert": "tls-ca"}
    others = {name: value for name, value in six.items() if name not in aliases.values()}
    assert read(others | {alias: six[name] for alias, name in aliases.items()}) == expected(six)
    alias_twins = {
        f"CLOUDTASER_BRIDGE_{alias.upper().replace('-', '_')}": six[name] for alias, name in aliases.items()
    }
    assert read(others, **alias_twins) == expected(six)


@pytest.mark.parametrize("missing", ["beacon-info-hash", *NAMES])
def test_five_of_six_is_one_line_that_names_the_sixth(six: dict[str, str], missing: str) -> None:
    del six[missing]
    with pytest.raises(ConfigError, match=rf"in part \(--{missing}\); .*source pairs"):
        read(six)


@pytest.mark.parametrize("bad", ["", "ab" * 31, "zz" * 32, "sha256:" + "ab" * 32])
def test_what_is_no_hash_is_named_and_not_repeated(six: dict[str, str], bad: str) -> None:
    with pytest.raises(ConfigError, match="--beacon-info-hash") as refused:
        read(six | {"beacon-info-hash": bad})
    assert not bad or bad not in refused.value.diagnostic()


def test_a_file_that_is_not_there_is_named(six: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="--pod-key"):
        read(six | {"pod-key": "/nonexistent"})
