"""The settings: a bad value names its variable and the fix, and nothing later is promised."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.wrapper.addresses import is_loopback, parse_address
from cloudtaser.wrapper.config import Config, bridge_server_name, load, strip
from cloudtaser.wrapper.envmap import SecretPath
from cloudtaser.wrapper.errors import EX_CONFIG, ConfigError

DER = b"\x30\x03\x02\x01\x05"
PEM = f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(DER).decode()}\n-----END CERTIFICATE-----\n"
DIRECT = {"VAULT_ADDR": "https://vault.example:8200", "CLOUDTASER_SECRET_PATHS": "secret/data/app"}
BROKER = DIRECT | {"VAULT_ADDR": "broker://127.0.0.1:8443", "CLOUDTASER_CA": PEM}


def settings(values: dict[str, str]) -> Config:
    return load({name.encode(): value.encode() for name, value in values.items()})


def complaint(values: dict[str, str]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        settings(values)
    assert caught.value.code == EX_CONFIG
    assert "\n" not in caught.value.diagnostic()
    return caught.value


def test_with_nothing_configured_it_is_a_plain_init() -> None:
    assert settings({"HOME": "/"}).endpoint is None
    assert (
        settings({"VAULT_ADDR": "whatever the application needs", "VAULT_TOKEN": "its own"}).endpoint is None
    )


def test_direct_mode_has_the_defaults_of_the_documents() -> None:
    config = settings(DIRECT)
    assert config.endpoint is not None
    assert (config.endpoint.host, config.endpoint.port, config.endpoint.tls, config.endpoint.broker) == (
        "vault.example",
        8200,
        True,
        False,
    )
    assert (config.method, config.mount, config.role) == ("kubernetes", "auth/kubernetes", "default")
    assert config.jwt_file == "/var/run/secrets/cloudtaser.io/token"
    assert config.paths == (SecretPath("secret/data/app"),)
    assert (config.rotation, config.rotation_interval, config.startup_timeout) == ("restart", 30.0, 0.0)


def test_behind_a_broker_the_login_is_at_the_bridge() -> None:
    config = settings(BROKER)
    assert config.mount == "auth/jwt"
    assert (
        bridge_server_name(config.ca_pem)
        == f"{hashlib.sha256(DER).hexdigest()[:8]}.bridge.cloudtaser.internal"
    )


@pytest.mark.parametrize(
    ("change", "variable"),
    [
        ({"VAULT_ADDR": ""}, "VAULT_ADDR"),
        ({"VAULT_ADDR": "vault:8200"}, "VAULT_ADDR"),
        ({"VAULT_ADDR": "ftp://vault"}, "VAULT_ADDR"),
        ({"VAULT_ADDR": "http://vault:8200"}, "VAULT_ADDR"),
        ({"VAULT_ADDR": "https://u:p@vault"}, "VAULT_ADDR"),
        ({"VAULT_ADDR": "https://vault/path"}, "VAULT_ADDR"),
        ({"VAULT_ADDR": "https://vault:0"}, "VAULT_ADDR"),
        ({"VAULT_ADDR": "https://vault:66000"}, "VAULT_ADDR"),
        ({"VAULT_ADDR": "https://vault:"}, "VAULT_ADDR"),
        ({"VAULT_ADDR": "broker://vault"}, "VAULT_ADDR"),
        ({"VAULT_ADDR": "broker://vault:8443"}, "CLOUDTASER_CA"),
        ({"CLOUDTASER_CA": "no pem"}, "CLOUDTASER_CA"),
        ({"CLOUDTASER_SECRET_PATHS": "a//b"}, "CLOUDTASER_SECRET_PATHS"),
        ({"CLOUDTASER_ENV_MAP": "a"}, "CLOUDTASER_ENV_MAP"),
        ({"CLOUDTASER_ENV_MAP": "a=LD_PRELOAD"}, "CLOUDTASER_ENV_MAP"),
        ({"CLOUDTASER_SECRET_PATHS": "", "CLOUDTASER_ENV_MAP": "a=B"}, "CLOUDTASER_ENV_MAP"),
        ({"VAULT_AUTH_METHOD": "approle"}, "VAULT_AUTH_METHOD"),
        ({"VAULT_AUTH_ROLE": "r" * 30_000}, "VAULT_AUTH_ROLE"),
        ({"VAULT_AUTH_METHOD": "token"}, "CLOUDTASER_POD_UID"),
        ({"VAULT_AUTH_METHOD": "token", "VAULT_TOKEN": "a b"}, "VAULT_TOKEN"),
        ({"VAULT_AUTH_MOUNT_PATH": "auth/../x"}, "VAULT_AUTH_MOUNT_PATH"),
        ({"VAULT_AUTH_MOUNT_PATH": "//"}, "VAULT_AUTH_MOUNT_PATH"),
        ({"VAULT_AUTH_MOUNT_PATH": "auth/"}, "VAULT_AUTH_MOUNT_PATH"),
        ({"VAULT_AUTH_MOUNT_PATH": "auth//jwt"}, "VAULT_AUTH_MOUNT_PATH"),
        ({"VAULT_NAMESPACE": "a\r\nX-Evil: 1"}, "VAULT_NAMESPACE"),
        ({"VAULT_SKIP_VERIFY": "maybe"}, "VAULT_SKIP_VERIFY"),
        ({"VAULT_CLIENT_CERT": "/c"}, "VAULT_CLIENT_KEY"),
        ({"VAULT_CLIENT_KEY": "/k"}, "VAULT_CLIENT_CERT"),
        ({"CLOUDTASER_STARTUP_TIMEOUT": "soon"}, "CLOUDTASER_STARTUP_TIMEOUT"),
        ({"CLOUDTASER_STARTUP_TIMEOUT": "1d"}, "CLOUDTASER_STARTUP_TIMEOUT"),
        ({"CLOUDTASER_STARTUP_TIMEOUT": "-1"}, "CLOUDTASER_STARTUP_TIMEOUT"),
        ({"CLOUDTASER_STARTUP_TIMEOUT": "nan"}, "CLOUDTASER_STARTUP_TIMEOUT"),
        ({"CLOUDTASER_ROTATION_INTERVAL": "0"}, "CLOUDTASER_ROTATION_INTERVAL"),
        ({"CLOUDTASER_ROTATION": "sighup"}, "CLOUDTASER_ROTATION"),
        ({"CLOUDTASER_ROTATION": "reload"}, "CLOUDTASER_ROTATION"),
        ({"CLOUDTASER_LOG_LEVEL": "loud"}, "CLOUDTASER_LOG_LEVEL"),
        ({"CLOUDTASER_DELIVERY": "disk"}, "CLOUDTASER_DELIVERY"),
        ({"DB_PASSWORD": "vault:secret/data/db#"}, "DB_PASSWORD"),
        ({"CLOUDTASER_EBPF": "maybe"}, "CLOUDTASER_EBPF"),
        ({"CLOUDTASER_AGENT_SOCKET": "agent.sock"}, "CLOUDTASER_AGENT_SOCKET"),
        ({"CLOUDTASER_AGENT_SOCKET": "/" + "a" * 107}, "CLOUDTASER_AGENT_SOCKET"),
        ({"CLOUDTASER_CONTAINER": "a/b"}, "CLOUDTASER_CONTAINER"),
        ({"CLOUDTASER_REQUIRE_MEMFD_SECRET": "please"}, "CLOUDTASER_REQUIRE_MEMFD_SECRET"),
        ({"CLOUDTASER_TEMPLATE_URL": "postgres://"}, "CLOUDTASER_TEMPLATE_URL"),
        ({"CLOUDTASER_TEMPLATE_LD_AUDIT": "{{a}}"}, "CLOUDTASER_TEMPLATE_LD_AUDIT"),
        ({"CLOUDTASER_TEMPLATE_URL": "{{2.a}}"}, "CLOUDTASER_TEMPLATE_URL"),
        ({"CLOUDTASER_TEMPLATE_URL": "{{a}}", "CLOUDTASER_ENV_MAP": "a=URL"}, "CLOUDTASER_TEMPLATE_URL"),
    ],
)  # fmt: skip
def test_a_bad_value_names_its_variable(change: dict[str, str], variable: str) -> None:
    assert complaint(DIRECT | change).on == variable


def test_a_bad_value_is_not_repeated_where_it_could_be_a_secret() -> None:
    assert "hunter2" not in complaint(DIRECT | {"VAULT_ADDR": "https://user:hunter2@vault"}).diagnostic()
    assert (
        "hunter2"
        not in complaint(DIRECT | {"VAULT_AUTH_METHOD": "token", "VAULT_TOKEN": "hunter2 x"}).diagnostic()
    )


def test_verification_cannot_be_skipped_behind_a_broker() -> None:
    assert complaint(BROKER | {"VAULT_SKIP_VERIFY": "true"}).on == "VAULT_SKIP_VERIFY"


@pytest.mark.parametrize(
    "change",
    [
        {"CLOUDTASER_EBPF": "auto"},
        {"CLOUDTASER_EBPF": "off"},
        {"CLOUDTASER_EBPF": "true"},
        {"CLOUDTASER_EBPF": "required"},
        {"CLOUDTASER_DELIVERY": "auto"},
        {"CLOUDTASER_DELIVERY": "env"},
        {"CLOUDTASER_REQUIRE_MEMFD_SECRET": "false"},
        {"CLOUDTASER_LISTEN_ADDR": ":8199"},
    ],
)
def test_settings_that_ask_for_nothing_more_are_accepted(change: dict[str, str]) -> None:
    settings(DIRECT | change)


SEALED = BROKER | {
    "VAULT_AUTH_METHOD": "token",
    "CLOUDTASER_POD_UID": "7f0c2d54-9d3f-4ef3-8a3e-5f6f2f1f0a11",
    "CLOUDTASER_CONTAINER": "app",
    "CLOUDTASER_FINGERPRINT": "3f1c8a52-7c7e-4e0b-9d5e-0c6f2b7a1d34",
}


def test_method_token_without_a_token_waits_sealed() -> None:
    config = settings(SEALED)
    assert config.is_sealed
    assert not config.allow_plain_unseal
    assert (config.listen, config.operator) == (("", 8199), None)
    assert config.unseal_jwt_file == "/var/run/secrets/cloudtaser.io/unseal-token"
    assert not settings(SEALED | {"VAULT_TOKEN": "s.x"}).is_sealed
    assert not settings(BROKER).is_sealed


@pytest.mark.parametrize(
    ("change", "variable"),
    [
        ({"CLOUDTASER_POD_UID": ""}, "CLOUDTASER_POD_UID"),
        ({"CLOUDTASER_POD_UID": "a b"}, "CLOUDTASER_POD_UID"),
        ({"CLOUDTASER_POD_UID": 'a"b'}, "CLOUDTASER_POD_UID"),
        ({"CLOUDTASER_CONTAINER": ""}, "CLOUDTASER_CONTAINER"),
        ({"CLOUDTASER_FINGERPRINT": ""}, "CLOUDTASER_FINGERPRINT"),
        ({"CLOUDTASER_FINGERPRINT": "3F1C8A52-7C7E-4E0B-9D5E-0C6F2B7A1D34"}, "CLOUDTASER_FINGERPRINT"),
        ({"CLOUDTASER_FINGERPRINT": "3f1c8a52"}, "CLOUDTASER_FINGERPRINT"),
        ({"CLOUDTASER_ALLOW_PLAIN_UNSEAL": "perhaps"}, "CLOUDTASER_ALLOW_PLAIN_UNSEAL"),
        ({"CLOUDTASER_LISTEN_ADDR": "8199"}, "CLOUDTASER_LISTEN_ADDR"),
        ({"CLOUDTASER_LISTEN_ADDR": ":http"}, "CLOUDTASER_LISTEN_ADDR"),
        ({"CLOUDTASER_LISTEN_ADDR": ":65536"}, "CLOUDTASER_LISTEN_ADDR"),
        ({"CLOUDTASER_LISTEN_ADDR": "localhost:8199"}, "CLOUDTASER_LISTEN_ADDR"),
        ({"CLOUDTASER_LISTEN_ADDR": "::1:8199"}, "CLOUDTASER_LISTEN_ADDR"),
        ({"CLOUDTASER_OPERATOR_ADDR": "operator"}, "CLOUDTASER_OPERATOR_ADDR"),
        ({"CLOUDTASER_OPERATOR_ADDR": "operator:0"}, "CLOUDTASER_OPERATOR_ADDR"),
    ],
)
def test_a_sealed_wrapper_must_know_who_it_is(change: dict[str, str], variable: str) -> None:
    assert complaint(SEALED | change).on == variable


@pytest.mark.parametrize(
    ("text", "address"),
    [(":8200", ("", 8200)), ("10.1.2.3:8199", ("10.1.2.3", 8199)), ("[fd00::7]:1", ("fd00::7", 1))],
)
def test_it_listens_where_it_is_told(text: str, address: tuple[str, int]) -> None:
    assert settings(SEALED | {"CLOUDTASER_LISTEN_ADDR": text}).listen == address


def test_a_plain_token_needs_no_identity() -> None:
    direct = DIRECT | {"VAULT_AUTH_METHOD": "token", "CLOUDTASER_ALLOW_PLAIN_UNSEAL": "true"}
    assert settings(direct).is_sealed
    assert complaint(direct | {"CLOUDTASER_OPERATOR_ADDR": "operator:8446"}).on == "CLOUDTASER_POD_UID"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90.0), ("1.5", 1.5), ("5m", 300.0), ("2h", 7200.0), ("10s", 10.0), ("0", 0.0)],
)
def test_durations_are_seconds_or_have_a_unit(text: str, seconds: float) -> None:
    assert settings(DIRECT | {"CLOUDTASER_STARTUP_TIMEOUT": text}).startup_timeout == seconds


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("localhost", True),
        ("::1", True),
        ("127.0.0.1.evil.com", False),
        ("127.1", False),
        ("10.0.0.1", False),
        ("128.0.0.1", False),
    ],
)
def test_plain_http_is_for_loopback_only(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    address = f"http://[{host}]:8200" if ":" in host else f"http://{host}:8200"
    if loopback:
        assert parse_address(address, False).host == host
    else:
        with pytest.raises(ConfigError):
            parse_address(address, False)
    assert parse_address(address, True).tls is False


def test_an_ipv6_address_keeps_its_brackets_in_the_authority() -> None:
    assert parse_address("https://[2001:db8::1]", False).authority() == "[2001:db8::1]:443"


@given(st.text(max_size=40))
def test_any_address_is_read_or_refused(text: str) -> None:
    for scheme in ("", "https://", "broker://"):
        try:
            endpoint = parse_address(scheme + text, False)
        except ConfigError:
            continue
        assert 0 < endpoint.port < 65536
        assert endpoint.host.isascii()


def test_the_application_sees_nothing_that_was_meant_for_the_wrapper() -> None:
    inherited = {
        b"PATH": b"/bin",
        b"VAULT_TOKEN": b"t",
        b"VAULT_FORMAT": b"json",
        b"CLOUDTASER_CA": b"x",
        b"CLOUDTASER_NEW": b"y",
    }
    assert strip(inherited) == {b"PATH": b"/bin", b"VAULT_FORMAT": b"json"}
