"""The configuration names what is wrong, where it came from, and the fix; flags win over their twins."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudtaser.errors import UsageError
from cloudtaser.net.dial import Address
from cloudtaser.operator.config import Config, read
from cloudtaser.operator.settings import Listen
from tests.unit.operator.parties import FINGERPRINT

NEEDED = {
    "--fingerprint": FINGERPRINT,
    "--apiserver": "https://127.0.0.1:6443",
    "--apiserver-ca": "/ca.crt",
    "--apiserver-token-file": "/token",
    "--beacon-address": "beacon.example:443",
}


def flags(**more: str) -> list[str]:
    merged = NEEDED | {"--" + name.replace("_", "-"): value for name, value in more.items()}
    return ["--standalone", *(f"{name}={value}" for name, value in merged.items())]


def parse(**more: str) -> Config:
    return read(flags(**more), {})


def test_defaults() -> None:
    config = parse()
    assert config.listen == Listen("", 8443)
    assert config.admin_listen is None
    assert config.probe_addr == Listen("127.0.0.1", 8081)
    assert config.metrics_addr == Listen("127.0.0.1", 8080)
    assert config.beacons == (Address("beacon.example", 443),)
    assert config.namespace == "cloudtaser-system"
    assert not config.beacon_insecure
    assert not config.join_code
    assert config.id


def test_where_bridges_dial_us_no_beacon_is_needed() -> None:
    given = [flag for flag in flags(reverse_listen=":8444") if not flag.startswith("--beacon-address")]
    config = read(
        given, {"CLOUDTASER_OPERATOR_REVERSE_TLS_CERT": "/c", "CLOUDTASER_OPERATOR_REVERSE_TLS_KEY": "/k"}
    )
    assert config.beacons == ()
    assert config.reverse_listen == Listen("", 8444)
    assert (config.reverse_tls_cert, config.reverse_tls_key) == ("/c", "/k")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"reverse_listen": ":1", "reverse_tls_cert": "/c"}, "--reverse-tls-key is missing"),
        ({"reverse_listen": ":1", "reverse_tls_key": "/k"}, "--reverse-tls-cert is missing"),
        ({"reverse_tls_cert": "/c", "reverse_tls_key": "/k"}, "give --reverse-listen"),
        ({"reverse_listen": "8444"}, "--reverse-listen"),
    ],
)
def test_half_of_a_reverse_port_is_refused(given: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse(**given)


def test_without_a_word_on_what_to_run_it_says_what_exists() -> None:
    with pytest.raises(UsageError, match="`cloudtaser-operator manager` and `broker` in a pod") as caught:
        read([], {})
    assert caught.value.exit_code == 2


def test_every_flag_has_a_twin_and_the_flag_wins(tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.write_text("ABCD\n")
    environment = {
        "CLOUDTASER_OPERATOR_STANDALONE": "true",
        "CLOUDTASER_OPERATOR_LISTEN": "[::1]:9000",
        "CLOUDTASER_OPERATOR_BEACON_INSECURE": "1",
        "CLOUDTASER_OPERATOR_BEACON_CA": "/beacon.crt",
        "CLOUDTASER_OPERATOR_BRIDGE_PIN": "spki-sha256:" + "0a" * 32,
        "CLOUDTASER_OPERATOR_JOIN_CODE_FILE": str(code),
        "CLOUDTASER_OPERATOR_NAMESPACE": "elsewhere",
        "CLOUDTASER_OPERATOR_PROBE_ADDR": "off",
        "CLOUDTASER_OPERATOR_ID": "r1",
        "CLOUDTASER_OPERATOR_LOG_LEVEL": "DEBUG",
        **{
            "CLOUDTASER_OPERATOR_" + name[2:].upper().replace("-", "_"): value
            for name, value in NEEDED.items()
        },
    }
    config = read(["--namespace=mine"], environment)
    assert config.listen == Listen("::1", 9000)
    assert config.beacon_insecure
    assert config.beacon_ca == "/beacon.crt"
    assert config.join_code.reveal() == b"ABCD"
    assert config.namespace == "mine"
    assert config.probe_addr is None
    assert (config.id, config.log_level) == ("r1", "debug")
    assert "ABCD" not in repr(config)


@pytest.mark.parametrize("missing", list(NEEDED))
def test_what_is_missing_is_named_with_its_twin(missing: str) -> None:
    given = [flag for flag in flags() if not flag.startswith(missing + "=")]
    with pytest.raises(UsageError, match=f"{missing} is missing.*CLOUDTASER_OPERATOR_"):
        read(given, {})


@pytest.mark.parametrize(
    ("setting", "value", "why"),
    [
        ("fingerprint", "0AD50C05-1153-4508-9237-4CB2912E2C23", "--fingerprint"),
        ("beacon_address", "nowhere", "--beacon-address"),
        ("listen", "8443", "--listen"),
        ("listen", "::1:80", "--listen"),
        ("listen", "off", "--listen"),
        ("admin_listen", ":8445", "--admin-listen"),
        ("admin_listen", "10.0.0.1:8445", "--admin-listen-anywhere"),
        ("admin_listen", "[::]:8445", "--admin-listen-anywhere"),
        ("probe_addr", ":99999", "--probe-addr"),
        ("bridge_pin", "sha256:00", "--bridge-pin"),
        ("join_code_file", "/nowhere/code", "/nowhere/code"),
        ("log_level", "loud", "--log-level"),
        ("unknown", "1", "--help"),
    ],
)
def test_a_bad_value_names_itself_and_its_source(setting: str, value: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(**{setting: value})
    line = caught.value.diagnostic()
    assert why in line
    assert "\n" not in line
    assert caught.value.exit_code == 2


def test_the_proxy_comes_from_flag_twin_or_https_proxy_and_never_serves_the_own_cluster() -> None:
    environment = {"HTTPS_PROXY": "http://u:canary@a:1", "KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    proxies = read(flags(), environment).proxies
    assert str(proxies.proxy) == "http://a:1"
    for own in ("10.96.0.1", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"):
        assert proxies.route(own, 443) is None
    assert proxies.route("beacon.example", 443) is not None
    assert str(read(flags(proxy="http://b:2"), environment).proxies.proxy) == "http://b:2"
    assert str(read(flags(), {"CLOUDTASER_OPERATOR_PROXY": "http://u:p@c:3"}).proxies.proxy) == "http://c:3"
    assert read(flags(proxy="off"), environment).proxies.proxy is None
    with pytest.raises(UsageError, match="command line") as caught:
        parse(proxy="http://u:canary@b:2")
    assert "canary" not in caught.value.diagnostic()


def test_a_bad_twin_is_blamed_by_its_variable() -> None:
    with pytest.raises(UsageError, match="CLOUDTASER_OPERATOR_BRIDGE_PIN"):
        read(flags(), {"CLOUDTASER_OPERATOR_BRIDGE_PIN": "x"})
    with pytest.raises(UsageError, match="CLOUDTASER_OPERATOR_BEACON_INSECURE"):
        read(flags(), {"CLOUDTASER_OPERATOR_BEACON_INSECURE": "perhaps"})


def test_an_empty_join_code_never_means_none(tmp_path: Path) -> None:
    file = tmp_path / "code"
    file.write_text("\n")
    with pytest.raises(UsageError, match="holds no join code"):
        parse(join_code_file=str(file))


@pytest.mark.parametrize("address", ["127.0.0.1:8445", "[::1]:8445", "localhost:8445", "127.9.9.9:0"])
def test_administrators_come_through_loopback(address: str) -> None:
    assert str(parse(admin_listen=address).admin_listen) == address
    assert read(flags(), {"CLOUDTASER_OPERATOR_ADMIN_LISTEN": address}).admin_listen is not None


def test_administrators_come_from_anywhere_only_when_that_is_said() -> None:
    wide = [*flags(admin_listen=":8445"), "--admin-listen-anywhere"]
    assert read(wide, {}).admin_listen == Listen("", 8445)
    assert parse(admin_listen="off").admin_listen is None
