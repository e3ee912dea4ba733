"""Which brokers are dialled and how: by flags, by their twins, for one cluster or for any."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from cloudtaser.bridge.config import Config, parse
from cloudtaser.bridge.config_brokers import Brokers
from cloudtaser.errors import ConfigError
from cloudtaser.net.dial import Address

FINGERPRINT = "0ad50c05-1153-4508-9237-4cb2912e2c23"
NEEDED = ["--vault-addr", "https://127.0.0.1:8200"]


def brokers(*arguments: str, **environment: str) -> Brokers:
    found = parse([*NEEDED, *arguments], {"VAULT_TOKEN": "t"} | environment)
    assert isinstance(found, Config)
    return found.brokers


def test_no_beacon_is_needed() -> None:
    found = parse(NEEDED, {"VAULT_TOKEN": "t"})
    assert isinstance(found, Config)
    assert found.beacon_addresses == ()
    assert found.brokers == Brokers((), "grpc", None, False)


def test_addresses_are_repeated_or_listed_for_any_cluster_or_for_one() -> None:
    found = brokers(
        "--broker-address", f"a:1, {FINGERPRINT}=b:2", "--broker-address", f"{FINGERPRINT}=[::1]:3"
    )
    assert found.of("") == (Address("a", 1),)
    assert found.of(FINGERPRINT) == (Address("b", 2), Address("::1", 3))
    assert found.of("1bd50c05-1153-4508-9237-4cb2912e2c23") == ()


def test_every_flag_has_a_twin(tmp_path: Path) -> None:
    (tmp_path / "ca").touch()
    twins = {"BROKER_ADDRESS": "a:1,b:2", "TRANSPORT": "tls", "OUTER_CA": str(tmp_path / "ca")}
    found = brokers(**{f"CLOUDTASER_BRIDGE_{name}": value for name, value in twins.items()})
    assert found.of("") == (Address("a", 1), Address("b", 2))
    assert dataclasses.replace(found, addresses=()) == Brokers((), "tls", str(tmp_path / "ca"), False)
    assert brokers("--transport", "tls", CLOUDTASER_BRIDGE_OUTER_INSECURE="true").outer_insecure


@pytest.mark.parametrize(
    ("flag", "value", "fix"),
    [
        ("--broker-address", "broker.example.com", "between 1 and 65535"),
        ("--broker-address", "shop=broker:443", "FINGERPRINT=host:port"),
        ("--broker-address", "*.broker.example.com:443", "a wildcard is for beacons"),
        ("--broker-address", " , ", "host:port, or several"),
        ("--transport", "quic", "grpc or tls"),
        ("--outer-ca", "/nonexistent", "give a file"),
        ("--outer-insecure", "", "--transport tls"),
    ],
)
def test_a_bad_value_names_its_flag_and_the_fix(flag: str, value: str, fix: str) -> None:
    with pytest.raises(ConfigError, match=flag) as raised:
        brokers(*filter(None, (flag, value)))
    assert fix in raised.value.diagnostic()
