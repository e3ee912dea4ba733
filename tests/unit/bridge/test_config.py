"""Flags and their twins: every bad value names where it came from and what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudtaser.bridge.admin_rules import DEFAULT
from cloudtaser.bridge.config import Config, StatusRequest, parse
from cloudtaser.bridge.config_login import TokenFileLogin
from cloudtaser.errors import ConfigError

NEEDED = ["--vault-addr", "https://127.0.0.1:8200", "--beacon-address", "beacon.example.com:443"]
TOKEN = {"VAULT_TOKEN": "s.canary"}


def read(*flags: str, **environment: str) -> Config:
    config = parse([*NEEDED, *flags], {**TOKEN, **environment})
    assert isinstance(config, Config)
    return config


def test_defaults_are_those_of_the_document() -> None:
    config = read()
    assert (config.poll_interval, config.certificate_ttl, config.drain) == (5.0, 86400.0, 30.0)
    assert config.status_socket == "/run/cloudtaser/bridge.sock"
    assert config.metrics_addr is None
    assert config.bridge_id
    assert not config.beacon_insecure


def test_a_flag_wins_over_its_twin_and_the_twin_over_openbaos_variable() -> None:
    environment = {
        **TOKEN,
        "CLOUDTASER_BRIDGE_VAULT_ADDR": "https://twin.example.com:8200",
        "VAULT_ADDR": "https://fallback.example.com:8200",
        "CLOUDTASER_BRIDGE_BEACON_ADDRESS": "a.example.com:443, b.example.com:8443",
        "CLOUDTASER_BRIDGE_POLL_INTERVAL": "250ms",
        "CLOUDTASER_BRIDGE_BEACON_INSECURE": "true",
    }
    config = parse(["--poll-interval", "2"], environment)
    assert isinstance(config, Config)
    assert config.vault_addr == "https://twin.example.com:8200"
    assert [str(address) for address in config.beacon_addresses] == [
        "a.example.com:443",
        "b.example.com:8443",
    ]
    assert config.poll_interval == 2.0
    assert config.beacon_insecure
    del environment["CLOUDTASER_BRIDGE_VAULT_ADDR"]
    config = parse([], environment)
    assert isinstance(config, Config)
    assert config.vault_addr == "https://fallback.example.com:8200"


def test_the_proxy_comes_from_flag_twin_or_https_proxy_and_no_password_by_flag() -> None:
    environment = {"HTTPS_PROXY": "http://u:canary@a:1", "NO_PROXY": "vault.example"}
    assert str(read(**environment).proxies.proxy) == "http://a:1"
    assert read(**environment).proxies.route("vault.example", 8200) is None
    assert str(read("--proxy", "http://b:2", **environment).proxies.proxy) == "http://b:2"
    assert str(read(CLOUDTASER_BRIDGE_PROXY="http://u:p@c:3").proxies.proxy) == "http://c:3"
    assert read("--proxy", "off", **environment).proxies.proxy is None
    for flags, source in (
        (["--proxy", "http://u:canary@b:2"], "--proxy"),
        (["--proxy", "ftp://canary"], "--proxy"),
    ):
        with pytest.raises(ConfigError, match=source) as caught:
            read(*flags)
        assert "canary" not in caught.value.diagnostic()
    with pytest.raises(ConfigError, match="--proxy-ca"):
        read("--proxy-ca", "/nonexistent")


def test_plain_http_reaches_loopback_only() -> None:
    config = parse(["--vault-addr", "http://127.0.0.1:8200", "--beacon-address", "b:1"], TOKEN)
    assert isinstance(config, Config)
    with pytest.raises(ConfigError, match=r"--vault-addr.*https"):
        parse(["--vault-addr", "http://10.0.0.7:8200", "--beacon-address", "b:1"], TOKEN)


@pytest.mark.parametrize(
    ("flag", "value", "fix"),
    [
        ("--poll-interval", "soon", "30s"),
        ("--poll-interval", "0", "from 0.05s"),
        ("--certificate-ttl", "25h", "86400s"),
        ("--drain", "-3", "30s"),
        ("--id", "Not/An/Id", "lower-case"),
        ("--metrics-addr", "0.0.0.0:9091", "127.0.0.1"),
        ("--metrics-addr", "9091", "port"),
        ("--log-level", "loud", "debug"),
        ("--beacon-ca", "/nonexistent/ca.pem", "file"),
        ("--vault-token-file", "/nonexistent/token", "file"),
        ("--beacon-address", "no-port", "port"),
    ],
)
def test_a_bad_value_names_its_flag_and_the_fix(flag: str, value: str, fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(flag, value)
    line = caught.value.diagnostic()
    assert flag in line
    assert fix in line
    assert "\n" not in line


def test_a_bad_value_in_the_environment_names_the_variable() -> None:
    with pytest.raises(ConfigError, match="CLOUDTASER_BRIDGE_DRAIN"):
        read(CLOUDTASER_BRIDGE_DRAIN="forever")


def test_what_is_missing_is_named_with_its_twin() -> None:
    place = NEEDED.index("--vault-addr")
    with pytest.raises(ConfigError, match="--vault-addr or CLOUDTASER_BRIDGE_"):
        parse(NEEDED[:place] + NEEDED[place + 2 :], TOKEN)


def test_without_a_token_it_says_how_to_make_one() -> None:
    with pytest.raises(ConfigError, match="bridge-token"):
        parse(NEEDED, {})


def test_a_token_file_is_preferred_and_the_token_never_shows(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("s.canary\n")
    config = read("--vault-token-file", str(file))
    assert config.login == TokenFileLogin(str(file))
    assert "canary" not in repr(read())


def test_a_token_is_no_flag() -> None:
    with pytest.raises(ConfigError):
        read("--vault-token", "s.canary")


def test_status_needs_the_socket_only() -> None:
    assert parse(["status"], {}) == StatusRequest("/run/cloudtaser/bridge.sock")
    assert parse(["status", "--status-socket", "/tmp/s"], {}) == StatusRequest("/tmp/s")
    assert parse(["status"], {"CLOUDTASER_BRIDGE_STATUS_SOCKET": "/x"}) == StatusRequest("/x")


def test_about_administrators(tmp_path: Path) -> None:
    plain = read().admin
    assert (plain.token_file, plain.rules, str(plain.rate)) == (None, DEFAULT, "10/100")
    file = tmp_path / "token"
    file.write_text("s.canary")
    told = read(
        "--admin-token-file",
        str(file),
        CLOUDTASER_BRIDGE_ADMIN_ALLOW="identity/*",
        CLOUDTASER_BRIDGE_RATE_ADMIN="1/2",
    ).admin
    assert told.token_file == str(file)
    assert told.rules.lets(b"GET", "identity/entity")
    assert str(told.rate) == "1/2"
    for flag, value in (("token-file", "/nowhere"), ("allow", "sys/raw/*"), ("allow", "*")):
        with pytest.raises(ConfigError, match=f"--admin-{flag}"):
            read(f"--admin-{flag}", value)
